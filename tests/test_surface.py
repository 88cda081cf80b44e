"""Surface distances against geometry done by hand and against a distance transform."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import ndimage

from lungseg_jax.imaging.surface import SurfaceDistances, outline, surface_distances

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))


def rectangle(top: int, left: int, height: int, width: int, frame=(80, 90)) -> np.ndarray:
    mask = np.zeros(frame, np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def between(
    first: np.ndarray, second: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)
) -> SurfaceDistances | None:
    return surface_distances(outline(first != 0), outline(second != 0), spacing)


def outline_mask(mask: np.ndarray) -> np.ndarray:
    """The definition, by scipy: pixels that a 4-neighbour erosion removes."""
    cross = ndimage.generate_binary_structure(2, 1)
    return mask & ~np.asarray(ndimage.binary_erosion(mask, cross), bool)


@given(MASKS)
@settings(max_examples=100)
def test_outline_is_what_erosion_removes(mask):
    """Eight neighbours, or a frame that counts as inside, would change every distance."""
    found = np.zeros_like(mask)
    rows, columns = outline(mask).T
    found[rows, columns] = True
    np.testing.assert_array_equal(found, outline_mask(mask))


@given(st.data(), st.floats(0.1, 3), st.floats(0.1, 3))
@settings(max_examples=100)
def test_distances_equal_those_of_a_distance_transform(data, row_spacing, column_spacing):
    """The k-d tree is a fast path; swapped axes or spacing would differ from the plain one."""
    first = data.draw(MASKS)
    second = data.draw(hnp.arrays(bool, first.shape))
    spacing = (row_spacing, column_spacing)
    distances = between(first, second, spacing)
    if not first.any() or not second.any():
        assert distances is None
        return
    assert distances is not None
    one, other = outline_mask(first), outline_mask(second)
    to_other, to_one = (
        np.asarray(ndimage.distance_transform_edt(~points, sampling=spacing))
        for points in (other, one)
    )
    np.testing.assert_allclose(np.sort(distances.forward), np.sort(to_other[one]), atol=1e-9)
    np.testing.assert_allclose(np.sort(distances.backward), np.sort(to_one[other]), atol=1e-9)


def test_rectangle_shifted_along_columns():
    """Spacing taken as (column, row) would give 8.5 mm for what is 12 mm.

    The outline of a 30 x 40 rectangle has 136 pixels. Shifted by 10 columns, the 30 pixels of the
    rear side lie 10 columns from the other's, as far as no row is nearer: the pixel in row i of
    the side (0 from the top) is min(12 mm, distance to the other's top or bottom row) away.
    """
    first, second = rectangle(20, 20, 30, 40), rectangle(20, 30, 30, 40)
    distances = between(first, second, (0.85, 1.2))
    assert distances is not None
    assert distances.forward.size == distances.backward.size == 136
    # By symmetry forward and backward are the same multiset. A pixel of the rear side in row i
    # has 10 columns to the other's rear side. Top and bottom rows: the 10 pixels in the rear (of
    # which one is the corner, counted in the side) are 10, 9, ..., 1 columns away, the others 0.
    rear = np.full(30, 12.0)
    rows = 2 * [1.2 * k for k in range(1, 10)]
    # The front side's pixels (row i) lie inside the other: nearest are its top or bottom row, i
    # rows away, or its front side, 10 columns away.
    front = [min(12.0, 0.85 * i, 0.85 * (29 - i)) for i in range(1, 29)]
    by_hand = np.sort(np.concatenate([rear, rows, front, np.zeros(136 - 30 - 18 - 28)]))
    np.testing.assert_allclose(np.sort(distances.forward), by_hand, atol=1e-9)
    np.testing.assert_allclose(np.sort(distances.backward), by_hand, atol=1e-9)
    assert distances.hd95() == pytest.approx(12.0)
    assert distances.assd() == pytest.approx(by_hand.mean())
    assert distances.surface_dice(2.0) == pytest.approx((by_hand <= 2.0).mean())


def test_tolerance_includes_its_bound():
    """Pixels exactly at the tolerance count as found, else 2 px means 1 px on a grid."""
    first, second = rectangle(10, 10, 1, 5), rectangle(12, 10, 1, 5)
    distances = between(first, second)
    assert distances is not None
    assert distances.surface_dice(2.0) == 1.0
    assert distances.surface_dice(1.99) == 0.0


def test_the_bound_of_the_tolerance_survives_rounding():
    """Fault: twenty pixels of 0.1 mm that are more than 2 mm, depending on where they lie."""
    for top in range(30):
        first, second = rectangle(top, 10, 1, 5), rectangle(top + 20, 10, 1, 5)
        distances = between(first, second, (0.1, 0.1))
        assert distances is not None
        assert distances.surface_dice(2.0) == 1.0
        assert distances.surface_dice(1.9999) == 0.0


def test_hd95_is_the_larger_direction_and_assd_weighs_points():
    """A mean of both directions would hide a false island as long as the rest fits."""
    first = rectangle(20, 20, 1, 20)
    second = first + rectangle(60, 20, 1, 20)
    distances = between(first, second)
    assert distances is not None
    assert np.all(distances.forward == 0)
    assert distances.hd95() == 40.0
    assert distances.assd() == pytest.approx(20 * 40 / 60)
    assert distances.surface_dice(2.0) == pytest.approx(40 / 60)


def test_hd95_is_not_that_of_all_points_together():
    """Fault: a short outline that is far off hidden behind a long one that fits."""
    near, far = np.zeros(100), np.arange(1.0, 11.0)
    # Of ten points the percentile lies 0.95 · 9 steps from the first.
    assert SurfaceDistances(near, far).hd95() == pytest.approx(9.55)
    assert SurfaceDistances(far, near).hd95() == pytest.approx(9.55)


def test_an_empty_mask_has_no_distance():
    """Zero would call a missed lung perfect; infinity would spoil every mean."""
    empty, full = np.zeros((9, 9), np.uint8), np.ones((9, 9), np.uint8)
    assert between(empty, full) is None
    assert between(full, empty) is None
    assert between(empty, empty) is None


def test_a_mask_cut_by_the_frame_has_its_outline_there():
    """A lung that leaves the image would else have an open outline."""
    points = outline(np.ones((5, 7), bool))
    assert len(points) == 2 * 5 + 2 * 7 - 4
