"""Affine maps and blur of images, either by addressing or by matrix products.

A CPU or a GPU reads any pixel as cheaply as its neighbour. A TPU gathers one value at a time and
moves values between lanes slowly, but multiplies matrices at little cost: there, and only there,
both operations are written as matrix products.

Products move pixels along one axis at a time (Catmull and Smith 1980): the map from output to
input coordinates, here without its shifts, is a map along rows times one along columns,

    [[a, b], [d, e]] = [[1, 0], [d/a, e - b d/a]] · [[a, b], [0, 1]].

With output (R, C) and input (r, c), the pass along rows makes an image of rows r and columns C
by reading the input at c = (e - b d/a) C + (d/a) r, in the same row. The pass along columns makes
the output by reading that image at r = a R + b C, in the same column.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Image = Float[Array, "h w"]
Matrix = Float[Array, "2 3"]

# Each frequency is a multiple of this plus a remainder.
_TABLE_STRIDE = 16


def affine(images: list[Image], matrix: Matrix) -> list[Image]:
    """Returns images of one size, all moved alike; outside the frame they are 0.

    Bilinear; on a TPU the same, but without the frequencies above the pixels' own that linear
    interpolation adds: radiographs of 256² differ by .002 on average, and by up to .1 at letters
    and at the frame.

    Args:
      images: images of any values.
      matrix: map from output to input coordinates, (row, column, 1) from the centre in units of
        the sides. On a TPU it must turn by less than 90 degrees.
    """
    return jax.lax.platform_dependent(
        images,
        matrix,
        tpu=affine_by_products,
        default=lambda images, matrix: [affine_by_gathers(x, matrix) for x in images],
    )


def affine_by_gathers(image: Image, matrix: Matrix) -> Image:
    """Returns one image moved as by `affine`, looking up four pixels for each."""
    height, width = image.shape
    row, column = _sources(image.shape, matrix)
    low_row, low_column = jnp.floor(row), jnp.floor(column)
    down, right = row - low_row, column - low_column
    # A border of zeros supplies the neighbours outside; farther out nothing of the image is left.
    padded = jnp.pad(image, 1)
    i = jnp.clip(low_row, -1, height - 1).astype(jnp.int32) + 1
    j = jnp.clip(low_column, -1, width - 1).astype(jnp.int32) + 1
    above = padded[i, j] * (1 - right) + padded[i, j + 1] * right
    below = padded[i + 1, j] * (1 - right) + padded[i + 1, j + 1] * right
    return jnp.where(_inside(row, column, image.shape), above * (1 - down) + below * down, 0)


def affine_by_products(images: list[Image], matrix: Matrix) -> list[Image]:
    """Returns images moved as by `affine`, along rows and then along columns.

    Each pass stretches all rows alike and shifts each row by its own amount. Shifting a sum of
    waves rotates each wave's phase, so that a pass consists of two products.
    """
    (down_row, down_column, down), (right_row, right_column, right) = matrix
    # The first pass knows the row that it reads, r = down_row R + down_column C + down, and not yet
    # the output's row R. With R = (r - down_column C - down) / down_row the column to read,
    # right_row R + right_column C + right, is a function of r and C, whose slope in r is this:
    shear = right_row / down_row
    rows_moved = _move_along_rows_and_transpose(
        images, right_column - shear * down_column, shear, right - shear * down
    )
    # Columns are stored as rows now, and come back as columns.
    moved = _move_along_rows_and_transpose(rows_moved, down_row, down_column, down)
    # Waves go on beyond the frame, and ring at its edge.
    shape = images[0].shape
    inside = _inside(*_sources(shape, matrix), shape)
    return [jnp.where(inside, image, 0) for image in moved]


def blur(image: Image, sigma: Float[Array, ""], radius: int) -> Image:
    """Returns the image after a Gaussian blur of `sigma` pixels, truncated at `radius`.

    Edge pixels are repeated.
    """
    offsets = jnp.arange(-radius, radius + 1)
    kernel = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-3)) ** 2)
    kernel /= kernel.sum()
    return jax.lax.platform_dependent(
        image, kernel, tpu=filter_by_products, default=filter_by_slices
    )


def filter_by_slices(image: Image, kernel: Float[Array, " k"]) -> Image:
    """Returns the image filtered along both axes; the kernel's length is odd."""
    radius = len(kernel) // 2
    for axis in (0, 1):
        pad = [(radius, radius) if i == axis else (0, 0) for i in (0, 1)]
        padded = jnp.pad(image, pad, mode="edge")
        size = image.shape[axis]
        image = sum(
            kernel[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i in range(2 * radius + 1)
        )  # type: ignore[assignment]
    return image


def filter_by_products(image: Image, kernel: Float[Array, " k"]) -> Image:
    """Returns the same as `filter_by_slices`, as the product with a matrix for each axis."""
    rows, columns = (_filter_matrix(side, kernel) for side in image.shape)
    return rows @ image @ columns.T


def _sources(shape: tuple[int, ...], matrix: Matrix) -> tuple[Image, Image]:
    """Returns the row and the column, in pixels, that each pixel is read at."""
    row, column = _centres(shape[0])[:, None], _centres(shape[1])[None, :]
    source_row, source_column = (
        (matrix[i, 0] * row + matrix[i, 1] * column + matrix[i, 2] + 0.5) * shape[i] - 0.5
        for i in (0, 1)
    )
    return source_row, source_column


def _inside(row: Image, column: Image, shape: tuple[int, ...]) -> Bool[Array, "h w"]:
    """Returns where some neighbour of the position (row, column) belongs to the image."""
    return (row >= -1) & (row < shape[0]) & (column >= -1) & (column < shape[1])


def _move_along_rows_and_transpose(
    images: list[Image], scale: Array, shear: Array, offset: Array
) -> list[Float[Array, "w h"]]:
    """Returns the transpose of each image, with each row stretched and shifted.

    [o, r] of a result is [r, scale o + shear r + offset] of the image, in units of the sides.

    A row is a sum of waves of period 2, so that as much black as image lies between its repeats.
    At the place x + s, where x = scale o + offset and s = shear r, wave k of coefficients p and q
    is, with u = π k x and v = π k s,

        p cos(u + v) + q sin(u + v) = (p cos v + q sin v) cos u + (q cos v - p sin v) sin u:

    the shift of a row is a rotation of its coefficients, and cos u and sin u fit all rows.
    """
    height, width = images[0].shape
    frequency = np.arange(width)
    phase = np.pi * _centres(width)[:, None] * frequency
    # The last factor is a triangle's spectrum: what linear interpolation leaves of a wave.
    weight = np.where(frequency == 0, 0.5, 1) / width * np.sinc(frequency / (2 * width)) ** 2
    cosine_analysis, sine_analysis = (
        jnp.asarray(weight * wave, jnp.float32) for wave in (np.cos(phase), np.sin(phase))
    )
    rotation_cosine, rotation_sine = _waves(shear * _centres(height), width)
    # Without the barrier, every product would compute the tables again.
    cosine, sine = jax.lax.optimization_barrier(_waves(scale * _centres(width) + offset, width))
    moved = []
    for image in images:
        cosine_part, sine_part = cosine_analysis.T @ image.T, sine_analysis.T @ image.T
        shifted_cosine_part = cosine_part * rotation_cosine + sine_part * rotation_sine
        shifted_sine_part = sine_part * rotation_cosine - cosine_part * rotation_sine
        moved.append(cosine.T @ shifted_cosine_part + sine.T @ shifted_sine_part)
    return moved


def _waves(place: Float[Array, " p"], count: int) -> list[Float[Array, "k p"]]:
    """Returns the cosine and the sine of π k times each place, for k below `count`."""
    phase = jnp.pi * place
    fine_cosine, fine_sine = _waves_of_multiples(phase, _TABLE_STRIDE)
    cosine, sine = _waves_of_multiples(_TABLE_STRIDE * phase, -(-count // _TABLE_STRIDE))
    tables = _rotate_phase(cosine[:, None], sine[:, None], fine_cosine, fine_sine)
    return [table.reshape(-1, len(place))[:count] for table in tables]


def _waves_of_multiples(phase: Float[Array, " p"], count: int) -> list[Float[Array, "k p"]]:
    """Returns cosine and sine of 0, 1, … times each phase, by doubling: sines are slow on a TPU."""
    cosine, sine = jnp.cos(phase), jnp.sin(phase)
    cosines, sines = jnp.ones((1, len(phase))), jnp.zeros((1, len(phase)))
    while len(cosines) < count:
        more_cosines, more_sines = _rotate_phase(cosines, sines, cosine, sine)
        cosines = jnp.concatenate([cosines, more_cosines])
        sines = jnp.concatenate([sines, more_sines])
        cosine, sine = _rotate_phase(cosine, sine, cosine, sine)
    return [cosines[:count], sines[:count]]


def _rotate_phase(
    cosine: Array, sine: Array, by_cosine: Array, by_sine: Array
) -> tuple[Array, Array]:
    """Returns cosine and sine of the sum of two phases, from those of each."""
    return cosine * by_cosine - sine * by_sine, sine * by_cosine + cosine * by_sine


def _filter_matrix(side: int, kernel: Float[Array, " k"]) -> Float[Array, "s s"]:
    """Returns the matrix that filters a column when multiplied from the left, edges repeated."""
    place = jnp.arange(side)
    radius = len(kernel) // 2
    reads = (
        jnp.clip(place + i - radius, 0, side - 1)[:, None] == place for i in range(len(kernel))
    )
    return sum(weight * is_read for weight, is_read in zip(kernel, reads, strict=True))  # type: ignore[return-value]


def _centres(side: int) -> np.ndarray:
    return ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
