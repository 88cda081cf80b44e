"""What overlays show and where."""

import numpy as np
import pytest

from lungseg_jax.imaging.overlay import (
    MAX_SIDE,
    MIN_WIDTH_OF_WORDS,
    PREDICTION_COLOURS,
    REFERENCE_COLOURS,
    draw_overlay,
    with_words,
)


def box(shape, top, left, bottom, right) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask[..., None]


def drawn(overlay: np.ndarray, colour) -> np.ndarray:
    return np.argwhere((overlay == colour).all(-1))


def test_outlines_lie_on_the_borders_of_their_masks():
    """Swapped axes or swapped colours would show a wrong mask as right."""
    pixels = np.full((60, 80), 0.5, np.float32)
    overlay = draw_overlay(pixels, box((60, 80), 10, 5, 30, 25), box((60, 80), 5, 40, 50, 70))
    assert overlay.shape == (60, 80, 3)
    # The reference's outline reaches one pixel to either side of the border.
    for colour, (top, left, bottom, right), wider in (
        (PREDICTION_COLOURS[0], (10, 5, 29, 24), 0),
        (REFERENCE_COLOURS[0], (5, 40, 49, 69), 1),
    ):
        points = drawn(overlay, colour)
        assert points.min(0).tolist() == [top - wider, left - wider]
        assert points.max(0).tolist() == [bottom + wider, right + wider]
        width = 1 + 2 * wider
        # A disc leaves out the outer corners.
        corners = 4 * wider
        assert len(points) == width * 2 * (bottom - top + right - left) - corners
    untouched = (overlay == overlay[..., :1]).all(-1)
    assert np.all(overlay[untouched] == 128)


def test_holes_have_outlines_too():
    """Fault: a mask with a hole shown as whole."""
    ring = box((40, 40), 5, 5, 35, 35) & ~box((40, 40), 15, 15, 25, 25)
    overlay = draw_overlay(np.zeros((40, 40), np.float32), ring)
    points = drawn(overlay, PREDICTION_COLOURS[0])
    assert points[points[:, 1] == 20, 0].tolist() == [5, 14, 25, 34]


def test_prediction_lies_over_reference():
    """Hidden under the reference, a perfect prediction would look absent."""
    mask = box((40, 40), 10, 10, 30, 30)
    overlay = draw_overlay(np.zeros((40, 40), np.float32), mask, mask)
    assert len(drawn(overlay, PREDICTION_COLOURS[0])) == 4 * 19
    # Fault: a reference that nobody sees where the two agree.
    beside = drawn(overlay, REFERENCE_COLOURS[0])
    assert {*beside[beside[:, 1] == 20, 0].tolist()} == {9, 11, 28, 30}


def test_a_third_class_is_drawn_too():
    """Fault: an error for labels with more classes than there are colours."""
    three = np.concatenate([box((40, 60), 10, left, 30, left + 10) for left in (2, 20, 45)], -1)
    overlay = draw_overlay(np.zeros((40, 60), np.float32), three)
    assert drawn(overlay, PREDICTION_COLOURS[0])[:, 1].max() == 54


def test_two_lungs_have_colours_of_their_own():
    """Exchanged sides must be seen as such, not as a perfect prediction."""
    right, left = box((40, 60), 10, 5, 30, 20), box((40, 60), 10, 35, 30, 50)
    reference = np.concatenate([right, left], axis=-1)
    for predicted, order in ((reference, (0, 1)), (reference[..., ::-1], (1, 0))):
        overlay = draw_overlay(np.zeros((40, 60), np.float32), predicted)
        columns = [drawn(overlay, PREDICTION_COLOURS[i])[:, 1] for i in order]
        assert (columns[0].min(), columns[0].max()) == (5, 19)
        assert (columns[1].min(), columns[1].max()) == (35, 49)
    overlay = draw_overlay(np.zeros((40, 60), np.float32), np.zeros_like(reference), reference)
    assert drawn(overlay, REFERENCE_COLOURS[0])[:, 1].max() == 20
    assert drawn(overlay, REFERENCE_COLOURS[1])[:, 1].min() == 34
    assert len({*PREDICTION_COLOURS, *REFERENCE_COLOURS}) == 4


