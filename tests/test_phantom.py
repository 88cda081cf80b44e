"""Properties of the phantom generator that training on phantoms relies on."""

import cv2
import numpy as np
import pytest

from tests.images import shared_phantom
from tfds_builder.phantom import Phantom, generate_phantom, patient_number

COUNT = 24


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [shared_phantom(5, index) for index in range(COUNT)]


def _same(a: Phantom, b: Phantom) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("image", "left_lung", "right_lung")
    )


def test_same_arguments_give_the_same_phantom_in_any_order(phantoms):
    """Guards against state carried from one phantom to the next."""
    for index in (17, 3):
        assert _same(generate_phantom(5, index), phantoms[index])


def test_seed_and_index_are_not_interchangeable():
    """Guards against seeding by a sum, which repeats phantoms across seeds."""
    assert not _same(generate_phantom(1, 2), generate_phantom(2, 1))


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1)])
def test_negative_arguments_are_refused(seed, index):
    """Guards against a negative number that wraps round to another series."""
    with pytest.raises(ValueError, match="negative"):
        generate_phantom(seed, index)


def test_images_are_grey_levels_in_the_unit_interval(phantoms):
    """Guards against NaN from the logarithm and against levels that the files would clip."""
    for phantom in phantoms:
        assert phantom.image.dtype == np.float32
        assert np.isfinite(phantom.image).all()
        assert phantom.image.min() >= 0
        assert phantom.image.max() <= 1


def test_masks_lie_on_the_image_and_exclude_each_other(phantoms):
    """Guards against masks of another size than the image and against shared pixels."""
    for phantom in phantoms:
        assert phantom.left_lung.shape == phantom.right_lung.shape == phantom.image.shape
        assert not (phantom.left_lung & phantom.right_lung).any()


def test_each_lung_is_one_piece_without_holes(phantoms):
    """Guards against slivers cut off by heart or effusion and against holes."""
    for phantom in phantoms:
        for lung in (phantom.left_lung, phantom.right_lung):
            pieces, _ = cv2.connectedComponents(lung.astype(np.uint8), connectivity=4)
            outside = np.pad(~lung, 1, constant_values=True).astype(np.uint8)
            backgrounds, _ = cv2.connectedComponents(outside, connectivity=8)
            assert (pieces, backgrounds) == (2, 2)


def test_patients_left_lung_is_on_the_right_of_the_image(phantoms):
    """Guards against swapped sides."""
    for phantom in phantoms:
        left, right = (np.nonzero(m)[1].mean() for m in (phantom.left_lung, phantom.right_lung))
        assert left > right


def test_heart_takes_from_the_left_lung(phantoms):
    """Guards against an image mirrored together with its masks."""
    left = sum(int(p.left_lung.sum()) for p in phantoms)
    right = sum(int(p.right_lung.sum()) for p in phantoms)
    assert 0.75 < left / right < 0.95


def test_lungs_are_darker_than_what_lies_between_them(phantoms):
    """Guards against inverted grey levels: the mediastinum is bright in every image."""
    for phantom in phantoms:
        lungs = phantom.left_lung | phantom.right_lung
        rows = phantom.left_lung.any(1) & phantom.right_lung.any(1)
        between = np.zeros_like(lungs)
        for row in np.flatnonzero(rows):
            end = np.flatnonzero(phantom.left_lung[row])[0]
            between[row, np.flatnonzero(phantom.right_lung[row])[-1] + 1 : end] = True
        assert np.median(phantom.image[lungs]) < np.median(phantom.image[between]) - 0.1


@pytest.mark.parametrize("axis", [0, 1])
def test_masks_sit_on_the_edges_of_the_image(phantoms, axis):
    """Guards against masks drawn under another pose than the image, by only a few pixels."""
    shifts = (-10, 0, 10)
    steps = np.zeros((len(phantoms), len(shifts)))
    brim = np.ones((9, 9), np.uint8)
    for row, phantom in enumerate(phantoms):
        for column, shift in enumerate(shifts):
            lung = np.roll(phantom.left_lung, shift, axis).astype(np.uint8)
            outside = phantom.image[(cv2.dilate(lung, brim) > 0) & (lung == 0)]
            inside = phantom.image[(lung > 0) & (cv2.erode(lung, brim) == 0)]
            steps[row, column] = outside.mean() - inside.mean()
    before, here, after = steps.mean(0)
    assert here > 1.05 * max(before, after)


def test_size_and_spacing_make_a_plausible_chest(phantoms):
    """Guards against spacings that are wrong by a factor or swapped between the axes."""
    widths = []
    for phantom in phantoms:
        height, width = phantom.image.shape
        assert 512 <= max(height, width) <= 768
        assert height != width
        assert 0.79 <= width / height <= 1.26
        assert 299 <= width * phantom.spacing_mm[1] <= 431
        columns = np.flatnonzero((phantom.left_lung | phantom.right_lung).any(0))
        widths.append((columns[-1] - columns[0]) * phantom.spacing_mm[1])
    assert min(widths) > 130
    assert max(widths) < 340
    assert 235 < np.median(widths) < 300


def test_about_one_patient_in_eight_has_two_images():
    """Guards against a grouping in which no patient could leak between splits."""
    patients = [patient_number(index) for index in range(9 * 12)]
    numbers, images = np.unique(patients, return_counts=True)
    assert numbers.tolist() == list(range(8 * 12))
    assert images.max() == 2
    assert (images == 2).sum() == 12


def test_two_images_of_a_patient_show_one_patient(phantoms):
    """Guards against a patient who changes sex or age, or an exposure that is a mere copy."""
    first, second = phantoms[7], phantoms[8]
    assert patient_number(7) == patient_number(8)
    assert first.patient_sex == second.patient_sex
    assert first.patient_age == second.patient_age
    assert first.image.shape != second.image.shape


def test_the_promised_variety_occurs(phantoms):
    """Guards against a parameter stuck at one value, which a network would come to rely on."""
    assert {p.projection for p in phantoms} == {"PA", "AP"}
    assert {p.patient_sex for p in phantoms} == {"F", "M"}
    lungs = [p.left_lung | p.right_lung for p in phantoms]
    share = [float(m.mean()) for m in lungs]
    grey = [float(np.median(p.image[m])) for p, m in zip(phantoms, lungs, strict=True)]
    assert np.std(share) > 0.03
    assert np.ptp(grey) > 0.25
    assert 0.2 < np.mean(share) < 0.32
