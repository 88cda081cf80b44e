"""The range that grey values use, where a file does not state it or states too much."""

import numpy as np
from jaxtyping import Integer

# Largest share of an image taken by markers burned into it at the type's largest value.
MARKER_SHARE = 0.005


def largest_value(brightest: int) -> int:
    """Returns the largest value of the fewest bits, at least eight, that hold the brightest."""
    return 2 ** max(8, brightest.bit_length()) - 1


def largest_shown(pixels: Integer[np.ndarray, "h w"]) -> tuple[int, tuple[str, ...]]:
    """Returns the largest value of the fewest bits that hold all but markers, and notes.

    Args:
      pixels: non-negative values. The caller clips those brighter than that value.
    """
    largest = whole = largest_value(int(pixels.max()))
    while largest > 255 and np.count_nonzero(pixels > largest // 2) <= MARKER_SHARE * pixels.size:
        largest //= 2
    if largest == whole:
        return largest, ()
    return largest, (f"pixels beyond {largest.bit_length()} bits cut",)
