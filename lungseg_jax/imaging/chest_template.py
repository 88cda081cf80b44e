"""Whether pixels look like a frontal chest radiograph, and whether they are inverted.

A frontal chest, however small it is drawn, is a bright mediastinum standing on a bright abdomen
with a dark lung on either side. That figure, over some positions, sizes and tilts, is compared with
the image by normalised cross-correlation (Lewis 1995, "Fast normalized cross-correlation").

Its proportions were chosen on half of Montgomery's and Shenzhen's images and on phantoms, its tilts
and the bounds below on all of them. These score 0.63 to 0.87, at least 0.47 more than negatives.
"""

import functools
import itertools
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, Float32, Shaped

from lungseg_jax.imaging.borders import between_bars

# Least likeness to a frontal chest, and least lead over the image's negative.
MIN_LIKENESS = 0.55
MIN_LEAD = 0.25

# Least share of greys in what is not background, which is black or white, whichever there is more
# of: a mask of two lungs has the figure of a chest, but next to no greys. Images of Montgomery and
# Shenzhen have 0.77 or more, their masks 0.15 or less.
MIN_GREY = 0.35
# And of the whole image: a line of text is grey, too.
MIN_GREY_OF_ALL = 0.03
_BLACK, _WHITE = 0.05, 0.95

# Proportions of the figure as shares of the image's side, from its centre.
_MEDIASTINUM_HALF_WIDTH = 0.1
_OUTER_HALF_WIDTH = 0.225
_DOME = 0.175
_BOTTOM = 0.53

# Positions and sizes at which the figure is searched for.
_SCALES = (0.85, 1.0, 1.15)
_ASPECTS = (0.85, 1.15)
_SHIFTS_RIGHT = (-0.08, -0.04, 0.0, 0.04, 0.08)
_SHIFTS_DOWN = (-0.1, -0.05, 0.0, 0.05, 0.1)
_TILTS_DEGREES = (-12.0, 0.0, 12.0)

# Sides of the image from which bars are cut, and of the image that is compared.
_THUMBNAIL = 128
_SIDE = 24

# Grey ranks that spread less than this, of at most 0.29, show noise rather than a figure.
_LEAST_SPREAD = 0.22


def judge(
    pixels: Float[np.ndarray, "h w"],
) -> Literal["frontal", "inverted", "other", "no greys"]:
    """Returns what pixels in [0, 1] show: a frontal chest, one in negative, or something else.

    It is a guess: a chest with a lung that is white all over often counts as something else.
    """
    small = _shrink(pixels, _THUMBNAIL)
    grey, grey_of_all = _shares_of_grey(small)
    if grey < MIN_GREY or grey_of_all < MIN_GREY_OF_ALL:
        return "no greys"
    as_is, negative = likeness(small), likeness(1 - small)
    if max(as_is, negative) < MIN_LIKENESS or abs(as_is - negative) < MIN_LEAD:
        return "other"
    return "frontal" if as_is > negative else "inverted"


def likeness(pixels: Float[np.ndarray, "h w"]) -> float:
    """Returns the best correlation in [-1, 1] of pixels with the figure of a frontal chest."""
    thumbnail = _shrink(pixels, _THUMBNAIL)
    small = _shrink(between_bars(thumbnail).cut(thumbnail), _SIDE)
    # Ranks instead of intensities, so that windows and film curves do not matter.
    ranks = (_ranks(small) / small.size - 0.5).astype(np.float32)
    figures, supports = _placements()
    variance = supports @ ranks**2 - (supports @ ranks) ** 2
    spread = np.sqrt(np.maximum(variance, _LEAST_SPREAD**2))
    return float((figures @ ranks / spread).max())


def _shares_of_grey(pixels: Float[np.ndarray, "h w"]) -> tuple[float, float]:
    """Returns the share of greys in what is not background, and in all."""
    low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels - low) / max(high - low, 1e-6)
    black, white = float((scaled <= _BLACK).mean()), float((scaled >= _WHITE).mean())
    grey = 1 - black - white
    return grey / (1 - max(black, white) + 1e-6), grey


def _ranks(values: Float32[np.ndarray, "h w"]) -> Float[np.ndarray, " n"]:
    """Returns each value's rank among all, from 1 up; equal values share their mean rank.

    Does what `scipy.stats.rankdata` does, whose import takes half of a worker's start-up time.
    """
    flat = values.ravel()
    ordered = np.sort(flat)
    below, up_to = (np.searchsorted(ordered, flat, side) for side in ("left", "right"))
    return (below + up_to + 1) / 2


def _shrink(pixels: Shaped[np.ndarray, "h w"], side: int) -> Float32[np.ndarray, "s s"]:
    pixels = pixels.astype(np.float32, copy=False)
    if pixels.shape == (side, side):
        return pixels
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


@functools.cache
def _placements() -> tuple[Float32[np.ndarray, "k n"], Float32[np.ndarray, "k n"]]:
    """Returns the figure at each position, size and tilt, and the averages over what it covers.

    A figure has mean 0 over what it covers, and is scaled so that its product with ranks, divided
    by their standard deviation there, is a correlation.
    """
    # Drawn at four times the resolution, so that its edges may lie between pixels.
    centres = (np.arange(4 * _SIDE) + 0.5) / (4 * _SIDE) - 0.5
    figures, supports = [], []
    for tilt, scale, aspect, right, down in itertools.product(
        np.deg2rad(_TILTS_DEGREES), _SCALES, _ASPECTS, _SHIFTS_RIGHT, _SHIFTS_DOWN
    ):
        along = centres[None, :] * np.cos(tilt) + centres[:, None] * np.sin(tilt)
        across = centres[:, None] * np.cos(tilt) - centres[None, :] * np.sin(tilt)
        x = np.abs(along - right) / scale
        y = (across - down) / (scale * aspect)
        lungs = (x > _MEDIASTINUM_HALF_WIDTH) & (y < _DOME)
        covered = (x <= _OUTER_HALF_WIDTH) & (y <= _BOTTOM)
        support = _shrink(covered, _SIDE) > 0.5
        figure = _shrink(np.where(lungs, -1.0, 1.0) * covered, _SIDE) * support
        figure = (figure - figure[support].mean()) * support
        norm = np.linalg.norm(figure) * np.sqrt(support.sum())
        figures.append(figure.ravel() / norm)
        supports.append(support.ravel() / support.sum())
    return np.asarray(figures, np.float32), np.asarray(supports, np.float32)
