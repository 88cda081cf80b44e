"""Mask files of every structure to one mask of bits."""

import io
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image

from lungseg_jax.errors import DataError
from lungseg_jax.imaging import files
from lungseg_jax.imaging.radiograph import Orientation, ReadOptions
from lungseg_jax.imaging.structures import Structure
from tfds_builder.masks import read_structures
from tfds_builder.sources import Case, Clinical, MaskFile

HEIGHT, WIDTH = 8, 12


UPRIGHT = Orientation()


def read(case: Case, shape: tuple[int, int], orientation: Orientation = UPRIGHT) -> tuple:
    contents = {mask.path: files.read_bytes(mask.path) for mask in case.masks}
    return read_structures(case, contents, shape, orientation, ReadOptions(max_pixels=10**6))


def box(columns: slice, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    pixels = np.zeros((height, width), np.uint8)
    pixels[2:6, columns] = 255
    return pixels


# On the viewer's right and left.
LEFT, RIGHT = box(slice(7, 11)), box(slice(1, 5))


def write_case(folder: Path, masks: dict[Structure, np.ndarray], suffix: str = "png") -> Case:
    files = []
    for structure, pixels in masks.items():
        path = epath.Path(folder) / f"{structure.value}.{suffix}"
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, suffix.upper())
        path.write_bytes(buffer.getvalue())
        files.append(MaskFile(path, structure))
    return Case("e", "p", "jsrt", epath.Path("image.png"), tuple(files), Clinical())


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_every_structure_has_its_bit_and_either_lung_is_lung(tmp_path, suffix):
    """Fault: a heart counted as lung, or a lung of known side missing among the lungs."""
    heart, clavicles = box(slice(4, 9)), box(slice(0, 12))[::-1]
    masks = {
        Structure.LEFT_LUNG: LEFT,
        Structure.RIGHT_LUNG: RIGHT,
        Structure.HEART: heart,
        Structure.CLAVICLES: clavicles,
    }
    bits, notes = read(write_case(tmp_path, masks, suffix), (HEIGHT, WIDTH))
    assert bits.dtype == np.uint8
    for structure, pixels in (*masks.items(), (Structure.LUNGS, np.maximum(LEFT, RIGHT))):
        np.testing.assert_array_equal(bits & np.uint8(structure) > 0, pixels > 0)
    assert notes == ()


def test_lungs_of_unknown_side_are_1(tmp_path):
    """Fault: sides invented for Shenzhen's masks."""
    case = write_case(tmp_path, {Structure.LUNGS: np.maximum(LEFT, RIGHT)})
    bits, notes = read(case, (HEIGHT, WIDTH))
    assert set(np.unique(bits)) == {0, 1}
    assert notes == ()


