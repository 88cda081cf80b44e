"""From the bits of a record's mask to the channels that a model is trained on."""

import numpy as np
from jaxtyping import Shaped, UInt8

from lungseg_jax.config import Labels
from lungseg_jax.errors import DataError
from lungseg_jax.imaging.structures import Structure

# What each channel of a mask, and of a prediction, is.
CHANNELS: dict[Labels, tuple[Structure, ...]] = {
    "lungs": (Structure.LUNGS,),
    "left_right": (Structure.RIGHT_LUNG, Structure.LEFT_LUNG),
}

_SIDES = Structure.RIGHT_LUNG | Structure.LEFT_LUNG


def num_classes(labels: Labels) -> int:
    """Returns how many channels a mask, and a prediction, has."""
    return len(CHANNELS[labels])


def tells_sides(labels: Labels) -> bool:
    """Whether a channel is of one side of the patient, so that mirroring is not harmless.

    A mirrored right lung is at the left one's place, beside a heart on the wrong side.
    """
    return any(structure in _SIDES for structure in CHANNELS[labels])


def missing(labels: Labels, present: Structure) -> tuple[Structure, ...]:
    """Returns the structures that the labels name and that are not among those present."""
    return tuple(structure for structure in CHANNELS[labels] if structure not in present)


def lungs_of(
    classes: Shaped[np.ndarray, "*shape c"], labels: Labels
) -> Shaped[np.ndarray, "*shape d"]:
    """Returns the channels that are lung: the right and the left one, or one of both.

    Args:
      classes: the labels' channels.
      labels: what the channels are.
    """
    structures = CHANNELS[labels]
    sides = (Structure.RIGHT_LUNG, Structure.LEFT_LUNG)
    wanted = sides if set(sides) <= set(structures) else (Structure.LUNGS,)
    # No copy of full-size images where nothing is to be left out.
    if wanted == structures:
        return classes
    return classes[..., [structures.index(structure) for structure in wanted]]


def present_in(bits: UInt8[np.ndarray, "*shape"]) -> Structure:
    """Returns every structure that a mask marks somewhere."""
    return Structure(int(np.bitwise_or.reduce(bits, axis=None)))


def channels(
    bits: UInt8[np.ndarray, "h w 1"], labels: Labels, example_id: str
) -> UInt8[np.ndarray, "h w c"]:
    """Returns {0, 1} for each of the labels' channels.

    Args:
      bits: a mask of the bits of `Structure`.
      labels: the labels, which name the channels.
      example_id: names the mask in errors.

    Raises:
      DataError: sides are asked for, and the mask has lungs without sides.
    """
    if tells_sides(labels) and not has_sides(bits):
        raise DataError(
            example_id,
            "mask of lungs that does not tell right from left",
            "leave the image out of data.splits or train with data.labels=lungs",
        )
    return np.concatenate([_where(bits, structure) for structure in CHANNELS[labels]], axis=-1)


def has_sides(bits: UInt8[np.ndarray, "*shape"]) -> bool:
    """Whether a mask tells right from left; one without any lung has nothing to tell."""
    present = present_in(bits)
    return bool(present & _SIDES) or Structure.LUNGS not in present


def _where(bits: UInt8[np.ndarray, "*shape"], structure: Structure) -> UInt8[np.ndarray, "*shape"]:
    return ((bits & np.uint8(structure)) != 0).astype(np.uint8)
