"""Reasons to reject a mask."""

from pathlib import Path

import numpy as np
import pytest

from lungseg_jax.imaging.mask_file import read_mask
from lungseg_jax.imaging.sides import split_lungs
from lungseg_jax.prediction.plausibility import doubts, remarks
from tests.images import SHARED
from tfds_builder.sources import list_source

REAL = SHARED / "chest_xray_512"

NONE = (slice(0, 0), slice(0, 0))


def judged(right, left, dice: float = 0.96) -> str:
    masks = [np.zeros((100, 100), bool) for _ in range(2)]
    masks[0][right] = masks[1][left] = True
    return "; ".join(doubts(*masks, dice))


GOOD = np.s_[20:80, 10:45], np.s_[20:80, 55:90]


def test_two_lungs_pass():
    """Fault: good masks rejected; a lung that touches the side, as many do."""
    assert judged(*GOOD) == ""
    assert judged(np.s_[0:80, 0:45], GOOD[1]) != ""
    assert judged(np.s_[20:80, 5:45], np.s_[20:80, 55:100]) != ""
    touching = np.zeros((100, 100), bool)
    touching[20:80, 10:45] = touching[60:70, 0:10] = True
    other = np.zeros_like(touching)
    other[GOOD[1]] = True
    assert list(doubts(touching, other, 0.96)) == []
    # 25 rows at the side are less than half of the height, 80, and more than half of the width.
    assert judged(np.s_[60:85, 0:20], np.s_[5:85, 40:60]) == ""
    # A fifth of the other, 35 x 60 pixels.
    assert judged(GOOD[0], np.s_[20:41, 55:75]) == ""


@pytest.mark.parametrize(
    ("right", "left", "dice", "reason"),
    [
        (NONE, NONE, 0.0, "lungs cover 0 % of the image"),
        (np.s_[50:58, 40:47], np.s_[50:58, 60:67], 0.0, "lungs cover 1 % of the image"),
        (np.s_[50:58, 40:42], np.s_[50:58, 60:62], 0.0, "lungs cover 0.3 % of the image"),
        (np.s_[0:100, 0:50], np.s_[0:100, 50:100], 0.99, "lungs cover 100 % of the image"),
        (GOOD[0], NONE, 0.96, "only one lung"),
        (GOOD[0], np.s_[20:30, 55:75], 0.96, "one lung has 10 % of the other's area"),
        (np.s_[0:60, 10:45], np.s_[0:60, 55:90], 0.96, "lungs out of view at the top"),
        # 25 columns of 40, where lungs are 80 rows high.
        (np.s_[0:80, 10:35], np.s_[10:80, 60:75], 0.96, "lungs out of view at the top"),
        (np.s_[40:100, 10:45], np.s_[40:100, 55:90], 0.96, "lungs out of view at the bottom"),
        (np.s_[20:80, 0:45], GOOD[1], 0.96, "lungs out of view at the viewer's left"),
        (GOOD[0], np.s_[20:80, 55:100], 0.96, "lungs out of view at the viewer's right"),
        (*GOOD, 0.5, "uncertain: estimated Dice 0.500, below 0.9"),
    ],
)
def test_what_is_wrong_is_said(right, left, dice: float, reason: str):
    """Fault: a cut-off chest, a hand or an empty mask among the accepted."""
    assert reason in judged(right, left, dice)


@pytest.mark.parametrize(
    ("inside", "outside", "reason"),
    [
        # 4 % of the image, 200 of 10,000 pixels for each lung.
        (
            (np.s_[20:40, 20:30], np.s_[20:40, 70:80]),
            (np.s_[20:40, 20:30], np.s_[20:39, 70:80]),
            "lungs cover 4 % of the image",
        ),
        # 75 %, 4,900 and 2,600 pixels.
        (
            (np.s_[1:99, 1:51], np.s_[1:66, 51:91]),
            (np.s_[1:99, 1:51], np.s_[1:67, 51:91]),
            "lungs cover 75 % of the image",
        ),
        # A fifth of the other lung.
        (
            (np.s_[20:60, 20:30], np.s_[20:60, 40:90]),
            (np.s_[20:59, 20:30], np.s_[20:60, 40:90]),
            "one lung has 20 % of the other's area",
        ),
        # Half of the lungs' width.
        (
            (np.s_[0:60, 10:50], np.s_[20:60, 50:90]),
            (np.s_[0:60, 10:51], np.s_[20:60, 51:90]),
            "lungs out of view at the top over 51 % of their width",
        ),
    ],
)
def test_what_is_rejected_begins_at_the_documented_bounds(inside, outside, reason: str):
    """Fault: a bound moved without a word, by which masks of an archive pass or fail."""
    assert judged(*inside) == ""
    assert judged(*outside) == reason


def test_an_image_unlike_a_chest_is_doubted_whatever_its_mask():
    """Fault: two shapes on a hand accepted as lungs."""
    masks = [np.zeros((100, 100), bool) for _ in range(2)]
    masks[0][GOOD[0]] = masks[1][GOOD[1]] = True
    assert list(doubts(*masks, 0.96, looks_frontal=False)) == ["does not look like a frontal chest"]


@pytest.mark.parametrize(
    ("right", "left", "said"),
    [
        (*GOOD, []),
        # A base, whose angle no area counts: 35 of 80 columns.
        (np.s_[20:80, 10:55], np.s_[20:100, 55:90], ["bottom over 44 % of their width"]),
        # One row of 60 is a touch.
        (np.s_[20:21, 0:45], np.s_[20:80, 55:90], []),
        (np.s_[20:32, 0:45], np.s_[20:80, 55:90], ["viewer's left over 20 % of their height"]),
        # A corner.
        (
            np.s_[80:100, 0:20],
            np.s_[20:60, 55:100],
            ["bottom over 31 % of their width", "viewer's left over 33 % of their height"],
        ),
        # Rejected, and so not noted, too.
        (np.s_[20:100, 10:45], np.s_[20:100, 55:90], []),
        (NONE, NONE, []),
    ],
)
def test_lungs_that_reach_the_border_are_noted(right, left, said: list[str]):
    """Fault: the area of a lung whose base is out of view, passed on without a word."""
    masks = [np.zeros((100, 100), bool) for _ in range(2)]
    masks[0][right] = masks[1][left] = True
    noted = list(remarks(*masks))
    assert len(noted) == len(said)
    assert all(text in note for text, note in zip(said, noted, strict=True))


@pytest.mark.skipif(not REAL.exists(), reason=f"no real radiographs in {REAL}")
def test_reference_masks_pass():
    """Fault: bounds on shape and place that lungs of real patients do not keep."""
    rejected = {}
    for case in list_source("kaggle", REAL).cases:
        mask = read_mask(Path(case.masks[0].path).read_bytes(), case.example_id) > 0
        if reasons := list(doubts(*split_lungs(mask), 1.0)):
            rejected[case.example_id] = reasons
    assert rejected == {"CHNCXR_0603_1": ["only one lung"]}