@pytest.mark.parametrize("shape", [(2600, 1300), (1301, 2602)])
def test_large_images_shrink_and_outlines_stay_in_place(shape):
    """Nearest-neighbour shrinking shifts outlines against the image."""
    height, width = shape
    mask = box(shape, height // 4, width // 4, height // 4 + 700, width // 4 + 600)
    overlay = draw_overlay(np.zeros(shape, np.float32), mask)
    assert max(overlay.shape) == MAX_SIDE
    scale = MAX_SIDE / max(shape)
    expected = np.array([height // 4 + 350, width // 4 + 300]) * scale
    centre = drawn(overlay, PREDICTION_COLOURS[0]).mean(0) + 0.5
    np.testing.assert_allclose(centre, expected, atol=0.3)


def test_intensities_out_of_range_are_clipped():
    """Wrapped around, overexposed bone would turn black."""
    pixels = np.full((8, 8), 1.3, np.float32)
    pixels[:4] = -0.2
    overlay = draw_overlay(pixels, np.zeros((8, 8, 1), bool))
    assert np.all(overlay[:4] == 0)
    assert np.all(overlay[4:] == 255)


def test_a_sliver_of_an_image_is_drawn():
    """A side rounded to zero pixels would stop the whole run."""
    overlay = draw_overlay(np.zeros((1, 4000), np.float32), np.zeros((1, 4000, 1), bool))
    assert overlay.shape == (1, MAX_SIDE, 3)


@pytest.mark.parametrize(("side", "width"), [(240, 1), (512, 3), (1024, 5)])
def test_outlines_are_as_wide_as_the_image_needs(side: int, width: int):
    """Fault: lines that vanish where a large overlay is shown small, or hide a small image."""
    mask = box((side, side), side // 4, side // 4, side // 2, side // 2)
    overlay = draw_overlay(np.zeros((side, side), np.float32), mask, np.zeros_like(mask))
    across = drawn(overlay, PREDICTION_COLOURS[0])
    columns = across[across[:, 0] == 3 * side // 8, 1]
    assert np.diff(columns).tolist().count(1) == 2 * (width - 1)
    assert np.median(columns[:width]) == side // 4
    # The reference's reaches as far again to both sides, and one pixel more.
    reference = draw_overlay(np.zeros((side, side), np.float32), np.zeros_like(mask), mask)
    wide = drawn(reference, REFERENCE_COLOURS[0])
    assert (wide[:, 0] == 3 * side // 8).sum() == 2 * (2 * width + 1)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("sides", [False, True])
def test_words_lie_below_the_image_and_name_the_colours_that_are_used(sides, reference):
    """Fault: words over the lungs, a colour that nobody explains, or one that is not there."""
    said = "rejected: " + 60 * "much to say "
    for width in (MIN_WIDTH_OF_WORDS, 1024):
        image = np.zeros((40, width, 3), np.uint8)
        shown = with_words(image, said, sides=sides, reference=reference)
        np.testing.assert_array_equal(shown[:40], image)
        strip = shown[40:]
        # Fault: a long reason, or a colour's name, that runs out of the image unseen.
        assert not strip[:, -4:].any()
        # Fault: a reason that ends in the middle of a word.
        one_word, none = (
            with_words(image, f"rejected: {rest}", sides=sides, reference=reference)
            for rest in (300 * "x", "...")
        )
        np.testing.assert_array_equal(one_word, none)
    for colours, used in ((PREDICTION_COLOURS, True), (REFERENCE_COLOURS, reference)):
        for number, colour in enumerate(colours):
            assert bool(len(drawn(strip, colour))) == (used and (sides or number == 0))
    narrow = image[:, : MIN_WIDTH_OF_WORDS - 1]
    assert with_words(narrow, said, sides=sides, reference=reference) is narrow
