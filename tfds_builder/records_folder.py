"""Opens a folder of finished records, lists its shards, and reads its records in order."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import grain
import tensorflow_datasets as tfds
from etils import epath

from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.find_files import unreadable
from lungseg_jax.paths import check_is_utf8, local_path, read_file
from tfds_builder.fields import READING_THREADS, Fields, damaged_record

# What TFDS writes beside the shards; the second names the fields' classes.
INFO_FILE, FIELDS_FILE = "dataset_info.json", "features.json"
RECORD_FILES = (INFO_FILE, FIELDS_FILE)

# What the names of TFDS's own classes of fields begin with.
_OWN_CLASSES = "tensorflow_datasets.core.features."
# Keys by which its readers find a field's class, and texts in which they look for more.
_CLASS_KEYS = ("pythonClassName", "python_class_name")
_OLD_FORMS = ("type", "jsonFeature", "json_feature")

# Records decoded ahead of the one in use; more would only take memory.
READ_OPTIONS = grain.ReadOptions(num_threads=READING_THREADS, prefetch_buffer_size=16)

Result = TypeVar("Result")

# The field that records of earlier versions lack.
NEWEST_FIELD = "field"

REBUILD = "remove the folder to have the records built again"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records.

    Attributes:
      split: the split whose records it holds.
      path: path of the file.
      stated: number of records in it according to `dataset_info.json`.
    """

    split: str
    path: epath.Path
    stated: int


def the_folder(arguments: Sequence[str]) -> epath.Path:
    """Returns the one folder that a command on records is given.

    Raises:
      ConfigError: no folder is given, or several are, or there is an unknown flag.
    """
    for flag in arguments:
        if flag.startswith("-"):
            raise ConfigError("command line", f"unknown argument {flag!r}", "see --help")
    if len(arguments) != 1:
        fault = f"{len(arguments)} folders are given"
        raise ConfigError("command line", fault, "name one, that of dataset_info.json")
    return local_path(arguments[0])


def open_folder(folder: epath.PathLike) -> tfds.core.DatasetBuilder:
    """Returns a reader of a folder of records, which needs nothing but the folder.

    Raises:
      DataError: it is not such a folder.
      ConfigError: its path is not in UTF-8.
    """
    folder = epath.Path(folder).expanduser()
    check_is_utf8(folder)
    for name in RECORD_FILES:
        if not (folder / name).exists():
            raise DataError(
                folder, f"holds no {name}", "give the folder that holds the finished records"
            )
    try:
        _check_fields(json.loads(read_file(folder / FIELDS_FILE)))
        # TFDS reads it, too, but does not pass on why it cannot be read.
        read_file(folder / INFO_FILE)
        builder = tfds.builder_from_directory(folder)
        fields = builder.info.features
        names = [*fields] if isinstance(fields, tfds.features.FeaturesDict) else []
        stored: Any = builder.info.file_format
        # Now, because TFDS makes the names of shards from a template in the file.
        for split in builder.info.splits.values():
            _ = split.filepaths
    except OSError as error:
        # What cannot be read may be whole.
        raise unreadable(folder, error) from error
    # TFDS lets through whatever its parsers of JSON and protocol buffers raise.
    except Exception as error:
        raise DataError(
            folder,
            f"{' or '.join(RECORD_FILES)} is damaged ({type(error).__name__})",
            REBUILD,
        ) from error
    if not builder.info.splits or not names:
        raise DataError(folder, "names no split or no field", REBUILD)
    if NEWEST_FIELD not in names:
        remedy = "remove the folder if no run of that version needs it, or use that version"
        raise DataError(folder, f"holds records of version {builder.version}", remedy)
    if stored != tfds.core.FileFormat.ARRAY_RECORD:
        fault = f"holds records as {stored.value}, which TFDS alone reads"
        raise DataError(folder, fault, "build them as array_record in another folder")
    return builder


def _check_fields(node: Any) -> None:
    """Refuses fields of other classes than TFDS's own.

    TFDS imports whatever module a file names, which would run the code of whoever sent the records.

    Raises:
      ValueError: there are such fields.
    """
    if isinstance(node, dict):
        named = [node[key] for key in _CLASS_KEYS if key in node]
        if any(key in node for key in _OLD_FORMS) or not all(
            str(name).startswith(_OWN_CLASSES) for name in named
        ):
            raise ValueError("a field of a class that is not TFDS's own")
        node = [*node.values()]
    if isinstance(node, list):
        for part in node:
            _check_fields(part)


def shards(builder: tfds.core.DatasetBuilder) -> list[Shard]:
    """Returns the files of records that `dataset_info.json` names, whether or not they exist."""
    return [
        Shard(name, epath.Path(path), stated)
        for name, split in builder.info.splits.items()
        for path, stated in zip(split.filepaths, split.shard_lengths, strict=True)
    ]


def features(builder: tfds.core.DatasetBuilder) -> tfds.features.FeaturesDict:
    """Returns the fields of a record."""
    fields = builder.info.features
    assert isinstance(fields, tfds.features.FeaturesDict), "open_folder checks it"
    return fields


def image_size(builder: tfds.core.DatasetBuilder) -> int:
    """Returns the side of the model's square in pixels."""
    image = features(builder)["image"]
    assert isinstance(image, tfds.features.Image), "what convert writes"
    shape: Any = image.shape
    return shape[0]


def read_records(
    builder: tfds.core.DatasetBuilder, look: Callable[[dict[str, Any]], Result]
) -> Iterator[tuple[str, dict[str, Any], Result]]:
    """Yields (split, record, look(record)) in order, a few at a time.

    Records come without the mask at its original size, the most expensive field to decode;
    `original_size` states its size.

    Args:
      builder: builder of the records.
      look: what several threads do with the records while earlier ones are used.

    Raises:
      DataError: a record is damaged.
    """
    names = [name for name in features(builder) if name != "original_mask"]
    for split in builder.info.splits:
        fields = Fields(builder, split, *names)
        damaged = functools.partial(damaged_record, builder.data_path, split)
        read = functools.partial(_read_and_look, fields, look, damaged)
        for record, seen in in_order(len(fields), read):
            yield split, record, seen


def _read_and_look(
    fields: Fields,
    look: Callable[[dict[str, Any]], Result],
    damaged: Callable[[Exception], DataError],
    position: int,
) -> tuple[dict[str, Any], Result]:
    (record,) = fields.read([position])
    try:
        return record, look(record)
    except MemoryError:
        raise
    # Raised for an empty image, or one of another size than the others.
    except Exception as error:
        raise damaged(error) from error


def in_order(count: int, work: Callable[[int], Result]) -> Iterator[Result]:
    """Yields `work(0)` … `work(count - 1)`, done by several threads slightly ahead of their use."""
    positions = grain.MapDataset.source(range(count))  # type: ignore[arg-type]
    results: Any = positions.map(work)
    return iter(results.to_iter_dataset(READ_OPTIONS))
