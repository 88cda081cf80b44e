"""Reads selected fields of a split's records; converting and decoding the rest would take time."""

import copy
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Shaped

from lungseg_jax.config import MAX_MEGAPIXELS
from lungseg_jax.errors import DataError, failing_disk, first_line
from lungseg_jax.imaging.png import png_size
from lungseg_jax.runtime.cores import usable_cores
from lungseg_jax.runtime.open_files import allow_many_open_files
from lungseg_jax.runtime.threads import check_threads_for_records

# More threads than cores only contend for the interpreter's lock.
READING_THREADS = min(16, usable_cores())

# Largest image in a record.
MAX_PIXELS = MAX_MEGAPIXELS * 10**6


class Fields:
    """Reads the named fields of a split's records, by position.

    Args:
      builder: builder of existing records.
      split: the split whose records are read.
      names: fields to read; none where `select` names them.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, *names: str) -> None:
        allow_many_open_files()
        check_threads_for_records()
        self._folder, self._split = builder.data_path, split
        self._all_features: Any = builder.info.features
        open_split: Any = builder.as_data_source
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._records = open_split(split, deserialize_method=raw)
        self._choose(names)

    def select(self, *names: str) -> "Fields":
        """Returns what reads other fields of the same split, whose shards are opened only once."""
        other = copy.copy(self)
        other._choose(names)
        return other

    def _choose(self, names: Sequence[str]) -> None:
        chosen = {name: self._all_features[name] for name in names}
        self._features = tfds.features.FeaturesDict(chosen)
        self._decoders = {
            name: _GreyPng()
            for name, feature in chosen.items()
            if isinstance(feature, tfds.features.Image)
        }

    def __len__(self) -> int:
        return len(self._records)

    def read(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the fields of the records at the positions, in their order.

        Raises:
          DataError: a record is damaged.
        """
        return [self._read_one(int(position)) for position in positions]

    def _read_one(self, position: int) -> dict[str, Any]:
        try:
            # One by one: for several, ArrayRecord starts threads that cost more than they save.
            record = self._records[position]
            fields: Any = self._features.deserialize_example_np(record, decoders=self._decoders)
        except MemoryError:
            raise
        # ArrayRecord, TFDS and the PNG decoder each raise their own kinds of exception.
        except Exception as error:
            if "Too many open files" in str(error):
                fault, remedy = "more shards than files may be open", "raise the limit: ulimit -n"
                raise DataError(self._folder, fault, remedy) from error
            raise damaged_record(self._folder, self._split, error) from error
        return fields


def damaged_record(folder: epath.PathLike, split: str, cause: Exception) -> DataError:
    """Returns the error for a record that cannot be used.

    Args:
      folder: folder of the records.
      split: the record's split.
      cause: the exception that reading it raised.
    """
    if failing_disk(cause):
        fault = f"a record of the {split} split cannot be read ({first_line(cause)})"
        return DataError(folder, fault, "check disk and network")
    return DataError(
        folder,
        f"a record of the {split} split is damaged ({type(cause).__name__})",
        f"python -m tfds_builder.verify {folder} names it; remove the folder to have all built "
        "again",
    )


class _GreyPng(tfds.decode.Decoder):
    """Decodes as TFDS does, but does not repeat pixels for each channel, which doubles the time."""

    def decode_example(self, serialized_example: bytes) -> Shaped[np.ndarray, "h w 1"]:
        """Returns the pixels of a PNG.

        Raises:
          ValueError: it is damaged, or of another size than its feature's.
        """
        height, width, _ = self.feature.shape
        # Before it is decoded: a few bytes may say that they are an image that fills the memory.
        stated = png_size(serialized_example)
        if stated[0] * stated[1] > MAX_PIXELS or (height and stated != (height, width)):
            raise ValueError("not of the size that records have")
        content = np.frombuffer(serialized_example, np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise ValueError("not a whole PNG")
        return pixels[..., np.newaxis]
