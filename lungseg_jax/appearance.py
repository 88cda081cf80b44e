"""Random changes to what differs between hospitals: tone, contrast, shading, opacities and bars.

None of them moves the lungs, so masks stay as they are. All are sums and products of small
matrices with the image: nothing is gathered, which is slow on accelerators.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from lungseg_jax.config import AugmentConfig

Image = Float[Array, "h w"]

# Number in each direction.
_SHADING_PARTS = 4

# Number in each direction; local contrast is measured against their means.
_NEIGHBOURHOODS = 16

_OPACITIES = 4
_OPACITY_RADIUS = (0.02, 0.15)

_BAR_PROBABILITY = 0.25


def change_appearance(
    key: Key[Array, ""], image: Image, lungs: Bool[Array, "h w"], config: AugmentConfig
) -> Image:
    """Returns the image as another hospital might have it; values may leave [0, 1].

    Args:
      key: the image's random key.
      image: in [0, 1].
      lungs: where no bar may lie.
      config: strength of each change; 0 switches it off.
    """
    tone_key, contrast_key, shading_key, opacity_key, bar_key = jax.random.split(key, 5)
    if config.tone:
        image = bend(image, jax.random.uniform(tone_key, (2,), minval=-1) * config.tone)
    if config.local_contrast:
        gain = 2 ** (jax.random.uniform(contrast_key, minval=-1) * config.local_contrast)
        image = change_local_contrast(image, gain)
    if config.shading:
        values = jax.random.normal(shading_key, (_SHADING_PARTS, _SHADING_PARTS))
        image = image + config.shading * enlarge(values, image.shape)
    if config.opacity:
        image = image + config.opacity * opacities(opacity_key, image.shape)
    if config.bars:
        image = jnp.where(bars(bar_key, lungs, config.bars), 0, image)
    return image


def bend(image: Image, amounts: Float[Array, "2"]) -> Image:
    """Returns the image under a smooth curve that leaves 0 and 1 where they are.

    Args:
      image: in [0, 1].
      amounts: the first of half a sine wave, which lifts or lowers the midtones; the second of a
        whole one, which moves dark and bright tones in opposite directions. The curve rises
        everywhere as long as π |a| + π |b| < 1.
    """
    x = jnp.clip(image, 0, 1)
    return x + amounts[0] * jnp.sin(math.pi * x) + amounts[1] * jnp.sin(2 * math.pi * x) / 2


def change_local_contrast(image: Image, gain: Float[Array, ""]) -> Image:
    """Returns the image with its differences from the neighbourhood's mean scaled by `gain`.

    More than 1 looks like adaptive equalisation by a detector's software, less than 1 like film.
    """
    rows, columns = (_means(side, min(side, _NEIGHBOURHOODS)) for side in image.shape)
    mean = enlarge(rows @ image @ columns.T, image.shape)
    return mean + gain * (image - mean)


def opacities(key: Key[Array, ""], shape: tuple[int, ...]) -> Image:
    """Returns soft blobs, bright or dark, each of height 1 at most: consolidations or lucencies."""
    size_key, place_key, strength_key = jax.random.split(key, 3)
    low, high = _OPACITY_RADIUS
    radius = jax.random.uniform(size_key, (2, _OPACITIES), minval=low, maxval=high)
    centre = jax.random.uniform(place_key, (2, _OPACITIES))
    # Bright ones are likelier: disease adds to what X-rays have to penetrate.
    strength = jax.random.uniform(strength_key, (_OPACITIES,), minval=-0.5)
    row, column = (
        jnp.exp(-(((_centres(side)[:, None] - centre[i]) / radius[i]) ** 2))
        for i, side in enumerate(shape)
    )
    return (row * strength) @ column.T


def bars(key: Key[Array, ""], lungs: Bool[Array, "h w"], largest: float) -> Bool[Array, "h w"]:
    """Returns where black bars lie along the sides, as collimators and scanners leave them.

    Args:
      key: the image's random key.
      lungs: what no bar may cover.
      largest: largest breadth of a bar, as a share of the side.
    """
    present_key, breadth_key = jax.random.split(key)
    present = jax.random.bernoulli(present_key, _BAR_PROBABILITY, (2, 2))
    breadth = jnp.where(present, jax.random.uniform(breadth_key, (2, 2), maxval=largest), 0)
    covered = jnp.zeros(lungs.shape, bool)
    for axis in (0, 1):
        place = _centres(lungs.shape[axis])
        inside = lungs.any(axis=1 - axis)
        first = jnp.min(jnp.where(inside, place, 1))
        last = jnp.max(jnp.where(inside, place, 0))
        low = jnp.minimum(breadth[axis, 0], first)
        high = jnp.maximum(1 - breadth[axis, 1], last)
        outside = (place < low) | (place > high)
        covered |= outside[:, None] if axis == 0 else outside[None, :]
    return covered


def enlarge(values: Float[Array, "a b"], shape: tuple[int, ...]) -> Image:
    """Returns the values of equal parts of the image, interpolated between the parts' centres."""
    rows, columns = (
        _interpolation(side, count) for side, count in zip(shape, values.shape, strict=True)
    )
    return rows @ values @ columns.T


def _interpolation(side: int, count: int) -> Float[Array, "s n"]:
    """Returns the weight of each of `count` parts in each of `side` pixels."""
    place = _centres(side)[:, None] * count - 0.5
    return jnp.maximum(1 - jnp.abs(jnp.clip(place, 0, count - 1) - jnp.arange(count)), 0)


def _means(side: int, count: int) -> Float[Array, "n s"]:
    """Returns the matrix that averages over each of `count` equal parts of a side."""
    part = jnp.floor(_centres(side) * count)
    member = (part == jnp.arange(count)[:, None]).astype(jnp.float32)
    return member / member.sum(axis=1, keepdims=True)


def _centres(side: int) -> Float[Array, " s"]:
    return (jnp.arange(side) + 0.5) / side
