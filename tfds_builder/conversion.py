"""Converts cases to records on disk, in chunks: resumable and in bounded memory.

Cases are divided into chunks. A chunk is a file: its records one after the other, an index of the
outcome of each case and the position of each record, and the index's length. It is written under
another name and renamed, so that an existing chunk is complete. Its name is a hash of what it is
made from: a build that was interrupted, or repeated after a file was fixed, does not convert the
other chunks again.
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
from lungseg_jax.file_digest import stamp
from lungseg_jax.runtime.sandbox import Sandbox, Sandboxes
from tfds_builder.convert_case import ConvertSettings, convert_case
from tfds_builder.outcome import Outcome
from tfds_builder.sources import Case

CASES_PER_CHUNK = 16

_INDEX_LENGTH = struct.Struct("<Q")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Cases that are converted together.

    Attributes:
      name: a hash of the cases' files and the settings.
      cases: the cases, in order.
    """

    name: str
    cases: tuple[Case, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a record lies.

    Attributes:
      example_id: the record's id.
      path: file of the chunk's records.
      start: first byte.
      length: length in bytes.
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
      outcomes: outcome of every case, in order.
      places: where the records of the cases that were taken lie, by id.
    """

    outcomes: tuple[Outcome, ...]
    places: dict[str, Place]


@dataclasses.dataclass(frozen=True)
class Conversion:
    """The chunks of a data set and the folder they are written to.

    Attributes:
      folder: where chunks are kept until the records are complete.
      settings: what each record depends on besides its files.
      key_folder: where the secret in the settings is kept.
      fail_fast: whether the first bad file ends the conversion.
    """

    folder: epath.Path
    settings: ConvertSettings
    key_folder: epath.Path
    fail_fast: bool

    def cut(self, cases: Sequence[Case]) -> list[Chunk]:
        """Returns the cases divided into chunks."""
        chunks = []
        for start in range(0, len(cases), CASES_PER_CHUNK):
            chunk_cases = tuple(cases[start : start + CASES_PER_CHUNK])
            # The fields of its index, too: an unfinished build may be continued by other code.
            fields = [field.name for field in dataclasses.fields(Outcome)]
            made_of = [fields, self.settings.describe(), *map(describe_case, chunk_cases)]
            name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]
            chunks.append(Chunk(name, chunk_cases))
        return chunks

    def is_done(self, chunk: Chunk) -> bool:
        """Whether the chunk is complete without a bad case: what was wrong may have passed."""
        index = self._read_index(chunk)
        return index is not None and all(entry["status"] != "bad" for entry in index)

    def remove(self, chunks: Sequence[Chunk]) -> None:
        """Removes chunks whose records now lie elsewhere."""
        for chunk in chunks:
            self._path(chunk).unlink(missing_ok=True)

    def convert_chunk(
        self,
        chunk: Chunk,
        sandbox: Sandbox | Sandboxes,
        after_each: Callable[[], object] = lambda: None,
    ) -> None:
        """Converts a chunk's cases and writes them; one case is in memory at a time.

        If the chunk exists but some of its cases are bad, only those are converted again.

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
        """Returns the outcome of a case, and its record's bytes."""
        try:
            outcome, record = sandbox.call(case.image, convert_case, case, self.settings)
        except DataError as error:
            outcome, record = Outcome.not_taken(case, "bad", error), None
        if outcome.status == "bad" and self.fail_fast:
            raise first_bad(outcome)
        return outcome.to_json(), bytes(msgpack.packb(record) or b"") if record else b""

    def _known(self, chunk: Chunk) -> Iterator[tuple[dict[str, Any], bytes] | None]:
        """Yields what an earlier conversion kept for each case; `None` for bad cases."""
        index = self._read_index(chunk)
        if index is None:
            yield from [None] * len(chunk.cases)
            return
        # One handle throughout, because the chunk may be replaced meanwhile.
        with self._path(chunk).open("rb") as file:
            for entry in index:
                file.seek(entry["start"])
                packed = file.read(entry["length"])
                yield None if entry["status"] == "bad" else (entry, packed)

    def collect(self, chunks: Sequence[Chunk]) -> Converted:
        """Returns what became of all cases of complete chunks."""
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
        """Returns a chunk's index; `None` if it is absent, or was truncated by a loss of power."""
        try:
            with self._path(chunk).open("rb") as file:
                file.seek(-_INDEX_LENGTH.size, os.SEEK_END)
                (length,) = _INDEX_LENGTH.unpack(file.read())
                file.seek(-_INDEX_LENGTH.size - length, os.SEEK_END)
                return json.loads(file.read(length))
        except (OSError, ValueError, struct.error):
            return None


def first_bad(outcome: Outcome) -> DataError:
    """Returns the error that ends a conversion that is to fail fast."""
    remedy = f"{outcome.remedy}, or set data.on_error=skip to leave bad files out"
    return DataError(outcome.subject, outcome.fault, remedy)


def describe_case(case: Case, root: epath.PathLike = "/") -> list[Any]:
    """Returns what a record depends on besides the settings; files by path, size and time.

    Images are not read, because an archive of a terabyte must not be hashed at each start.

    Args:
      case: a case of any source.
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
