"""From the network's probabilities to what the user gets."""

import numpy as np
import pytest

from lungseg_jax.imaging.geometry import Box, channels_from_square, fit_to_square, to_square
from lungseg_jax.imaging.radiograph import Orientation, Radiograph
from lungseg_jax.prediction.postprocessing import smooth
from lungseg_jax.prediction.segmentation import make_segmentation
from tfds_builder.phantom import generate_phantom

PHANTOM = generate_phantom(3, 1)
IMAGE = PHANTOM.image.astype(np.float32)
LUNGS = PHANTOM.left_lung | PHANTOM.right_lung


def square_of(*masks: np.ndarray) -> np.ndarray:
    fit = fit_to_square(*IMAGE.shape, 256)
    squares = [to_square(mask.astype(np.float32), fit) for mask in masks]
    return np.stack(squares, axis=-1).astype(np.float32)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


def test_repr_shows_figures_and_no_pixels():
    """Fault: a notebook's cell that ends with a segmentation prints millions of numbers."""
    found = make_segmentation(Radiograph(IMAGE, None, "none"), square_of(LUNGS), 0.5, 0.96)
    assert "estimated_dice=0.96" in repr(found)
    assert "array" not in repr(found)


def test_results_can_be_compared_and_kept_in_sets():
    """Fault: `in`, `==` and `set` of results end in NumPy's errors about arrays."""
    radiograph = Radiograph(IMAGE, None, "none")
    first, second = (make_segmentation(radiograph, square_of(LUNGS), 0.5, 0.96) for _ in range(2))
    assert second in [first, second]
    assert len({first, second}) == 2
    assert len({radiograph, Radiograph(IMAGE, None, "none")}) == 2


def test_sides_are_the_patients():
    """Fault: right and left by the viewer."""
    found = make_segmentation(Radiograph(IMAGE, None, "none"), square_of(LUNGS), 0.5, 0.96)
    assert iou(found.right, PHANTOM.right_lung) > 0.95
    assert iou(found.left, PHANTOM.left_lung) > 0.95
    assert found.notes == ()
    assert found.accepted
    assert found.area_cm2 is None


def test_sides_of_a_mirrored_image_are_the_patients_too():
    """Fault: swapped lungs where a film was scanned with its back up."""
    radiograph = Radiograph(IMAGE[:, ::-1].copy(), None, "none")
    found = make_segmentation(radiograph, square_of(LUNGS)[:, ::-1], 0.5, 0.96)
    assert iou(found.right, PHANTOM.right_lung[:, ::-1]) > 0.95
    assert "mirrored" in found.notes[0]


def test_a_header_that_states_the_sides_is_believed():
    """Fault: a heart on the right side that overrules the technician's header."""
    radiograph = Radiograph(IMAGE[:, ::-1].copy(), None, "none", orientation_stated=True)
    found = make_segmentation(radiograph, square_of(LUNGS)[:, ::-1], 0.5, 0.96)
    # By the header the viewer's left is the patient's right.
    assert iou(found.right, PHANTOM.left_lung[:, ::-1]) > 0.95
    assert "mirrored" in found.notes[0]


