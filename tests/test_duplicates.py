"""Copies are found whatever was done to them, different chests are not."""

import io
import itertools
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from lungseg_jax.imaging.geometry import fit_to_square, to_square
from tests.images import SHARED
from tests.stored import pairs_in, read_split, rewrite, write_records
from tfds_builder import duplicates
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import LungsConfig
from tfds_builder.duplicates import (
    ALIKE_CORRELATION,
    Fingerprint,
    Fingerprints,
    detail_of_lungs,
)
from tfds_builder.phantom import generate_phantom
from tfds_builder.prepare import prepare
from tfds_builder.records_folder import open_folder

SIZE = 128


def add(fingerprints: Fingerprints, split: str, record: dict) -> None:
    fingerprints.add(split, record, Fingerprint.of(record))


def record(image: np.ndarray, mask: np.ndarray, example_id: str, patient_id: str) -> dict:
    return {
        "image": image[..., None],
        "mask": mask[..., None],
        "example_id": example_id.encode(),
        "patient_id": patient_id.encode(),
    }


@pytest.fixture(scope="module")
def phantoms() -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and masks of six phantoms of different patients."""
    pairs = []
    for index in range(6):
        phantom = generate_phantom(0, index)
        fit = fit_to_square(*phantom.image.shape, SIZE)
        lungs = (phantom.left_lung | phantom.right_lung).astype(np.uint8)
        image = np.rint(to_square(phantom.image, fit) * 65535).astype(np.uint16)
        pairs.append((image, (to_square(lungs, fit) > 0.5).astype(np.uint8)))
    return pairs


def same(image, mask):
    return image, mask


def shifted(image, mask):
    move = np.float32([[1, 0, 7], [0, 1, -5]])
    return tuple(cv2.warpAffine(pixels, move, (SIZE, SIZE)) for pixels in (image, mask))


def brightened(image, mask):
    return np.clip(image * 1.2 + 3000.0, 0, 65535).astype(np.uint16), mask


def encoded_anew(image, mask):
    buffer = io.BytesIO()
    Image.fromarray((image // 257).astype(np.uint8)).save(buffer, "JPEG", quality=60)
    return np.asarray(Image.open(buffer), np.uint16) * 257, mask


def cropped(image, mask):
    inner = (pixels[4:-4, 4:-4] for pixels in (image, mask))
    return tuple(cv2.resize(x, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for x in inner)


def with_sides(image, mask):
    """The same lungs, told apart, with a heart that no lung is."""
    half = np.where(np.arange(SIZE) < SIZE // 2, 3, 5).astype(np.uint8)
    return brightened(image, np.where(mask > 0, half, 8).astype(np.uint8))


@pytest.mark.parametrize(
    ("copy", "kind"),
    [
        (same, "same pixels"),
        (shifted, "alike"),
        (brightened, "alike"),
        (encoded_anew, "alike"),
        (cropped, "alike"),
        (with_sides, "alike"),
    ],
)
def test_a_copy_in_another_split_is_found_alone(phantoms, copy, kind):
    """Fault: a test image that was trained on; or so many false alarms that nobody looks."""
    fingerprints = Fingerprints()
    for number, pair in enumerate(phantoms):
        add(fingerprints, "train", record(*pair, f"example {number}", f"patient {number}"))
    add(fingerprints, "test", record(*copy(*phantoms[2]), "the copy", "another"))
    (pair,) = fingerprints.pairs()
    assert pair.kind == kind
    assert (pair.first.example_id, pair.second.example_id) == ("example 2", "the copy")
    assert (pair.first.split, pair.second.split, pair.across_splits) == ("train", "test", True)
    assert ALIKE_CORRELATION <= pair.correlation <= 1


def test_follow_ups_in_one_split_are_left_out_and_leaks_come_first(phantoms):
    """Fault: the pairs that matter drown in those that are meant to be."""
    image, mask = phantoms[0]
    bright, _ = brightened(image, mask)
    fingerprints = Fingerprints()
    for split, patient, pixels in (
        ("train", "a", image),
        ("train", "a", bright),
        ("train", "b", bright),
        ("val", "a", shifted(image, mask)[0]),
    ):
        moved = shifted(image, mask)[1] if split == "val" else mask
        add(fingerprints, split, record(pixels, moved, f"{split} {patient}", patient))
    pairs = fingerprints.pairs()
    found = [(pair.kind, pair.across_splits) for pair in pairs]
    assert found[:3] == [("alike", True)] * 3
    # The first and the third image, and the second and third, which are the same.
    assert sorted(found[3:]) == [("alike", False), ("same pixels", False)]


@pytest.mark.parametrize("block", [1, 2, 4096])
def test_blocks_do_not_matter(phantoms, block, monkeypatch):
    """Fault: pairs across two blocks missed, or found twice."""
    monkeypatch.setattr(duplicates, "BLOCK", block)
    fingerprints = Fingerprints()
    for number in (0, 1, 0, 2, 1):
        image, mask = brightened(*phantoms[number]) if len(fingerprints) > 1 else phantoms[number]
        add(fingerprints, "train", record(image, mask, str(number), str(len(fingerprints))))
    pairs = [(pair.first.example_id, pair.second.example_id) for pair in fingerprints.pairs()]
    assert sorted(pairs) == [("0", "0"), ("1", "1")]


def test_empty_images_and_masks_are_like_nothing(phantoms):
    """Fault: a division by zero, after which all comparisons are false."""
    empty = np.zeros((SIZE, SIZE), np.uint16)
    mask = phantoms[0][1]
    for image, lungs in ((empty, mask), (empty + 700, mask), (empty, np.zeros_like(mask))):
        assert not detail_of_lungs(image, lungs).any()
    assert np.isclose(np.linalg.norm(detail_of_lungs(phantoms[0][0], np.zeros_like(mask))), 1)


def test_records_are_read_from_their_folder(tmp_path):
    """Fault: splits or ids mixed up on the way from the records."""
    folder = write_records(tmp_path)
    stolen = read_split(folder, "train")[0]

    def steal(records):
        return [records[0] | {name: stolen[name] for name in ("image", "mask")}, *records[1:]]

    rewrite(folder, "test", steal)
    victim = read_split(folder, "test")[0]["example_id"]
    pairs = [pair for pair in pairs_in(folder) if pair.kind == "same pixels"]
    (pair,) = pairs
    assert {pair.first.example_id, pair.second.example_id} == {stolen["example_id"], victim}
    assert {pair.first.split, pair.second.split} == {"train", "test"}


REAL = SHARED / "chest_xray_512"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data in ../shared/data/chest_xray_512")
def test_known_repeats_among_real_images(tmp_path):
    """Fault: a threshold that finds nothing real, or that cries wolf at every second chest."""
    config = LungsConfig(source="kaggle", image_size=128)
    folder = prepare(config, tmp_path, REAL).data_path
    assert pairs_in(folder) == []
    # The layout knows these patients; found they are where each image is a patient of its own.
    fingerprints = Fingerprints()
    builder: Any = open_folder(folder)
    for split in builder.info.splits:
        for record in builder.as_data_source(split):
            add(fingerprints, split, record | {"patient_id": record["example_id"]})
    pairs = fingerprints.pairs()
    found = {frozenset((pair.first.example_id, pair.second.example_id)) for pair in pairs}
    one_patient = ("MCUCXR_0264_1", "MCUCXR_0313_1", "MCUCXR_0316_1")
    assert {frozenset(pair) for pair in itertools.combinations(one_patient, 2)} <= found
    assert frozenset(("CHNCXR_0477_1", "CHNCXR_0605_1")) in found
    assert len(found) <= 8
