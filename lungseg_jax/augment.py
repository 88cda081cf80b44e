"""Random changes to training pictures, on the device, inside the jitted step.

Every picture's changes are a function of (seed, step, slot in the global batch) alone: the same
on any number of devices.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key

from lungseg_jax.config import AugmentConfig

Picture = Float[Array, "h w"]

# Taps of the blur on each side: three standard deviations of the largest useful blur.
BLUR_RADIUS = 3


def augment(
    key: Key[Array, ""],
    slots: Int32[Array, " b"],
    images: Float[Array, "b h w 1"],
    masks: Float[Array, "b h w 1"],
    config: AugmentConfig,
) -> tuple[Float[Array, "b h w 1"], Float[Array, "b h w 1"]]:
    """Returns changed pictures in [0, 1] and the masks moved with them, {0, 1}.

    Args:
      key: of the step.
      slots: each picture's place in the global batch; picks its own random numbers.
      images: in [0, 1].
      masks: {0, 1}.
      config: strength of each change; 0 switches it off.
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(slots)
    images, masks = jax.vmap(partial(_augment_one, config))(keys, images[..., 0], masks[..., 0])
    return images[..., None], masks[..., None]


def _augment_one(
    config: AugmentConfig, key: Key[Array, ""], image: Picture, mask: Picture
) -> tuple[Picture, Picture]:
    geometry_key, intensity_key, blur_key, noise_key = jax.random.split(key, 4)
    moved = affine(jnp.stack([image, mask], axis=-1), random_affine(geometry_key, config))
    image, mask = moved[..., 0], (moved[..., 1] > 0.5).astype(mask.dtype)
    if config.blur:
        image = blur(image, jax.random.uniform(blur_key, maxval=config.blur))
    image = _change_intensity(intensity_key, image, config)
    if config.noise:
        level_key, noise_key = jax.random.split(noise_key)
        level = jax.random.uniform(level_key, maxval=config.noise)
        image = image + level * jax.random.normal(noise_key, image.shape)
    return jnp.clip(image, 0, 1), mask


def random_affine(key: Key[Array, ""], config: AugmentConfig) -> Float[Array, "2 3"]:
    """Returns a random map from output to input coordinates, (row, column, 1) from the centre.

    Coordinates are in units of the picture's side.
    """
    rotation, scale, shear, shift, flip = jax.random.split(key, 5)
    angle = jnp.deg2rad(_symmetric(rotation, config.rotation_degrees))
    zoom = 1 + _symmetric(scale, config.scale, (2,)) * jnp.array([1.0, 0.5])
    # One factor for the size and a weaker one for the aspect: bodies differ in both.
    stretch = jnp.diag(jnp.stack([zoom[0] * zoom[1], zoom[0] / zoom[1]]))
    rotate = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    skew = jnp.array([[1.0, 0.0], [_symmetric(shear, config.shear), 1.0]])
    linear = rotate @ skew @ stretch
    if config.flip:
        linear = linear @ jnp.diag(jnp.array([1.0, -1.0]) ** jax.random.bernoulli(flip))
    return jnp.concatenate([linear, _symmetric(shift, config.shift, (2, 1))], axis=1)


def affine(
    image: Float[Array, "h w c"], matrix: Float[Array, "2 3"]
) -> Float[Array, "h w c"]:
    """Returns the picture resampled bilinearly; outside the frame it is 0.

    All channels are moved by the same map in the same gather, so that they cannot come apart.

    Args:
      image: channels to be moved together.
      matrix: output to input coordinates; see `random_affine`.
    """
    height, width, channels = image.shape
    size = jnp.array([height, width], jnp.float32)
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    centred = (jnp.stack([rows, columns], axis=-1) + 0.5) / size - 0.5
    source = (centred @ matrix[:, :2].T + matrix[:, 2] + 0.5) * size - 0.5
    low = jnp.floor(source)
    share = source - low
    flat = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    total = jnp.zeros_like(image)
    for down in (0, 1):
        for right in (0, 1):
            # The zero border catches whatever lies outside.
            row = jnp.clip(low[..., 0] + down, -1, height).astype(jnp.int32) + 1
            column = jnp.clip(low[..., 1] + right, -1, width).astype(jnp.int32) + 1
            weight = jnp.abs(1 - down - share[..., 0]) * jnp.abs(1 - right - share[..., 1])
            total += weight[..., None] * flat[row * (width + 2) + column]
    return total


def blur(image: Picture, sigma: Float[Array, ""]) -> Picture:
    """Returns the picture after a Gaussian blur of `sigma` pixels; edges are repeated."""
    offsets = jnp.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    kernel = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-3)) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        pad = [(BLUR_RADIUS, BLUR_RADIUS) if i == axis else (0, 0) for i in (0, 1)]
        padded = jnp.pad(image, pad, mode="edge")
        size = image.shape[axis]
        image = sum(
            kernel[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i in range(2 * BLUR_RADIUS + 1)
        )  # type: ignore[assignment]
    return image


def _change_intensity(key: Key[Array, ""], image: Picture, config: AugmentConfig) -> Picture:
    gamma, contrast, brightness = jax.random.split(key, 3)
    # A small offset keeps the power's gradient-free but finite at black padding.
    image = jnp.maximum(image, 1e-6) ** (2 ** _symmetric(gamma, config.gamma))
    image = 0.5 + (image - 0.5) * (1 + _symmetric(contrast, config.contrast))
    return image + _symmetric(brightness, config.brightness)


def _symmetric(key: Key[Array, ""], limit: float, shape: tuple[int, ...] = ()) -> Array:
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)
