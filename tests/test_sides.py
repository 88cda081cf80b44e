"""Right from left, the right way round and mirrored."""

import numpy as np
import pytest

from lungseg_jax.imaging.sides import asymmetry, orientation_score, split_lungs, way_round
from tests.images import shared_phantom


def boxes(*where: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((60, 100), bool)
    for box in where:
        mask[box] = True
    return mask


def test_parts_go_to_their_side():
    """Fault: a part in two pieces split between the lungs."""
    left = boxes(np.s_[10:30, 10:30], np.s_[34:50, 12:40])
    right = boxes(np.s_[10:50, 60:90])
    for found, expected in zip(split_lungs(left | right), (left, right), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_lungs_that_touch_are_cut_where_they_are_narrowest():
    """Fault: both lungs named after one side because a bridge of pixels joins them."""
    both = boxes(np.s_[10:50, 10:45], np.s_[30:32, 45:55], np.s_[10:50, 55:90])
    left, right = split_lungs(both)
    np.testing.assert_array_equal(left | right, both)
    assert not (left & right).any()
    assert left[:, :45].sum() == boxes(np.s_[10:50, 10:45]).sum()
    assert right[:, 55:].sum() == boxes(np.s_[10:50, 55:90]).sum()


def test_lungs_that_touch_are_cut_beside_a_third_part_too():
    """Fault: a speck of lung elsewhere, for which both lungs are given to one side again."""
    both = boxes(np.s_[10:50, 10:45], np.s_[30:32, 45:55], np.s_[10:50, 55:90])
    speck = boxes(np.s_[52:58, 60:80])
    left, right = split_lungs(both | speck)
    np.testing.assert_array_equal(left[:, :45], both[:, :45])
    np.testing.assert_array_equal(right[:, 55:], (both | speck)[:, 55:])
    assert not left[:, 55:].any()
    assert not right[:, :45].any()


def test_what_meets_a_lung_at_a_corner_is_of_that_lung():
    """Fault: the base of the right lung called left, because a diagonal was taken for a gap."""
    left = boxes(np.s_[10:40, 5:35])
    right = boxes(np.s_[10:50, 70:95], np.s_[50:56, 30:70])
    for found, expected in zip(split_lungs(left | right), (left, right), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("start", [0, 50])
def test_an_only_lung_in_two_pieces_has_its_side(start: int):
    """Fault: a lung that a device cuts in two called two lungs, though both lie in one half."""
    lung = boxes(np.s_[10:50, start + 5 : start + 20], np.s_[10:50, start + 25 : start + 45])
    left, right = split_lungs(lung)
    np.testing.assert_array_equal(left if start == 0 else right, lung)
    assert not (right if start == 0 else left).any()


def test_a_wide_bridge_is_cut_in_the_middle():
    """Fault: the whole bridge given to one lung, for all its columns are as narrow."""
    both = boxes(np.s_[10:50, 4:34], np.s_[30:32, 34:54], np.s_[10:50, 54:90])
    left, right = split_lungs(both)
    np.testing.assert_array_equal(left[:, :44], both[:, :44])
    np.testing.assert_array_equal(right[:, 44:], both[:, 44:])
    assert not left[:, 44:].any()


@pytest.mark.parametrize("columns", [slice(5, 35), slice(65, 95)])
def test_one_lung_has_its_side(columns: slice):
    """Fault: half of an only lung called the other one."""
    lung = boxes(np.s_[10:50, columns])
    left, right = split_lungs(lung)
    assert (left if columns.start < 50 else right).sum() == lung.sum()


@pytest.mark.parametrize(("first", "last"), [(12, 57), (30, 80)])
def test_one_lung_that_reaches_over_the_middle_is_not_cut(first: int, last: int):
    """Fault: a lung that has moved into an empty half called two lungs."""
    rows, columns = np.mgrid[:60, :100]
    middle, reach = (first + last) / 2, (last - first) / 2
    lung = np.hypot((rows - 30) / 25, (columns - middle) / reach) < 1
    left, right = split_lungs(lung)
    assert sorted((left.sum(), right.sum())) == [0, lung.sum()]
    assert bool(left.any()) == (middle < 50)


def test_a_tilted_chest_is_not_cut():
    """Fault: a cut at the middle column where lungs overlap in columns."""
    rows, columns = np.mgrid[:60, :100]
    left = np.abs(columns - 20 - rows // 2) < 12
    right = np.abs(columns - 55 - rows // 2) < 12
    for found, expected in zip(split_lungs(left | right), (left, right), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_nothing_is_split_into_nothing():
    """Fault: an error where the network found no lung."""
    assert not any(found.any() for found in split_lungs(boxes()))


def test_the_score_of_a_mirror_image_is_opposite():
    """Fault: a box or a resize that is off by a pixel on one side."""
    phantom = shared_phantom(3, 1)
    image, lungs = phantom.image, phantom.left_lung | phantom.right_lung
    score = orientation_score(image, lungs)
    assert orientation_score(image[:, ::-1], lungs[:, ::-1]) == pytest.approx(-score, abs=1e-4)


def test_the_score_does_not_depend_on_contrast():
    """Fault: a mirrored image of low contrast that passes, for its heart hardly counts."""
    phantom = shared_phantom(3, 1)
    image, lungs = phantom.image, phantom.left_lung | phantom.right_lung
    score = orientation_score(image, lungs)
    assert orientation_score(0.3 * image + 0.4, lungs) == pytest.approx(score, abs=0.02)


@pytest.mark.parametrize(("rows", "counts"), [(np.s_[50:60], True), (np.s_[60:], False)])
def test_what_lies_a_quarter_below_the_lungs_counts(rows: slice, counts: bool):
    """Fault: liver and stomach, which tell the sides best, left out; or the whole belly taken."""
    lungs = np.zeros((80, 100), bool)
    lungs[10:50, 10:40] = lungs[10:50, 60:90] = True
    image = np.random.default_rng(0).random(lungs.shape)
    changed = image.copy()
    changed[rows, 10:40] = 1
    assert (asymmetry(changed, lungs) != asymmetry(image, lungs)).any() == counts


@pytest.mark.parametrize("side", ["right_lung", "left_lung"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6])
def test_an_effusion_makes_no_mirror_image(side: str, kept: float):
    """Fault: the smaller lung taken for the left one, as it is in health."""
    for index in range(6):
        phantom = shared_phantom(5, index)
        image = phantom.image.copy()
        lungs = {name: getattr(phantom, name).copy() for name in ("right_lung", "left_lung")}
        rows = np.flatnonzero(lungs[side].any(1))
        bottom = rows[0] + round(kept * (rows[-1] - rows[0]))
        below = lungs[side].copy()
        below[:bottom] = False
        image[below] = 0.9
        lungs[side] &= ~below
        assert way_round(image, lungs["right_lung"], lungs["left_lung"]) != "mirrored"
