"""The examples of a split, read from TFDS records by position."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorflow_datasets as tfds
from jax.experimental import multihost_utils
from jaxtyping import UInt8, UInt16

from lungseg_jax.config import Config
from lungseg_jax.errors import DataError, UserError
from lungseg_jax.imaging.structures import Structure
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import Builder, LungsConfig
from tfds_builder.prepare import prepare
from tfds_builder.splits import SPLITS

# The network learns and is measured by the lungs alone.
_LUNGS = np.uint8(Structure.LUNGS)


@dataclasses.dataclass(frozen=True)
class Example:
    """One record as evaluation needs it.

    Attributes:
      example_id: unique in the data set.
      source: where the picture was taken.
      image: intensity × 65535 in the model's square, bone bright.
      original_mask: {0, 1} in the picture's own frame.
      spacing_mm: (row, column) of the original frame; `None` where not known.
    """

    example_id: str
    source: str
    image: UInt16[np.ndarray, "s s 1"]
    original_mask: UInt8[np.ndarray, "h w"]
    spacing_mm: tuple[float, float] | None


class Pictures(NamedTuple):
    """Pictures and masks in the model's square.

    Attributes:
      image: intensity × 65535, bone bright.
      mask: {0, 1}.
    """

    image: UInt16[np.ndarray, "b s s 1"]
    mask: UInt8[np.ndarray, "b s s 1"]


class Records:
    """The examples of one split; positions are those in the records and never change.

    Attributes:
      split: its name.
      name: of the records; other inputs give another name.
      image_size: side of the pictures in pixels.
    """

    def __init__(self, builder: Builder, split: str) -> None:
        skip = tfds.decode.SkipDecoding()
        open_split: Any = builder.as_data_source
        self._whole = open_split(split)
        # The mask at full size is the dearest field to decode and training does not need it.
        self._pictures = open_split(split, decoders={"original_mask": skip})
        pictures = dict.fromkeys(("image", "mask", "original_mask"), skip)
        self._labels = open_split(split, decoders=pictures)
        try:
            self._whole[len(self._whole) - 1]
        # ArrayRecord, TFDS and the PNG decoder each raise their own kinds.
        except Exception as error:
            raise DataError(
                builder.data_path,
                f"records of the {split} split are damaged ({type(error).__name__})",
                "remove this folder to have them built again",
            ) from error
        self.split = split
        self.name: str = self._whole.dataset_info.config_name
        self.image_size: int = self._whole.dataset_info.features["image"].shape[0]

    def __len__(self) -> int:
        return len(self._whole)

    def pictures(self, positions: Sequence[int]) -> Pictures:
        """Returns the pictures and masks at the positions, in their order."""
        records: Any = self._pictures.__getitems__([int(position) for position in positions])
        return Pictures(
            np.stack([record["image"] for record in records]),
            np.stack([record["mask"] for record in records]) & _LUNGS,
        )

    def example(self, position: int) -> Example:
        """Returns the whole example at a position."""
        record: Any = self._whole[position]
        row, column = (float(x) for x in record["spacing_mm"])
        return Example(
            example_id=record["example_id"].decode(),
            source=record["source"].decode(),
            image=record["image"],
            original_mask=record["original_mask"][..., 0] & _LUNGS,
            spacing_mm=(row, column) if row > 0 and column > 0 else None,
        )

    def label(self, position: int) -> tuple[str, str]:
        """Returns the id and the source of the example at a position."""
        record: Any = self._labels[position]
        return record["example_id"].decode(), record["source"].decode()


def open_records(config: Config) -> dict[str, Records]:
    """Returns the records of every split, building them first if they do not exist.

    In a job of several processes the first one builds and the others wait for it.

    Raises:
      DataError: the source files are missing or broken.
      ConfigError: the split file is not valid.
    """
    data = config.data
    lungs = LungsConfig(
        source=data.source,
        image_size=data.image_size,
        seed=config.seed,
        splits=data.splits,
        num_phantoms=data.num_phantoms,
    )
    if jax.process_count() > 1:
        _prepare_on_first(lambda: prepare(lungs, data.data_dir, data.manual_dir))
    builder = prepare(lungs, data.data_dir, data.manual_dir)
    return {split: Records(builder, split) for split in SPLITS}


def _prepare_on_first(prepare_records: Callable[[], Builder]) -> None:
    """Runs in the first process while the others wait for it, and fails in all if it fails."""
    error = None
    if jax.process_index() == 0:
        try:
            prepare_records()
        except (UserError, OSError) as caught:
            error = caught
    failed = multihost_utils.broadcast_one_to_all(np.asarray(error is not None))
    if error is not None:
        raise error
    if failed:
        raise DataError("records", "the first process could not build them", "see its message")
