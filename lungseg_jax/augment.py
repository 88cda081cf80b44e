"""Random changes to training images, on the device, inside the jitted step.

Each image's changes depend only on (seed, step, slot in the global batch), so that they are the
same on any number of devices.
"""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key

from lungseg_jax.appearance import change_appearance
from lungseg_jax.config import AugmentConfig, Config
from lungseg_jax.data.labels import tells_sides
from lungseg_jax.resampling import affine, blur

Image = Float[Array, "h w"]

# Extent of the blur's kernel on each side, in standard deviations.
BLUR_REACH = 3


def augmentation_for(config: Config) -> AugmentConfig:
    """Returns the changes that the run's labels allow; see `AugmentConfig.flip`."""
    flip = config.augment.flip and not tells_sides(config.data.labels)
    return dataclasses.replace(config.augment, flip=flip)


def augment(
    key: Key[Array, ""],
    slots: Int32[Array, " b"],
    images: Float[Array, "b h w 1"],
    masks: Float[Array, "b h w c"],
    config: AugmentConfig,
) -> tuple[Float[Array, "b h w 1"], Float[Array, "b h w c"]]:
    """Returns changed images in [0, 1] and the masks moved with them, {0, 1}.

    Args:
      key: the step's random key.
      slots: each image's place in the global batch, which determines its random numbers.
      images: in [0, 1].
      masks: {0, 1}.
      config: strength of each change; 0 switches it off.
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(slots)
    channels = [masks[..., channel] for channel in range(masks.shape[-1])]
    images, channels = jax.vmap(partial(_augment_one, config))(keys, images[..., 0], channels)
    return images[..., None], jnp.stack(channels, axis=-1)


def _augment_one(
    config: AugmentConfig, key: Key[Array, ""], image: Image, masks: list[Image]
) -> tuple[Image, list[Image]]:
    geometry_key, intensity_key, blur_key, noise_key, look_key = jax.random.split(key, 5)
    matrix = random_affine(geometry_key, config)
    # Without the barriers, XLA fuses, and so repeats, the resampling in each tap of the blur and
    # the whole augmentation in each reader of the result: thirty times the work on a CPU.
    image, *masks = jax.lax.optimization_barrier(affine([image, *masks], matrix))
    masks = [(mask > 0.5).astype(mask.dtype) for mask in masks]
    lungs = jnp.any(jnp.stack(masks) > 0, axis=0)
    image = jax.lax.optimization_barrier(change_appearance(look_key, image, lungs, config))
    if config.blur:
        radius = math.ceil(BLUR_REACH * config.blur)
        image = blur(image, jax.random.uniform(blur_key, maxval=config.blur), radius)
    image = _change_intensity(intensity_key, image, config)
    if config.noise:
        level_key, noise_key = jax.random.split(noise_key)
        level = jax.random.uniform(level_key, maxval=config.noise)
        image = image + level * jax.random.normal(noise_key, image.shape)
    return jax.lax.optimization_barrier((jnp.clip(image, 0, 1), masks))


def random_affine(key: Key[Array, ""], config: AugmentConfig) -> Float[Array, "2 3"]:
    """Returns a random map from output to input coordinates, (row, column, 1) from the centre.

    Coordinates are in units of the image's side.
    """
    rotation, scale, shear, shift, flip, aspect = jax.random.split(key, 6)
    angle = jnp.deg2rad(_symmetric(rotation, config.rotation_degrees))
    zoom = 1 + _symmetric(scale, config.scale, (2,)) * jnp.array([1.0, 0.5])
    # One factor for the size and a weaker one for the aspect ratio: bodies differ in both.
    side = zoom[1] * 2 ** (_symmetric(aspect, math.log2(1 + config.aspect)) / 2)
    stretch = jnp.diag(jnp.stack([zoom[0] * side, zoom[0] / side]))
    rotate = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    skew = jnp.array([[1.0, 0.0], [_symmetric(shear, config.shear), 1.0]])
    linear = rotate @ skew @ stretch
    if config.flip:
        linear = linear @ jnp.diag(jnp.array([1.0, -1.0]) ** jax.random.bernoulli(flip))
    return jnp.concatenate([linear, _symmetric(shift, config.shift, (2, 1))], axis=1)


def _change_intensity(key: Key[Array, ""], image: Image, config: AugmentConfig) -> Image:
    gamma, contrast, brightness = jax.random.split(key, 3)
    # Other changes leave negative values, whose powers would be NaN.
    image = jnp.maximum(image, 1e-6) ** (2 ** _symmetric(gamma, config.gamma))
    image = 0.5 + (image - 0.5) * (1 + _symmetric(contrast, config.contrast))
    return image + _symmetric(brightness, config.brightness)


def _symmetric(key: Key[Array, ""], limit: float, shape: tuple[int, ...] = ()) -> Array:
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)
