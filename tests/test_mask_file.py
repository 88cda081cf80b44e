"""Masks in files: whatever the public sets and drawing programs write, and what is no mask."""

import io

import numpy as np
import pytest
from PIL import Image

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.mask_file import read_mask
from tests.images import chest, png_bytes

GREY = np.arange(240, dtype=np.uint8).reshape(12, 20)


def test_one_bit():
    """Set bits are lung."""
    bits = GREY % 3 == 0
    content = png_bytes(bits.astype(np.uint8) * 255, "1")
    np.testing.assert_array_equal(read_mask(content, "x.png"), bits)


def test_anti_aliased_masks_are_cut_at_half_coverage():
    """Cut above 0 every outline would lie one pixel too far out."""
    values = np.array([[0, 1, 64, 127], [128, 200, 254, 255]], np.uint8)
    mask = read_mask(png_bytes(values), "x.png")
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[0, 0, 0, 0], [1, 1, 1, 1]]


def test_masks_of_zero_and_one():
    """Thresholded at 127 they would be empty."""
    values = (GREY % 2).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(png_bytes(values), "x.png"), values)


def test_an_empty_mask_stays_empty():
    """An image without visible lung is no fault of the file."""
    assert not read_mask(png_bytes(np.zeros((5, 5), np.uint8)), "x.png").any()


@pytest.mark.parametrize("brightest", [2, 76, 127])
def test_masks_of_other_values_are_refused(brightest):
    """Labels 1 and 2, or lungs in red (grey 76), would become empty masks in silence."""
    values = (GREY % 2 * brightest).astype(np.uint8)
    with pytest.raises(DataError, match=rf"^x\.png: mask whose brightest pixel is {brightest}; "):
        read_mask(png_bytes(values), "x.png")


def test_masks_of_sixteen_bits_are_refused():
    """Cut at 127 of 65535, every anti-aliased pixel would be lung."""
    with pytest.raises(DataError, match=r"^x\.png: mask of more than 8 bits; "):
        read_mask(png_bytes(GREY.astype(np.uint16) * 257), "x.png")


def test_masks_with_labels_are_refused_and_soft_outlines_are_not():
    """Cut at half, of labels 127 and 255 one lung would be gone in silence."""
    labels = np.zeros((60, 80), np.uint8)
    labels[10:50, 10:30], labels[10:50, 50:70] = 127, 255
    with pytest.raises(DataError, match=r"^x\.png: mask with regions of 127 and of 255; "):
        read_mask(png_bytes(labels), "x.png")
    # Fault: a label called small because the image around the mask is large.
    labels = np.zeros((100, 100), np.uint8)
    labels[10:70, 10:40], labels[10:30, 60:80] = 255, 127
    with pytest.raises(DataError, match=r"^x\.png: mask with regions of 127 and of 255; "):
        read_mask(png_bytes(labels), "x.png")
    soft = chest(300, 260, 0)[1]
    np.testing.assert_array_equal(read_mask(png_bytes(soft), "x.png"), soft > 127)
    # Enlarged without interpolation, an outline has flat pixels too.
    enlarged = np.kron(chest(64, 60, 0)[1], np.ones((8, 8), np.uint8))
    np.testing.assert_array_equal(read_mask(png_bytes(enlarged), "x.png"), enlarged > 127)
    # Once saved as JPEG, black and white are only nearly so.
    for quality in range(20, 101, 3):
        buffer = io.BytesIO()
        Image.fromarray(soft).save(buffer, "JPEG", quality=quality)
        traced = np.asarray(Image.open(buffer))
        np.testing.assert_array_equal(read_mask(png_bytes(traced), "x.png"), traced > 127)


def test_a_mask_in_the_opacity_is_refused_and_one_beside_it_is_not():
    """White on transparent white, all of the image would be lung."""
    lung = chest(60, 50, 0)[1] > 127
    white = np.full((*lung.shape, 4), 255, np.uint8)
    white[..., 3] = lung * 255
    with pytest.raises(DataError, match=r"^x\.png: mask that is white where it is transparent; "):
        read_mask(png_bytes(white), "x.png")
    # As drawing programs export it: what is not lung is black and transparent, edges are between.
    soft = chest(60, 50, 0)[1]
    white[..., :3] *= (soft > 0)[..., None]
    white[..., 3] = soft
    np.testing.assert_array_equal(read_mask(png_bytes(white), "x.png"), soft > 0)


def test_a_black_mask_in_the_opacity_is_refused_and_an_empty_one_is_not():
    """Fault: a lung drawn in black on transparency is no lung, and networks learn to find none."""
    lung = chest(60, 50, 0)[1] > 127
    black = np.zeros((*lung.shape, 4), np.uint8)
    for opacity in (255, 100):
        black[..., 3] = lung * opacity
        with pytest.raises(DataError, match=r"^x\.png: black mask with a shape in its opacity; "):
            read_mask(png_bytes(black), "x.png")
    for opacity in (0, 255):
        black[..., 3] = opacity
        assert not read_mask(png_bytes(black), "x.png").any()
