"""Shenzhen's images with the masks that are published apart from them."""

from pathlib import Path

import pytest

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.structures import Structure
from tests.layouts import assert_every_file_is_listed_once, dot, reason_of, write_files
from tfds_builder.sources import Clinical, MaskFile, list_source

STEMS = ("CHNCXR_0001_0", "CHNCXR_0327_1")
UNLABELLED = "CHNCXR_0025_0"


def write_shenzhen(folder: Path, masks: str = "mask/mask") -> Path:
    root = folder / "ChinaSet_AllFiles"
    write_files(root / "CXR_png", {f"{stem}.png": dot(0, 0) for stem in (*STEMS, UNLABELLED)})
    readings = {f"{STEMS[0]}.txt": b"male 45yrs\nnormal", f"{UNLABELLED}.txt": b"femal 32yrs"}
    write_files(root / "ClinicalReadings", readings)
    write_files(folder / masks, {f"{stem}_mask.png": dot(1, 1) for stem in STEMS})
    # Regions of findings, published for the same images.
    region = f"{STEMS[1]}_Pleural_Effusion_2.png"
    write_files(root / "Annotations-2" / "masks", {region: dot(2, 2)})
    return root


@pytest.mark.parametrize("masks", ["mask/mask", "ChinaSet_AllFiles/masks", "a/b/c"])
def test_masks_are_found_wherever_they_were_unpacked(tmp_path, masks):
    """Fault: one place alone is looked at, or regions of findings are taken for lungs."""
    root = write_shenzhen(tmp_path, masks)
    listing = list_source("shenzhen", tmp_path)
    assert [case.example_id for case in listing.cases] == list(STEMS)
    first, second = listing.cases
    assert (first.patient_id, first.source, first.spacing_mm) == ("CHNCXR_0001", "shenzhen", None)
    assert [mask.structure for mask in first.masks] == [Structure.LUNGS]
    assert first.image == listing.root / root.name / "CXR_png" / f"{STEMS[0]}.png"
    assert second.masks == (
        MaskFile(listing.root / masks / f"{STEMS[1]}_mask.png", Structure.LUNGS),
    )
    assert first.clinical == Clinical("M", 45.0, "normal", "normal")
    assert second.clinical == Clinical(finding="abnormal")
    assert [path.stem for path in listing.unlabelled] == [UNLABELLED]
    assert_every_file_is_listed_once(listing, tmp_path)
    assert sorted(reason_of(listing).values()) == [
        "clinical reading",
        "clinical reading",
        "not where the layout has images or masks",
    ]


def test_copies_count_once(tmp_path):
    """Fault: an image in two splits because an archive was unpacked twice."""
    write_shenzhen(tmp_path)
    write_shenzhen(tmp_path / "again")
    listing = list_source("shenzhen", tmp_path)
    assert len(listing.cases) == len(STEMS)
    assert_every_file_is_listed_once(listing, tmp_path)
    again = {why for name, why in reason_of(listing).items() if name.startswith("again")}
    assert again == {"second copy", "not where the layout has images or masks"}
    assert all("again" not in case.image.parts for case in listing.cases)


def test_two_masks_that_differ_are_refused(tmp_path):
    """Fault: which of two annotators counts depends on the names of folders."""
    write_shenzhen(tmp_path)
    write_files(tmp_path / "other", {f"{STEMS[1]}_mask.png": dot(3, 3)})
    with pytest.raises(DataError, match="is another mask of the same image; remove one"):
        list_source("shenzhen", tmp_path)


def test_images_alone_are_refused(tmp_path):
    """Fault: the masks' archive was forgotten, and an empty data set is built."""
    root = write_shenzhen(tmp_path)
    with pytest.raises(DataError, match=r"3 images .* and 0 masks .*; unpack the images'"):
        list_source("shenzhen", root)
