"""Re-reads finished records and names every fault in them.

Usage: python -m tfds_builder.verify FOLDER

FOLDER holds dataset_info.json and the shards. The exit code is 1 if there is any fault.
"""

import collections
import dataclasses
import sys
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath

from lungseg_jax import terminal
from lungseg_jax.command import run_command
from lungseg_jax.errors import DataError
from lungseg_jax.file_digest import digest_file
from lungseg_jax.runtime.threads import check_threads_for_records
from tfds_builder.manifest import MANIFEST, Manifest, read_manifest
from tfds_builder.record_check import CheckedRecord, check_record
from tfds_builder.records_folder import (
    RECORD_FILES,
    Shard,
    features,
    in_order,
    open_folder,
    shards,
    the_folder,
)

SHARD_NAMES = "*array_record*"


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something broken in a folder of records.

    Attributes:
      subject: name of a file, or id of an example, patient or split.
      field: field of the record; empty if the whole subject is meant.
      fault: what is wrong.
    """

    subject: str
    field: str
    fault: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.subject, self.field, self.fault) if part)


def verify(folder: epath.PathLike) -> list[Fault]:
    """Returns every fault in a folder of records; none if it is whole.

    Files are compared with the manifest's checksums, counts with `dataset_info.json` and the
    manifest; every record is decoded and its fields compared; ids must be unique and no patient
    may be in two splits. Of a record only its id and its patient's id are kept, so memory stays
    small.

    Raises:
      DataError: there is no such folder, or it holds no records.
      UserError: too few threads may be started to read them.
    """
    folder = epath.Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(folder, "no such folder", "give the folder that holds the records")
    known = [*(folder / name for name in (MANIFEST, *RECORD_FILES)), *folder.glob(SHARD_NAMES)]
    if not any(path.exists() for path in known):
        remedy = "give the folder of dataset_info.json: DATA_DIR/chest_xray_lungs/NAME/VERSION"
        raise DataError(folder, "holds no records", remedy)
    manifest = None
    faults = []
    try:
        manifest = read_manifest(folder)
        faults += _check_files(folder, manifest)
    except DataError as error:
        faults.append(Fault(MANIFEST, "", error.fault))
    try:
        builder = open_folder(folder)
    except DataError as error:
        return [*faults, Fault(folder.name, "", f"{error.fault}; {error.remedy}")]
    if manifest:
        faults += _check_counts(builder, manifest)
    return faults + _check_records(builder)


def _check_files(folder: epath.Path, manifest: Manifest) -> Iterator[Fault]:
    for name, stated in manifest.records.items():
        try:
            found = digest_file(folder / name)
        except OSError as error:
            yield Fault(name, "", f"is missing or not readable ({type(error).__name__})")
            continue
        if found.bytes != stated.bytes:
            yield Fault(name, "", f"has {found.bytes} bytes where {stated.bytes} were written")
        elif found.sha256 != stated.sha256:
            yield Fault(name, "", "has changed since it was written: its checksum differs")
    written = {*RECORD_FILES, *(path.name for path in folder.glob(SHARD_NAMES))}
    for name in sorted(written - manifest.records.keys()):
        yield Fault(name, "", f"is not in {MANIFEST}")


def _check_counts(builder: tfds.core.DatasetBuilder, manifest: Manifest) -> Iterator[Fault]:
    stated = {name: split.num_examples for name, split in builder.info.splits.items()}
    for split in sorted(stated.keys() | manifest.counts.keys()):
        here, there = stated.get(split, 0), manifest.counts.get(split, 0)
        if here != there:
            yield Fault(split, "", f"{here} examples by dataset_info.json, {there} by {MANIFEST}")


def _check_records(builder: tfds.core.DatasetBuilder) -> list[Fault]:
    check_threads_for_records()
    faults = []
    count_of_id: collections.Counter[str] = collections.Counter()
    splits_of_patient = collections.defaultdict(set)
    with terminal.progress("verify", builder.info.splits.total_num_examples, "record") as bar:
        for shard in shards(builder):
            for item in _read_shard(shard, features(builder)):
                if isinstance(item, Fault):
                    faults.append(item)
                    continue
                bar.update()
                position, record = item
                name = record.example_id or f"record {position} of {shard.path.name}"
                faults += [Fault(name, field, fault) for field, fault in record.faults]
                if record.example_id:
                    count_of_id[record.example_id] += 1
                if record.patient_id:
                    splits_of_patient[record.patient_id].add(shard.split)
    for example_id, count in count_of_id.items():
        if count > 1:
            faults.append(Fault(example_id, "example_id", f"{count} records have it"))
    for patient_id, splits in splits_of_patient.items():
        if len(splits) > 1:
            where = " and ".join(sorted(splits))
            faults.append(Fault(f"patient {patient_id}", "patient_id", f"is in {where}"))
    return faults


def _read_shard(
    shard: Shard, fields: tfds.features.FeaturesDict
) -> Iterator[Fault | tuple[int, CheckedRecord]]:
    """Yields the position and the check of each record, and the faults of the file itself."""
    reader = ArrayRecordReader(str(shard.path), options="readahead_buffer_size:0")
    # ArrayRecord raises nothing for a damaged file, which seems to have no records.
    if not reader.ok():
        yield Fault(shard.path.name, "", f"cannot be opened; {shard.stated} records are lost")
        return
    count = reader.num_records()
    if count != shard.stated:
        stated = f"dataset_info.json states {shard.stated}"
        yield Fault(shard.path.name, "", f"has {count} records where {stated}")

    def check(position: int) -> CheckedRecord:
        try:
            (content,) = reader.read([position])
        except (RuntimeError, ValueError, IndexError) as error:
            fault = f"cannot be read ({type(error).__name__})"
            return CheckedRecord("", "", (("", fault),))
        return check_record(content, fields)

    yield from enumerate(in_order(count, check))
    reader.close()


def _summary(folder: epath.Path) -> str:
    """Returns a paragraph on a folder without faults."""
    manifest = read_manifest(folder)
    counts = ", ".join(f"{count} {split}" for split, count in manifest.counts.items())
    return (
        f"No faults: {sum(manifest.counts.values())} records ({counts}), made from "
        f"{len(manifest.files)} files. The checksums of {len(manifest.records)} files match; every "
        "record decodes and is consistent; ids are unique and no patient is in two splits."
    )


def main(arguments: Sequence[str]) -> int:
    """Prints every fault, or a summary if there is none; returns the exit code."""
    faults: list[Fault] = []
    again = "run the same command to start over"
    code = run_command(arguments, str(__doc__), lambda: faults.extend(_told(arguments[1:])), again)
    return 1 if faults else code


def _told(folders: Sequence[str]) -> list[Fault]:
    """Prints and returns the faults in the one folder that is given."""
    folder = the_folder(folders)
    faults = verify(folder)
    for fault in faults:
        terminal.show(str(fault))
    terminal.show(f"Faults in {folder}: {len(faults)}" if faults else _summary(folder))
    return faults


if __name__ == "__main__":
    sys.exit(main(sys.argv))
