"""Kaggle's archive of Montgomery and Shenzhen."""

import collections
import shutil

import pytest
from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.structures import Structure
from tests.images import KAGGLE_STEMS, KAGGLE_UNLABELLED, SHARED, write_kaggle
from tests.layouts import assert_every_file_is_listed_once, reason_of, write_files
from tfds_builder.sources import Clinical, MaskFile, documented_spacing, list_source

MASKS = ("CHNCXR_0001_1_mask.png", "MCUCXR_0002_0.png")


def test_kaggle_layout(tmp_path):
    """Shenzhen's masks have another name than their images, Montgomery's the same."""
    tree = epath.Path(write_kaggle(tmp_path))
    listing = list_source("kaggle", tmp_path)
    assert [case.example_id for case in listing.cases] == sorted(KAGGLE_STEMS)
    assert [path.stem for path in listing.unlabelled] == sorted(KAGGLE_UNLABELLED)
    by_id = {case.example_id: case for case in listing.cases}
    shenzhen, montgomery = by_id["CHNCXR_0001_1"], by_id["MCUCXR_0002_0"]
    assert (shenzhen.source, shenzhen.clinical.finding) == ("shenzhen", "abnormal")
    assert (montgomery.source, montgomery.clinical.finding) == ("montgomery", "normal")
    assert shenzhen.image == tree / "CXR_png" / "CHNCXR_0001_1.png"
    masks = [MaskFile(tree / "masks" / name, Structure.LUNGS) for name in MASKS]
    assert [*shenzhen.masks, *montgomery.masks] == masks
    assert len(listing.files()) == 2 * len(KAGGLE_STEMS)


def test_one_patient_under_two_numbers_is_one(tmp_path):
    """Counted as two, a patient of the test split would have been trained on."""
    write_kaggle(tmp_path)
    patients = collections.defaultdict(list)
    for case in list_source("kaggle", tmp_path).cases:
        patients[case.patient_id].append(case.example_id)
    assert patients.pop("MCUCXR_0113") == ["MCUCXR_0113_1", "MCUCXR_0117_1"]
    assert all(len(images) == 1 for images in patients.values())


def test_the_tree_twice_counts_once(tmp_path):
    """Kaggle's archive holds the whole tree a second time, one level down."""
    tree = write_kaggle(tmp_path)
    shutil.copytree(tree, tmp_path / "data" / "Lung Segmentation")
    whole = list_source("kaggle", tmp_path)
    assert len(whole.cases) == len(KAGGLE_STEMS)
    assert {path.parent.parent for path in whole.files()} == {epath.Path(tree)}
    assert list_source("kaggle", tree).cases == whole.cases
    assert_every_file_is_listed_once(whole, tmp_path)
    assert set(reason_of(whole).values()) == {"second copy"}


def test_hidden_files_are_no_images(tmp_path):
    """Copying through a Mac leaves a `._` file beside each image."""
    tree = write_kaggle(tmp_path)
    for folder in ("CXR_png", "masks"):
        (tree / folder / "._CHNCXR_0001_1.png").write_bytes(b"\0\5\x16\7")
    (tree / ".ipynb_checkpoints").mkdir()
    (tree / ".ipynb_checkpoints" / "CHNCXR_0001_1.png").touch()
    listing = list_source("kaggle", tmp_path)
    assert len(listing.cases) == len(KAGGLE_STEMS)
    assert_every_file_is_listed_once(listing, tmp_path)
    assert list(reason_of(listing).values()) == ["hidden file"] * 3


def test_readings_are_joined_by_name(tmp_path):
    """Fault: the reading of another image, or records that outlive a corrected reading."""
    tree = write_kaggle(tmp_path)
    texts = {
        "CHNCXR_0001_1": "male 45yrs\nold scar",
        "MCUCXR_0002_0": "Patient's Age: 027Y\nnormal",
    }
    write_files(
        tree / "ClinicalReadings",
        {f"{stem}.txt": text.encode() for stem, text in texts.items()} | {"x_0.txt": b"male"},
    )
    listing = list_source("kaggle", tmp_path)
    by_id = {case.example_id: case.clinical for case in listing.cases}
    assert by_id["CHNCXR_0001_1"] == Clinical("M", 45.0, "abnormal", "old scar")
    assert by_id["MCUCXR_0002_0"] == Clinical("", 27.0, "normal", "normal")
    assert by_id["CHNCXR_0003_1"] == Clinical(finding="abnormal")
    readings = [path.name for path in listing.files() if path.suffix == ".txt"]
    assert readings == ["CHNCXR_0001_1.txt", "MCUCXR_0002_0.txt", "x_0.txt"]
    assert_every_file_is_listed_once(listing, tmp_path)


def test_two_masks_of_one_name_are_refused(tmp_path):
    """Which of the two counted would depend on the file system."""
    tree = write_kaggle(tmp_path)
    shutil.copy(
        tree / "masks" / "CHNCXR_0001_1_mask.png",
        tree / "masks" / "CHNCXR_0001_1.png",
    )
    with pytest.raises(DataError, match="CHNCXR_0001_1"):
        list_source("kaggle", tmp_path)


def test_a_wrong_folder_is_told_by_what_it_holds(tmp_path):
    """'No images' alone leaves the user to guess what the layout should be."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError) as caught:
        list_source("kaggle", tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path), "CXR_png/", "masks/", "found one, two", "data.manual_dir"):
        assert part in message


def test_an_empty_folder_holds_nothing(tmp_path):
    """An archive that was not unpacked yet."""
    with pytest.raises(DataError, match=r"found nothing; point data\.manual_dir"):
        list_source("kaggle", tmp_path)
    for name in ("CXR_png", "masks"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="0 images and 0 masks"):
        list_source("kaggle", tmp_path)


def test_masks_without_images_are_refused(tmp_path):
    """A half-copied folder would silently give a smaller data set."""
    tree = write_kaggle(tmp_path)
    for stem in ("CHNCXR_0003_1", "CHNCXR_0002_0"):
        (tree / "CXR_png" / f"{stem}.png").unlink()
    with pytest.raises(DataError, match=r"^CHNCXR_0002_0: mask without its image \(one of 2\)"):
        list_source("kaggle", tmp_path)


REAL = SHARED / "chest_xray_512"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data in ../shared/data/chest_xray_512")
def test_the_real_data_are_found_whole():
    """Counts as published; the folder `test` repeats the unlabelled images."""
    listing = list_source("kaggle", REAL)
    assert len(listing.cases) == 563
    assert len(listing.unlabelled) == 96
    assert {case.source for case in listing.cases} == {"montgomery", "shenzhen"}
    assert {case.clinical.finding for case in listing.cases} == {"normal", "abnormal"}
    assert_every_file_is_listed_once(listing, REAL)
    assert collections.Counter(reason_of(listing).values()) == {
        "second copy": 96,
        "not an image": 1,
    }
    # None has the size that the documented spacing belongs to.
    assert not any(documented_spacing(case, (512, 512)) for case in listing.cases)
