"""From probabilities to two lungs."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from lungseg_jax.prediction.postprocessing import fill_holes, keep_lungs, smooth


def field(*boxes: tuple[slice, slice]) -> np.ndarray:
    probabilities = np.full((100, 100), 0.1, np.float32)
    for box in boxes:
        probabilities[box] = 0.9
    return probabilities


RIGHT, LEFT = np.s_[20:80, 10:40], np.s_[20:80, 60:90]


def test_islands_go_and_both_lungs_stay():
    """Fault: a stray island far from the lungs, which Dice hides and distances do not."""
    lungs = field(RIGHT, LEFT) > 0.5
    found = keep_lungs(field(RIGHT, LEFT, np.s_[92:98, 45:55], np.s_[2:6, 2:6]), 0.5)
    np.testing.assert_array_equal(found, lungs)


def test_a_small_second_lung_is_no_island():
    """Fault: the rest of a lung beside a large effusion deleted."""
    small = np.s_[20:28, 60:75]
    np.testing.assert_array_equal(keep_lungs(field(RIGHT, small), 0.5), field(RIGHT, small) > 0.5)


def test_a_lung_cut_in_two_keeps_both_parts():
    """Fault: two largest components, and the lower half of a lung below a device is lost."""
    upper, lower = np.s_[20:48, 60:90], np.s_[52:80, 60:90]
    found = keep_lungs(field(RIGHT, upper, lower), 0.5)
    np.testing.assert_array_equal(found, field(RIGHT, upper, lower) > 0.5)


def test_a_narrow_rest_below_a_lung_is_part_of_it():
    """Fault: a part held against the lung's width, which the base of a lung seldom has."""
    above, below = np.s_[5:50, 60:90], np.s_[55:95, 70:80]
    both = field(RIGHT, above, below)
    np.testing.assert_array_equal(keep_lungs(both, 0.5), both > 0.5)


@pytest.mark.parametrize(("height", "stays"), [(6, False), (15, True)])
def test_a_third_part_has_a_fifth_of_the_largest(height: int, stays: bool):
    """Fault: gas in the stomach, right below a lung, kept by the bound for a second lung."""
    upper, third = np.s_[20:60, 60:90], np.s_[65 : 65 + height, 60:90]
    parts = (RIGHT, upper, third) if stays else (RIGHT, upper)
    found = keep_lungs(field(RIGHT, upper, third), 0.5)
    np.testing.assert_array_equal(found, field(*parts) > 0.5)


def test_a_third_part_is_held_against_the_largest():
    """Fault: gas under a small lung kept, for it is a third of that lung."""
    small, gas = np.s_[20:40, 60:75], np.s_[65:72, 60:75]
    found = keep_lungs(field(RIGHT, small, gas), 0.5)
    np.testing.assert_array_equal(found, field(RIGHT, small) > 0.5)


def test_halves_that_meet_at_a_corner_are_one_lung():
    """Fault: the smaller half, beside the other and not below it, lost as a third part."""
    both = field(RIGHT, np.s_[20:50, 55:70], np.s_[50:80, 70:90])
    np.testing.assert_array_equal(keep_lungs(both, 0.5), both > 0.5)


def test_background_beside_the_body_is_no_lung():
    """Fault: a dark corner, as large as half a lung, kept as a third part."""
    corner = np.s_[20:60, 0:10]
    narrow = np.s_[20:60, 12:30]
    found = keep_lungs(field(narrow, LEFT, corner), 0.5)
    np.testing.assert_array_equal(found, field(narrow, LEFT) > 0.5)


def test_a_speck_is_no_second_lung():
    """Fault: a few pixels kept because nothing else is there."""
    np.testing.assert_array_equal(
        keep_lungs(field(RIGHT, np.s_[50:53, 70:73]), 0.5), field(RIGHT) > 0.5
    )


def test_holes_are_filled_and_bays_are_not():
    """Fault: a hole at a rib, or the space between the lungs taken for one."""
    probabilities = field(RIGHT, LEFT)
    probabilities[40:45, 20:25] = 0.2
    np.testing.assert_array_equal(keep_lungs(probabilities, 0.5), field(RIGHT, LEFT) > 0.5)
    ring = np.zeros((30, 30), bool)
    ring[0:25, 5:25] = True
    ring[10:15, 10:15] = False
    bay = ring.copy()
    bay[10:15, 10:30] = False
    assert fill_holes(ring)[12, 12]
    np.testing.assert_array_equal(fill_holes(bay), bay)


def test_the_space_between_lungs_that_touch_twice_is_no_hole():
    """Fault: the mediastinum filled because a bridge above and one below enclose it."""
    both = field(RIGHT, LEFT, np.s_[20:23, 40:60], np.s_[70:73, 40:60])
    np.testing.assert_array_equal(keep_lungs(both, 0.5), both > 0.5)


def test_a_hole_that_a_corner_closes_is_filled():
    """Fault: a hole left for meeting the outside at a corner, where lung is connected across it."""
    mask = np.ones((9, 9), bool)
    mask[4, 4] = False
    assert fill_holes(mask).all()
    # A bay of the outside that ends diagonally above the hole: lung joins lung between the two.
    mask[0:4, 5] = False
    expected = mask.copy()
    expected[4, 4] = True
    np.testing.assert_array_equal(fill_holes(mask), expected)
    # One that reaches it along a row or a column opens it.
    mask[3, 4] = False
    np.testing.assert_array_equal(fill_holes(mask), mask)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans()))
def test_holes_are_parts_of_the_background_that_the_border_does_not_reach(mask: np.ndarray):
    """Fault: a shortcut for masks without holes that overlooks some."""
    background = ~np.pad(mask, 1)
    parts = np.empty(background.shape, np.int32)
    ndimage.label(background, output=parts)
    sizes = np.bincount(parts.ravel())
    small = sizes <= 0.1 * np.count_nonzero(mask)
    small[[0, parts[0, 0]]] = False
    np.testing.assert_array_equal(fill_holes(mask), mask | small[parts[1:-1, 1:-1]])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_and_everything(value: float):
    """Fault: an error, or an inverted answer, where there is one component or none."""
    assert (keep_lungs(np.full((5, 7), value, np.float32), 0.5) == bool(value)).all()


def test_steps_of_blocks_go_and_the_outline_stays():
    """Fault: outlines in steps of two pixels, or a blur that moves or shrinks them.

    A slanting edge in blocks of 2 × 2 pixels lies within a pixel of the true one; smoothed, it lies
    far nearer, on the same side as often as on the other.
    """
    side, slope = 96, 0.4
    rows, columns = np.mgrid[:side, :side]
    corner = (rows // 2 * 2 + 0.5), (columns // 2 * 2 + 0.5)
    blocky = ((corner[1] - side / 2) > slope * (corner[0] - side / 2)).astype(np.float32)

    def edge_errors(square: np.ndarray) -> np.ndarray:
        # Where a row crosses one half, between pixels, against where the true edge does.
        inner = square[16:-16]
        first = (inner > 0.5).argmax(axis=1)
        index = np.arange(len(inner))
        low, high = inner[index, first - 1], inner[index, first]
        return (
            first
            - 1
            + (0.5 - low) / (high - low)
            - (side / 2 + slope * (np.arange(16, side - 16) - side / 2))
        )

    before, after = edge_errors(blocky), edge_errors(smooth(blocky[..., None])[..., 0])
    assert np.ptp(after) < 0.65 * np.ptp(before)
    assert abs(after.mean() - before.mean()) < 0.1
