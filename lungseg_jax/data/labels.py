"""From the bits of a record's mask to the channels that a model is trained on."""

import numpy as np
from jaxtyping import UInt8

from lungseg_jax.config import Labels
from lungseg_jax.errors import DataError
from lungseg_jax.imaging.structures import Structure

# What each channel of a mask, and of a prediction, is.
CHANNELS: dict[Labels, tuple[Structure, ...]] = {
    "lungs": (Structure.LUNGS,),
    "left_right": (Structure.RIGHT_LUNG, Structure.LEFT_LUNG),
}


def channels(
    bits: UInt8[np.ndarray, "h w 1"], labels: Labels, example_id: str
) -> UInt8[np.ndarray, "h w c"]:
    """Returns {0, 1} for each of the labels' channels.

    Args:
      bits: of `Structure`.
      labels: which channels.
      example_id: names the mask in errors.

    Raises:
      DataError: sides are asked for, and the mask has lungs without sides.
    """
    if labels == "left_right" and not has_sides(bits):
        raise DataError(
            example_id,
            "mask of lungs that does not tell right from left",
            "leave the picture out of data.splits or train with data.labels=lungs",
        )
    return np.concatenate([_where(bits, structure) for structure in CHANNELS[labels]], axis=-1)


def has_sides(bits: UInt8[np.ndarray, "*shape"]) -> bool:
    """Whether a mask tells right from left; one without any lung has nothing to tell."""
    sided = bool(_where(bits, Structure.RIGHT_LUNG | Structure.LEFT_LUNG).any())
    return sided or not _where(bits, Structure.LUNGS).any()


def _where(bits: UInt8[np.ndarray, "*shape"], structure: Structure) -> UInt8[np.ndarray, "*shape"]:
    return ((bits & np.uint8(structure)) != 0).astype(np.uint8)
