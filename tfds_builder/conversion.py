"""All cases to records on disk: on every core, in bounded memory, resumable.

Cases are cut into chunks. A chunk's records lie one after the other in `<name>.records`; what
became of its cases, and where each record lies, in `<name>.json`, which is written last and by a
rename: a chunk that has it is whole. A chunk is named by what it is a function of, so that a build
that was interrupted, or repeated after a file was mended, converts nothing twice.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgpack
from etils import epath

from lungseg_jax import terminal
from tfds_builder.convert import ConvertSettings
from tfds_builder.outcome import Outcome
from tfds_builder.sandbox import Sandbox
from tfds_builder.sources import Case

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

CASES_PER_CHUNK = 32


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Cases that are converted together.

    Attributes:
      name: a hash of the cases' files and the settings.
      cases: in their order.
    """

    name: str
    cases: tuple[Case, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a record lies.

    Attributes:
      example_id: of the record.
      path: of the chunk's records.
      start: first byte.
      length: in bytes.
    """

    example_id: str
    path: str
    start: int
    length: int

    def read(self) -> dict[str, Any]:
        """Returns the record."""
        with epath.Path(self.path).open("rb") as file:
            file.seek(self.start)
            return msgpack.unpackb(file.read(self.length))


@dataclasses.dataclass(frozen=True)
class Converted:
    """What became of all cases.

    Attributes:
      outcomes: of every case, in their order.
      places: of the records of those that were taken, by id.
    """

    outcomes: tuple[Outcome, ...]
    places: dict[str, Place]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The chunks of a data set and the folder they are written to.

    Attributes:
      folder: where chunks are kept until the records are whole.
      settings: of each record.
      fail_fast: whether the first bad file ends the conversion.
    """

    folder: epath.Path
    settings: ConvertSettings
    fail_fast: bool

    def cut(self, cases: Sequence[Case]) -> list[Chunk]:
        """Returns the cases in chunks."""
        chunks = []
        for start in range(0, len(cases), CASES_PER_CHUNK):
            own = tuple(cases[start : start + CASES_PER_CHUNK])
            made_of = json.dumps([repr(self.settings), [_describe(case) for case in own]])
            chunks.append(Chunk(hashlib.sha256(made_of.encode()).hexdigest()[:32], own))
        return chunks

    def is_done(self, chunk: Chunk) -> bool:
        """Whether the chunk is whole."""
        return (self.folder / f"{chunk.name}.json").exists()

    def convert_chunk(
        self, chunk: Chunk, sandbox: Sandbox, after_each: Callable[[], object] = lambda: None
    ) -> None:
        """Converts a chunk's cases and writes them; one case is in memory at a time.

        Raises:
          DataError: a file is bad and the conversion is to fail fast.
        """
        unique = f"{chunk.name}.{os.getpid()}.{threading.get_ident()}"
        partial = self.folder / f"{unique}.partial"
        entries = []
        try:
            with partial.open("wb") as file:
                for case in chunk.cases:
                    outcome, record = sandbox.convert(case, self.settings)
                    if outcome.status == "bad" and self.fail_fast:
                        raise outcome.error()
                    packed = bytes(msgpack.packb(record) or b"") if record else b""
                    place = {"start": file.tell(), "length": len(packed)}
                    entries.append(outcome.to_json() | place)
                    file.write(packed)
                    after_each()
            partial.rename(self.folder / f"{chunk.name}.records")
            partial.write_text(json.dumps(entries))
            partial.rename(self.folder / f"{chunk.name}.json")
        finally:
            partial.unlink(missing_ok=True)

    def collect(self, chunks: Sequence[Chunk]) -> Converted:
        """Returns what became of all cases of chunks that are whole."""
        outcomes, places = [], {}
        for chunk in chunks:
            path = os.fspath(self.folder / f"{chunk.name}.records")
            for entry in json.loads((self.folder / f"{chunk.name}.json").read_text()):
                start, length = entry.pop("start"), entry.pop("length")
                outcome = Outcome.from_json(entry)
                outcomes.append(outcome)
                if outcome.status == "taken":
                    places[outcome.example_id] = Place(outcome.example_id, path, start, length)
        return Converted(tuple(outcomes), places)


def convert_cases(
    cases: Sequence[Case],
    conversion: Conversion,
    beam_options: "PipelineOptions | None" = None,
) -> Converted:
    """Converts what is not yet converted, on all cores or by Apache Beam.

    Raises:
      DataError: a file is bad and the conversion is to fail fast.
    """
    chunks = conversion.cut(cases)
    conversion.folder.mkdir(parents=True, exist_ok=True)
    missing = [chunk for chunk in chunks if not conversion.is_done(chunk)]
    if beam_options is not None:
        # Beam is an extra: only who asks for it needs it.
        from tfds_builder.beam_pipeline import convert_with_beam

        convert_with_beam(conversion, missing, beam_options)
    else:
        done = len(cases) - sum(len(chunk.cases) for chunk in missing)
        with terminal.progress("files", len(cases), "file", done) as bar:
            _convert_on_all_cores(conversion, missing, bar.update)
    converted = conversion.collect(chunks)
    if conversion.fail_fast:
        for outcome in converted.outcomes:
            if outcome.status == "bad":
                raise outcome.error()
    return converted


def _convert_on_all_cores(
    conversion: Conversion, chunks: Sequence[Chunk], after_each: Callable[[], object]
) -> None:
    """Converts chunks by a worker process a core, each fed by a thread that waits for it."""
    workers = max(1, min(len(os.sched_getaffinity(0)), len(chunks)))
    with contextlib.ExitStack() as stack:
        every = [stack.enter_context(Sandbox()) for _ in range(workers)]
        idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        for sandbox in every:
            idle.put(sandbox)

        def job(chunk: Chunk) -> None:
            sandbox = idle.get()
            try:
                conversion.convert_chunk(chunk, sandbox, after_each)
            finally:
                idle.put(sandbox)

        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(workers))
        try:
            for _ in pool.map(job, chunks):
                pass
        finally:
            # After a fault or an interrupt, threads that wait for a worker end with it.
            for sandbox in every:
                sandbox.stop()


def _describe(case: Case) -> list[Any]:
    described: list[Any] = [dataclasses.asdict(case.clinical), case.patient_id, case.spacing_mm]
    for path in (case.image, *(mask.path for mask in case.masks)):
        stat = path.stat()
        described.append([os.fspath(path), stat.length, stat.mtime])
    return described
