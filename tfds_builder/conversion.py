"""Cases to records on disk, in chunks: in bounded memory, resumable.

Cases are cut into chunks. A chunk is a file: its records one after the other, an index of what
became of its cases and where each record lies, and the index's length. It is written beside its
place and renamed, so that an existing one is whole. Its name is a hash of what it is made of: a
build that was interrupted, or repeated after a file was fixed, does not convert the other chunks
again.
"""

import dataclasses
import hashlib
import json
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack
from etils import epath

from lungseg_jax.errors import DataError
from tfds_builder.convert_case import ConvertSettings, convert_case
from tfds_builder.digest import stamp
from tfds_builder.outcome import Outcome
from tfds_builder.sandbox import Sandbox, Sandboxes
from tfds_builder.sources import Case

CASES_PER_CHUNK = 16

_INDEX_LENGTH = struct.Struct("<Q")


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
      key_folder: where the secret of the settings is kept.
      fail_fast: whether the first bad file ends the conversion.
    """

    folder: epath.Path
    settings: ConvertSettings
    key_folder: epath.Path
    fail_fast: bool

    def cut(self, cases: Sequence[Case]) -> list[Chunk]:
        """Returns the cases in chunks."""
        chunks = []
        for start in range(0, len(cases), CASES_PER_CHUNK):
            chunk_cases = tuple(cases[start : start + CASES_PER_CHUNK])
            made_of = [self.settings.describe(), *map(describe_case, chunk_cases)]
            name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]
            chunks.append(Chunk(name, chunk_cases))
        return chunks

    def is_done(self, chunk: Chunk) -> bool:
        """Whether the chunk is whole, and no case in it is bad: what was wrong may have passed."""
        index = self._read_index(chunk)
        return index is not None and all(entry["status"] != "bad" for entry in index)

    def remove(self, chunks: Sequence[Chunk]) -> None:
        """Removes chunks whose records lie elsewhere now."""
        for chunk in chunks:
            self._path(chunk).unlink(missing_ok=True)

    def convert_chunk(
        self,
        chunk: Chunk,
        sandbox: Sandbox | Sandboxes,
        after_each: Callable[[], object] = lambda: None,
    ) -> None:
        """Converts a chunk's cases and writes them; one case is in memory at a time.

        If the chunk exists but some of its cases are bad, only these are converted again.

        Raises:
          DataError: a file is bad and the conversion is to fail fast.
        """
        partial = self.folder / f"{chunk.name}.{os.getpid()}.{threading.get_ident()}.partial"
        entries = []
        try:
            with partial.open("wb") as file:
                for case, known in zip(chunk.cases, self._known(chunk), strict=True):
                    entry, packed = known or self._convert_case(case, sandbox)
                    place = {"start": file.tell(), "length": len(packed)}
                    entries.append(entry | place)
                    file.write(packed)
                    after_each()
                index = json.dumps(entries).encode()
                file.write(index + _INDEX_LENGTH.pack(len(index)))
            partial.replace(self._path(chunk))
        finally:
            partial.unlink(missing_ok=True)

    def _convert_case(
        self, case: Case, sandbox: Sandbox | Sandboxes
    ) -> tuple[dict[str, Any], bytes]:
        """Returns what became of a case, and its record's bytes."""
        try:
            outcome, record = sandbox.call(case.image, convert_case, case, self.settings)
        except DataError as error:
            outcome, record = Outcome.not_taken(case, "bad", error), None
        if outcome.status == "bad" and self.fail_fast:
            raise first_bad(outcome)
        return outcome.to_json(), bytes(msgpack.packb(record) or b"") if record else b""

    def _known(self, chunk: Chunk) -> Iterator[tuple[dict[str, Any], bytes] | None]:
        """Yields what an earlier conversion kept of each case; `None` for those that were bad."""
        index = self._read_index(chunk)
        if index is None:
            yield from [None] * len(chunk.cases)
            return
        # One handle throughout: the chunk may be replaced meanwhile.
        with self._path(chunk).open("rb") as file:
            for entry in index:
                file.seek(entry["start"])
                packed = file.read(entry["length"])
                yield None if entry["status"] == "bad" else (entry, packed)

    def collect(self, chunks: Sequence[Chunk]) -> Converted:
        """Returns what became of all cases of chunks that are whole."""
        outcomes, places = [], {}
        for chunk in chunks:
            path = os.fspath(self._path(chunk))
            for entry in self._read_index(chunk) or ():
                start, length = entry.pop("start"), entry.pop("length")
                outcome = Outcome.from_json(entry)
                outcomes.append(outcome)
                if outcome.status == "taken":
                    places[outcome.example_id] = Place(outcome.example_id, path, start, length)
        return Converted(tuple(outcomes), places)

    def _path(self, chunk: Chunk) -> epath.Path:
        return self.folder / f"{chunk.name}.chunk"

    def _read_index(self, chunk: Chunk) -> list[dict[str, Any]] | None:
        """Returns a chunk's index; `None` where it is absent, or was cut by a loss of power."""
        try:
            with self._path(chunk).open("rb") as file:
                file.seek(-_INDEX_LENGTH.size, os.SEEK_END)
                (length,) = _INDEX_LENGTH.unpack(file.read())
                file.seek(-_INDEX_LENGTH.size - length, os.SEEK_END)
                return json.loads(file.read(length))
        except (OSError, ValueError, struct.error):
            return None


def first_bad(outcome: Outcome) -> DataError:
    """Returns the error that ends a conversion which is to fail fast."""
    remedy = f"{outcome.remedy}, or set data.on_error=skip to leave bad files out"
    return DataError(outcome.subject, outcome.fault, remedy)


def describe_case(case: Case, root: epath.PathLike = "/") -> list[Any]:
    """Returns what a record depends on besides the settings; files by path, size and time.

    Images are not read: an archive of a terabyte must not be hashed at each start.

    Args:
      case: of any source.
      root: folder that paths are relative to.
    """
    files = ((case.image, "image"), *((mask.path, mask.structure.name) for mask in case.masks))
    return [
        case.example_id,
        case.patient_id,
        case.patient_is_secret,
        case.source,
        case.spacing_mm,
        dataclasses.asdict(case.clinical),
        [[os.path.relpath(path, root), role, *stamp(path)] for path, role in files],
    ]