def test_an_inverted_mask_is_refused(tmp_path):
    """Fault: a network that learns the heart and the air around the patient as lung."""
    inverted = 255 - np.maximum(LEFT, RIGHT)
    with pytest.raises(DataError, match=r"most of the image's border as lung; mark"):
        read(write_case(tmp_path, {Structure.LUNGS: inverted}), (HEIGHT, WIDTH))
    # A tight frame cuts lungs at every side.
    tight = np.maximum(LEFT, RIGHT)[2:6]
    read(write_case(tmp_path, {Structure.LUNGS: tight}), tight.shape)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_masks_of_another_scale_are_enlarged(tmp_path, scale):
    """Fault: SCR's masks refused, or enlarged with a shift."""
    case = write_case(tmp_path, {Structure.LUNGS: LEFT})
    bits, notes = read(case, (scale * HEIGHT, scale * WIDTH))
    repeated = np.kron(LEFT > 0, np.ones((scale, scale), np.uint8))
    # Interpolation rounds the four corners from three times on.
    differing = np.argwhere(bits != repeated)
    corners = np.argwhere(LEFT > 0)[[0, 3, -4, -1]]
    assert {tuple(place // scale) for place in differing} <= {tuple(c) for c in corners}
    assert len(differing) == (0 if scale == 2 else 4)
    assert notes == ("lung mask resized to its image",)


def test_masks_larger_than_their_image_are_reduced(tmp_path):
    """Fault: masks drawn at a detector's size refused beside images that were made smaller."""
    repeated = [mask.repeat(5, axis=0).repeat(5, axis=1) for mask in (LEFT, RIGHT)]
    case = write_case(
        tmp_path, dict(zip((Structure.LEFT_LUNG, Structure.RIGHT_LUNG), repeated, strict=True))
    )
    bits, notes = read(case, (HEIGHT, WIDTH))
    for structure, mask in ((Structure.LEFT_LUNG, LEFT), (Structure.RIGHT_LUNG, RIGHT)):
        np.testing.assert_array_equal(bits & structure > 0, mask > 0)
    np.testing.assert_array_equal(bits & Structure.LUNGS > 0, (LEFT | RIGHT) > 0)
    assert len(notes) == 2


def test_an_outline_keeps_its_place_at_any_scale(tmp_path):
    """Fault: a mask that is shifted by a part of a pixel, as without regard to pixels' centres."""
    rows, columns = np.mgrid[:256, :256]
    disc = np.uint8(255) * np.uint8((rows - 99.5) ** 2 + (columns - 149.5) ** 2 < 60**2)
    bits, _ = read(write_case(tmp_path, {Structure.LUNGS: disc}), (640, 640))
    scale = 640 / 256
    # In coordinates of pixels' edges a centre grows by the scale.
    centre = np.argwhere(bits).mean(axis=0) + 0.5
    np.testing.assert_allclose(centre, [100 * scale, 150 * scale], atol=0.1)
    assert np.count_nonzero(bits) == pytest.approx(np.count_nonzero(disc) * scale**2, rel=2e-3)


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_pixels_that_are_half_covered_move_no_outline(tmp_path, scale):
    """Fault: areas that grow by a pixel's quarter on all sides, or shrink, with a resized mask."""
    square = np.zeros((128, 128), np.uint8)
    square[31:90, 31:90] = 255
    size = round(128 * scale)
    bits, _ = read(write_case(tmp_path, {Structure.LUNGS: square}), (size, size))
    assert np.count_nonzero(bits) == pytest.approx((59 * scale) ** 2, rel=2e-3)


@pytest.mark.parametrize(("mask", "image"), [((100, 87), (40, 34)), ((40, 34), (100, 87))])
def test_sides_are_rounded_whichever_was_resized(tmp_path, mask, image):
    """Fault: the masks of images that were made smaller refused, as rounded by a mask's pixels."""
    pixels = np.zeros(mask, np.uint8)
    pixels[10:30, 10:20] = 255
    bits, _ = read(write_case(tmp_path, {Structure.LUNGS: pixels}), image)
    assert bits.shape == image


@pytest.mark.parametrize(
    "shape",
    [
        (WIDTH, HEIGHT),
        (2 * HEIGHT, 3 * WIDTH),
        (5 * HEIGHT, 5 * WIDTH),
        (HEIGHT + 1, WIDTH),
        (16, 28),
    ],
)
def test_masks_of_other_proportions_are_refused(tmp_path, shape):
    """Fault: a mask of another image, or of a part of this one, is resized until it fits."""
    case = write_case(tmp_path, {Structure.LUNGS: LEFT})
    with pytest.raises(DataError) as caught:
        read(case, shape)
    for part in ("1.png", "mask of 8 x 12 pixels", f"{shape[0]} x {shape[1]}", "image.png"):
        assert part in str(caught.value)


def test_sides_that_changed_places_are_noted(tmp_path):
    """Fault: sides of the viewer taken for the patient's, unseen in any union."""
    case = write_case(tmp_path, {Structure.LEFT_LUNG: RIGHT, Structure.RIGHT_LUNG: LEFT})
    shape = (HEIGHT, WIDTH)
    bits, notes = read(case, shape)
    assert notes == ("left lung mask lies on the viewer's left of the right lung's",)
    # Stored mirrored, the same masks are on their proper sides.
    turned, none = read(case, shape, Orientation(flip_columns=True))
    np.testing.assert_array_equal(turned, bits)
    assert none == ()


def test_lungs_over_each_other_are_noted_and_shared_borders_are_not(tmp_path):
    """Fault: the same mask for both lungs; or a note on every pair of touching outlines."""
    height, width = 80, 120
    left, right = np.zeros((2, height, width), np.uint8)
    left[5:75, 60:115], right[5:75, 5:60] = 255, 255
    right[5:8, 60] = 255
    case = write_case(tmp_path, {Structure.LEFT_LUNG: left, Structure.RIGHT_LUNG: right})
    assert read(case, (height, width))[1] == ()
    right[5:75, 60] = 255
    case = write_case(tmp_path, {Structure.LEFT_LUNG: left, Structure.RIGHT_LUNG: right})
    assert read(case, (height, width))[1] == ("left and right lung masks share 70 pixels",)


def test_a_single_lung_is_noted(tmp_path):
    """Fault: the lung that nobody marked trained as background, without a word."""
    case = write_case(tmp_path, {Structure.RIGHT_LUNG: RIGHT})
    assert read(case, (HEIGHT, WIDTH))[1] == ("only the right lung is marked",)


def test_an_empty_mask_is_noted(tmp_path):
    """Fault: a lung that was removed stops the build, or a lost outline passes unseen."""
    case = write_case(tmp_path, {Structure.LEFT_LUNG: 0 * LEFT, Structure.RIGHT_LUNG: RIGHT})
    bits, notes = read(case, (HEIGHT, WIDTH))
    assert notes == ("left lung mask is empty",)
    np.testing.assert_array_equal(bits & 1 > 0, RIGHT > 0)


def test_a_missing_mask_is_named(tmp_path):
    """Fault: a traceback when a file vanishes between listing and reading."""
    case = write_case(tmp_path, {Structure.LUNGS: LEFT})
    case.masks[0].path.unlink()
    with pytest.raises(DataError, match=r"1\.png: "):
        read(case, (HEIGHT, WIDTH))


def test_a_gif_cut_short_is_refused(tmp_path):
    """Fault: the lower part of a lung filled with zeros."""
    rng = np.random.default_rng(0)
    noise = (rng.integers(0, 2, (64, 64)) * 255).astype(np.uint8)
    case = write_case(tmp_path, {Structure.LUNGS: noise}, "gif")
    path = case.masks[0].path
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"1\.gif: broken GIF file"):
        read(case, (64, 64))


def test_other_formats_in_gif_or_png_names_are_refused(tmp_path):
    """Fault: a decoder that was not meant to be reachable opens what a suffix hides."""
    case = write_case(tmp_path, {Structure.LUNGS: LEFT})
    buffer = io.BytesIO()
    Image.fromarray(LEFT).save(buffer, "TIFF")
    case.masks[0].path.write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="neither PNG, GIF nor DICOM SEG"):
        read(case, (HEIGHT, WIDTH))
