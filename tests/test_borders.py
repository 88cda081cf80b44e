"""Bars beside the exposed field."""

import cv2
import numpy as np
import pytest

from lungseg_jax.imaging.borders import between_bars, blacken_white_bars, exposed_field
from lungseg_jax.imaging.files import radiograph_of
from tfds_builder.phantom import generate_phantom

FIELD = generate_phantom(5, 2).image.astype(np.float32)


@pytest.mark.parametrize(
    "sides",
    [
        ((30, 40), (50, 0)),
        ((0, 0), (20, 20)),
        ((1, 0), (0, 0)),
        ((0, 30), (0, 0)),
        ((0, 0), (20, 0)),
        ((0, 0), (0, 20)),
    ],
)
@pytest.mark.parametrize("grey", [1.0, 0.97])
def test_white_bars_are_blackened_and_nothing_else(sides, grey):
    """Fault: unexposed plate taken for bone; a bar cut off a line too early or too late."""
    image = np.pad(FIELD, sides, constant_values=np.float32(grey))
    # What sets the white that bars are near to.
    image[image.shape[0] // 2, image.shape[1] // 2] = 1
    found, had_bars = blacken_white_bars(image)
    assert had_bars
    expected = np.pad(FIELD, sides)
    expected[image.shape[0] // 2, image.shape[1] // 2] = 1
    np.testing.assert_array_equal(found, expected)


def test_a_white_bar_may_have_dust_at_the_border():
    """Fault: a bar left white for a dark pixel in the outermost line, where a shortcut looks."""
    dusty = np.pad(FIELD, ((30, 0), (0, 0)), constant_values=1)
    dusty[0, 100] = 0
    found, had_bars = blacken_white_bars(dusty)
    assert had_bars
    np.testing.assert_array_equal(found, np.pad(FIELD, ((30, 0), (0, 0))))


def test_a_white_bar_may_end_in_a_line_that_is_not_quite_white():
    """Fault: an unexposed border left white, because interpolation made its edge soft."""
    soft = np.pad(FIELD, 1, constant_values=np.float32(0.9))
    found, had_bars = blacken_white_bars(np.pad(soft, 30, constant_values=1))
    assert had_bars
    np.testing.assert_array_equal(found, np.pad(soft, 30))


def test_an_image_without_bars_stays_as_it_is():
    """Fault: white lines within the image, or a white image, blackened."""
    lines = FIELD.copy()
    lines[200] = lines[:, 300] = 1
    # Fault: an image of which little would be left in one direction alone.
    height, width = FIELD.shape
    mostly_white = [
        np.pad(FIELD, sides, constant_values=1)
        for sides in (4 * height, ((4 * height,), (0,)), ((0,), (4 * width,)))
    ]
    for image in (FIELD, lines, *mostly_white, np.ones((9, 9), np.float32)):
        found, had_bars = blacken_white_bars(image)
        assert not had_bars
        np.testing.assert_array_equal(found, image)


def test_a_white_belly_is_no_bar():
    """Fault: the lower part of a bright image cut off, and the lungs' angles with it."""
    darker = np.linspace(0, 0.7, 300, dtype=np.float32)[::-1, None]
    faded = np.concatenate([FIELD, 1 - darker * np.ones((1, FIELD.shape[1]), np.float32)])
    faded = np.concatenate([faded, np.ones((30, FIELD.shape[1]), np.float32)])
    found, had_bars = blacken_white_bars(faded)
    assert not had_bars
    np.testing.assert_array_equal(found, faded)


def test_black_bars_within_white_ones_are_cut_too():
    """Fault: bars of one kind that hide those of the other from the comparison with a chest."""
    grey = np.random.default_rng(0).uniform(0.3, 0.9, (90, 120)).astype(np.float32)
    for inner, outer in ((0, 1), (1, 0)):
        framed = np.pad(np.pad(grey, 20, constant_values=inner), 30, constant_values=outer)
        assert between_bars(framed) == (50, 50, 90, 120)


def test_a_framed_chest_is_a_chest_either_way_up_in_grey():
    """Fault: bedside images with unexposed borders refused, or their borders left white."""
    framed = np.pad(FIELD, 90, constant_values=1)
    for image in (framed, 1 - framed):
        radiograph = radiograph_of(image)
        assert radiograph.looks_frontal
        np.testing.assert_allclose(radiograph.pixels[90:-90, 90:-90], FIELD, atol=1e-6)
        assert not radiograph.pixels[:90].any()
        assert any("white bars" in note for note in radiograph.notes)


@pytest.mark.parametrize("margins", [((300, 500), (420, 380)), ((90, 10), (700, 300))])
def test_wide_bars_are_cut_off(margins):
    """Fault: a child on a large plate seen as a few pixels; a part of the field cut off with it."""
    grey = np.random.default_rng(0).uniform(0.2, 0.9, (400, 500)).astype(np.float32)
    image = np.pad(grey, margins)
    box = exposed_field(image)
    (above, _), (before, _) = margins
    thumbnail = [-(-side // 128) for side in image.shape]
    for start, length, at, side, pixel in (
        (box.top, box.height, above, 400, thumbnail[0]),
        (box.left, box.width, before, 500, thumbnail[1]),
    ):
        assert at - 2 * pixel <= start <= at + pixel
        assert at + side - pixel <= start + length <= at + side + 2 * pixel


@pytest.mark.parametrize("shadow", ["grey", "noise", "scatter", "text"])
def test_wide_bars_need_not_be_black(shadow: str):
    """Fault: a child not found in bars that scattered rays, or a line of text, have brightened."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:1200, :1300]
    outside = np.maximum(np.abs(rows - 600) - 200, np.abs(columns - 650) - 250)
    image = np.full((1200, 1300), 0.0 if shadow in ("scatter", "text") else 0.15, np.float32)
    if shadow == "noise":
        image += random.normal(0, 0.02, image.shape).astype(np.float32)
    if shadow == "scatter":
        image = np.clip(0.16 - 0.0008 * outside, 0, 1).astype(np.float32)
    if shadow == "text":
        page = np.zeros(image.shape, np.uint8)
        cv2.putText(page, "PORTABLE 12:30", (60, 120), cv2.FONT_HERSHEY_SIMPLEX, 2, 255, 8)
        image = page / np.float32(255)
    image[400:800, 400:900] = random.uniform(0, 1, (400, 500))
    top, left, height, width = exposed_field(image)
    assert top <= 400
    assert left <= 400
    assert top + height >= 800
    assert left + width >= 900
    # Where scatter is brightest, a rim of it remains.
    assert (height, width) <= ((700, 800) if shadow == "scatter" else (440, 540))


@pytest.mark.parametrize("index", range(6))
def test_a_marker_does_not_make_a_dark_image_shadow(index: int):
    """Fault: lungs cut off, because against a white marker all greys of a chest are dark."""
    image = 0.1 + 0.2 * generate_phantom(5, index).image.astype(np.float32)
    image[:12, :12], image[-1, -1] = 1, 0
    assert exposed_field(image) == (0, 0, *image.shape)


def test_narrow_bars_and_images_of_nothing_are_left():
    """Fault: images cut that networks know as they are; a black image cut to a single pixel."""
    images = [FIELD, np.pad(FIELD, 60), np.pad(FIELD, ((0, 0), (0, 100))), np.pad(FIELD, 3000)]
    for image in (*images, np.zeros((200, 100), np.float32), np.ones((1, 1), np.float32)):
        assert exposed_field(image) == (0, 0, *image.shape)