@pytest.mark.parametrize("stated", [False, True])
def test_sides_of_which_nothing_tells_are_to_be_checked(stated):
    """Fault: a mirrored film with a heart in the middle has its lungs swapped without a word."""
    image, lungs = (IMAGE + IMAGE[:, ::-1]) / 2, LUNGS | LUNGS[:, ::-1]
    radiograph = Radiograph(image, None, "none", orientation_stated=stated)
    found = make_segmentation(radiograph, square_of(lungs), 0.5, 0.96)
    # As in nearly all images, the patient's right is at the viewer's left.
    assert found.right[:, : image.shape[1] // 2].sum() > 0.95 * found.right.sum()
    assert any("may be mirrored" in note for note in found.notes) != stated


def test_channels_of_the_network_name_the_sides_where_it_has_them():
    """Fault: a model of two classes whose own sides are thrown away, or taken in another order."""
    for masks in ((PHANTOM.right_lung, PHANTOM.left_lung), (PHANTOM.left_lung, PHANTOM.right_lung)):
        found = make_segmentation(Radiograph(IMAGE, None, "none"), square_of(*masks), 0.5, 0.96)
        assert iou(found.right, masks[0]) > 0.95
        assert iou(found.left, masks[1]) > 0.95
        assert found.notes == ()


@pytest.mark.parametrize("by_place", [True, False])
@pytest.mark.parametrize("stated", [False, True])
def test_a_network_that_tells_sides_is_corrected_on_mirrored_images(by_place, stated):
    """Fault: its sides go by the place, so that a mirrored film has them swapped without a word."""
    right, left = PHANTOM.right_lung[:, ::-1], PHANTOM.left_lung[:, ::-1]
    # By place, the lung at the viewer's left, or by the heart, as a network might learn to.
    told = (left, right) if by_place else (right, left)
    radiograph = Radiograph(IMAGE[:, ::-1].copy(), None, "none", orientation_stated=stated)
    found = make_segmentation(radiograph, square_of(*told), 0.5, 0.96)
    # By the header the viewer's left is the patient's right.
    assert iou(found.right, left if stated else right) > 0.95
    assert iou(found.left, right if stated else left) > 0.95
    assert "mirrored" in found.notes[0]


@pytest.mark.parametrize("transpose", [False, True])
def test_masks_come_back_as_the_file_has_its_pixels(transpose: bool):
    """Fault: the mask of a turned image upright, or its spacing swapped."""
    turn = Orientation(transpose=transpose, flip_rows=True, flip_columns=False)
    radiograph = Radiograph(IMAGE, (0.2, 0.3), "detector", turn)
    found = make_segmentation(radiograph, square_of(LUNGS), 0.5, 0.96)
    stored = turn.to_stored(LUNGS)
    assert found.mask.shape == found.probabilities.shape == stored.shape
    assert iou(found.mask, stored) > 0.95
    assert found.spacing_mm == ((0.3, 0.2) if transpose else (0.2, 0.3))
    assert found.area_cm2 is not None
    assert sum(found.area_cm2) == pytest.approx(stored.sum() * 0.0006, rel=0.05)


def test_the_threshold_is_the_calibrated_one():
    """Fault: 0.5, whatever validation data said."""
    square = np.float32(0.4) * square_of(LUNGS)
    radiograph = Radiograph(IMAGE, None, "none")
    assert not make_segmentation(radiograph, square, 0.5, 0.96).mask.any()
    low = make_segmentation(radiograph, square, 0.2, 0.96)
    assert iou(low.mask, LUNGS) > 0.95


def test_an_estimate_speaks_against_a_mask_only_where_it_is_calibrated():
    """Fault: every mask of a network of one's own rejected, for its estimate means nothing yet."""
    radiograph, square = Radiograph(IMAGE, None, "none"), square_of(LUNGS)
    assert make_segmentation(radiograph, square, 0.5, 0.3, calibrated=False).accepted
    assert not make_segmentation(radiograph, square, 0.5, 0.3).accepted


def test_a_pixel_is_of_the_likelier_side():
    """Fault: what is above the threshold on both sides called right, though left is likelier."""
    square = np.float32([0.6, 0.9]) * square_of(LUNGS)
    found = make_segmentation(Radiograph(IMAGE, None, "none"), square, 0.5, 0.96)
    assert not found.right.any()
    assert iou(found.left, LUNGS) > 0.95


def test_probabilities_are_smoothed_in_the_square():
    """Fault: outlines in steps of the blocks that the network sees."""
    blocks = np.random.default_rng(0).random((32, 32, 1)).astype(np.float32)
    blocks = blocks.repeat(2, axis=0).repeat(2, axis=1)
    found = make_segmentation(Radiograph(IMAGE, None, "none"), blocks, 0.5, 0.96).probabilities
    smoothed, as_is = (
        channels_from_square(square, Box(0, 0, *IMAGE.shape))[..., 0]
        for square in (smooth(blocks), blocks)
    )
    np.testing.assert_allclose(found, smoothed, atol=1e-6)
    assert np.abs(found - as_is).max() > 0.1


def test_an_empty_prediction_is_rejected_and_no_error():
    """Fault: a division by no pixels."""
    nothing = np.zeros((256, 256, 1), np.float32)
    found = make_segmentation(Radiograph(IMAGE, (0.2, 0.2), "detector"), nothing, 0.5, 0.96)
    assert not found.accepted
    assert found.area_px == (0, 0)
    assert found.area_cm2 == (0, 0)
