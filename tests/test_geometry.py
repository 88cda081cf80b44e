"""The way into the model's square and back must not move anything."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from lungseg_jax.imaging.geometry import fit_to_square, from_square, to_square

SIDES = st.integers(1, 97)
# Shrinking and growing, both aspects, odd and even sides.
PLACEMENTS = [(300, 240, 64), (240, 301, 64), (61, 80, 192), (81, 60, 191), (127, 64, 127)]


def edge_position(profile: np.ndarray) -> float:
    """Where a profile that falls from 1 to 0 has its edge, pixel i covering [i, i + 1)."""
    return float(profile.sum())


def disc(height: int, width: int, row: float, column: float, radius: float) -> np.ndarray:
    """A disc whose edge pixels hold about the share they are covered by."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.clip(radius - np.hypot(rows - row, columns - column) + 0.5, 0, 1).astype(np.float32)


def centroid(pixels: np.ndarray) -> np.ndarray:
    positions = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    return (positions * pixels).sum((1, 2)) / pixels.sum()


@pytest.mark.parametrize(("height", "width", "size"), PLACEMENTS)
def test_a_disc_keeps_its_centre(height, width, size):
    """Corner-aligned resizing, or a padding offset lost, moves the centre by up to a pixel."""
    fit = fit_to_square(height, width, size)
    row, column = 0.41 * height, 0.57 * width
    there = to_square(disc(height, width, row, column, 0.2 * min(height, width)), fit)
    expected = (fit.top + row * fit.height / height, fit.left + column * fit.width / width)
    np.testing.assert_allclose(centroid(there), expected, atol=0.02)
    np.testing.assert_allclose(centroid(from_square(there, fit)), (row, column), atol=0.05)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("height", "width", "size"), PLACEMENTS)
def test_an_edge_keeps_its_place(height, width, size, axis):
    """Half a pixel of shift is enough to spoil surface distances."""
    fit = fit_to_square(height, width, size)
    image = np.zeros((height, width), np.float32)
    half = image.shape[axis] // 2
    image[(slice(half), slice(None))[:: 1 - 2 * axis]] = 1
    there = to_square(image, fit)
    begin, extent = ((fit.top, fit.height), (fit.left, fit.width))[axis]
    middle = (fit.left + fit.width // 2, fit.top + fit.height // 2)[axis]
    profile = there[:, middle] if axis == 0 else there[middle]
    expected = half * extent / image.shape[axis]
    # Sampling the ramp that growing makes of an edge is off by a few hundredths.
    assert edge_position(profile[begin:]) == pytest.approx(expected, abs=0.06)
    back = from_square(there, fit)
    profile = back[:, width // 2] if axis == 0 else back[height // 2]
    assert edge_position(profile) == pytest.approx(half, abs=0.05)


@given(SIDES, SIDES, st.integers(1, 64))
@settings(max_examples=150)
def test_the_whole_image_is_used_and_no_padding_comes_back(height, width, size):
    """A rounded-down extent drops a border; interpolation across it lets padding leak in."""
    fit = fit_to_square(height, width, size)
    there = to_square(np.ones((height, width), np.float32), fit)
    inside = np.zeros((size, size), bool)
    inside[fit.top : fit.top + fit.height, fit.left : fit.left + fit.width] = True
    assert max(fit.height, fit.width) == size
    np.testing.assert_allclose(there, inside, atol=1e-6)
    back = from_square(there, fit)
    assert back.shape == (height, width)
    np.testing.assert_allclose(back, 1, atol=1e-6)


@given(SIDES, SIDES, st.integers(8, 64))
@settings(max_examples=100)
def test_padding_is_centred_and_aspect_kept(height, width, size):
    """Padding on one side only, or a stretched image, would differ from what was trained on."""
    fit = fit_to_square(height, width, size)
    assert 0 <= size - fit.height - 2 * fit.top <= 1
    assert 0 <= size - fit.width - 2 * fit.left <= 1
    exact = np.array([height, width]) * size / max(height, width)
    assert np.all(np.abs([fit.height, fit.width] - np.maximum(exact, 1)) <= 0.5)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_equal_sizes_change_nothing(size, seed):
    """A resize that is no resize must not blur."""
    image = np.random.default_rng(seed).random((size, size), np.float32)
    fit = fit_to_square(size, size, size)
    np.testing.assert_array_equal(to_square(image, fit), image)
    np.testing.assert_array_equal(from_square(image, fit), image)


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_shrinking_averages_every_pixel(factor):
    """Bilinear shrinking skips pixels: noise aliases and thin masks vanish."""
    image = np.random.default_rng(0).random((12 * factor, 12 * factor), np.float32)
    blocks = image.reshape(12, factor, 12, factor).mean((1, 3))
    fit = fit_to_square(12 * factor, 12 * factor, 12)
    np.testing.assert_allclose(to_square(image, fit), blocks, atol=1e-6)


def test_what_lies_in_the_padding_is_cut():
    """A prediction on the padding must not be squeezed into the image."""
    fit = fit_to_square(20, 40, 40)
    square = np.ones((40, 40), np.float32)
    square[fit.top : fit.top + fit.height] = 0
    assert not from_square(square, fit).any()
