"""Reasons not to take a predicted mask for a pair of lungs.

The bounds on shape and position hold for all 563 reference masks of Montgomery and Shenzhen but
one, of an image with a single lung.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool

from lungseg_jax.imaging.radiograph import NOT_LIKE_A_CHEST

# Lungs as a share of the image.
AREA = (0.04, 0.75)

# The smaller lung as a share of the larger one.
SYMMETRY = 0.2

# Largest share of the lungs' width, or of their height, that may lie on a border of the image.
CUT_OFF = 0.5

# Share above which a note says so: no reference that merely touches the border gets one.
REACHES = 0.02

# Below this a mask counts as bad wherever estimates are judged (`benchmarks/accuracy.py`).
MIN_DICE = 0.9


def doubts(
    right: Bool[np.ndarray, "h w"],
    left: Bool[np.ndarray, "h w"],
    dice: float | None,
    *,
    looks_frontal: bool = True,
) -> Iterator[str]:
    """Yields each reason to reject a prediction.

    Args:
      right: the patient's right lung.
      left: the left one.
      dice: the estimated Dice; `None` where it is not calibrated and so rejects nothing.
      looks_frontal: the radiograph's `looks_frontal`.
    """
    if not looks_frontal:
        yield NOT_LIKE_A_CHEST
    lungs = right | left
    share = np.count_nonzero(lungs) / lungs.size
    if not AREA[0] <= share <= AREA[1]:
        yield f"lungs cover {_percent(share)} of the image"
    smaller, larger = sorted((np.count_nonzero(right), np.count_nonzero(left)))
    if larger and smaller < SYMMETRY * larger:
        yield (
            "only one lung"
            if not smaller
            else f"one lung has {_percent(smaller / larger)} of the other's area"
        )
    for name, extent, share in _on_borders(lungs):
        if share > CUT_OFF:
            yield f"lungs out of view at the {name} over {_percent(share)} of their {extent}"
    if dice is not None and dice < MIN_DICE:
        yield f"uncertain: estimated Dice {dice:.3f}, below {MIN_DICE:g}"


def remarks(right: Bool[np.ndarray, "h w"], left: Bool[np.ndarray, "h w"]) -> Iterator[str]:
    """Yields what a reader of the areas should know about a prediction that need not be rejected.

    Args:
      right: the patient's right lung.
      left: the left one.
    """
    for name, extent, share in _on_borders(right | left):
        if REACHES < share <= CUT_OFF:
            yield f"lungs cut off at the {name} over {_percent(share)} of their {extent}"


def _percent(share: float) -> str:
    """Returns a share as text, one below a percent with a decimal."""
    return f"{100 * share:.{1 if 0 < share < 0.01 else 0}f} %"


def _on_borders(lungs: Bool[np.ndarray, "h w"]) -> Iterator[tuple[str, str, float]]:
    """Yields each border of the image, the lungs' extent along it, and the share of that on it."""
    height, width = (max(np.count_nonzero(lungs.any(axis)), 1) for axis in (1, 0))
    yield "top", "width", np.count_nonzero(lungs[0]) / width
    yield "bottom", "width", np.count_nonzero(lungs[-1]) / width
    yield "viewer's left", "height", np.count_nonzero(lungs[:, 0]) / height
    yield "viewer's right", "height", np.count_nonzero(lungs[:, -1]) / height
