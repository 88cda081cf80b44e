"""Which pictures a folder is found to hold."""

import collections
import os
import shutil

import pytest
from etils import epath

from lungseg_jax.errors import DataError
from tests.pictures import (
    KAGGLE_STEMS,
    KAGGLE_UNLABELLED,
    PATIENT_ID,
    SHARED,
    chest,
    dicom_bytes,
    png_bytes,
    write_kaggle,
)
from tfds_builder.sources import list_source


def test_kaggle_layout(tmp_path):
    """Shenzhen's masks have another name than their pictures, Montgomery's the same."""
    tree = epath.Path(write_kaggle(tmp_path))
    listing = list_source("kaggle", tmp_path)
    assert [case.example_id for case in listing.cases] == sorted(KAGGLE_STEMS)
    assert [path.stem for path in listing.unlabelled] == sorted(KAGGLE_UNLABELLED)
    by_id = {case.example_id: case for case in listing.cases}
    shenzhen, montgomery = by_id["CHNCXR_0001_1"], by_id["MCUCXR_0002_0"]
    assert (shenzhen.source, shenzhen.finding) == ("shenzhen", "abnormal")
    assert (montgomery.source, montgomery.finding) == ("montgomery", "normal")
    assert shenzhen.image == tree / "CXR_png" / "CHNCXR_0001_1.png"
    assert shenzhen.masks == (tree / "masks" / "CHNCXR_0001_1_mask.png",)
    assert montgomery.masks == (tree / "masks" / "MCUCXR_0002_0.png",)
    assert len(listing.files()) == 2 * len(KAGGLE_STEMS)


def test_one_patient_under_two_numbers_is_one(tmp_path):
    """Counted as two, a patient of the test split would have been trained on."""
    write_kaggle(tmp_path)
    patients = collections.defaultdict(list)
    for case in list_source("kaggle", tmp_path).cases:
        patients[case.patient_id].append(case.example_id)
    assert patients.pop("MCUCXR_0113") == ["MCUCXR_0113_1", "MCUCXR_0117_1"]
    assert all(len(own) == 1 for own in patients.values())


def test_the_tree_twice_counts_once(tmp_path):
    """Kaggle's archive holds the whole tree a second time, one level down."""
    tree = write_kaggle(tmp_path)
    shutil.copytree(tree, tmp_path / "data" / "Lung Segmentation")
    whole = list_source("kaggle", tmp_path)
    assert len(whole.cases) == len(KAGGLE_STEMS)
    assert {path.parent.parent for path in whole.files()} == {epath.Path(tree)}
    assert list_source("kaggle", tree).cases == whole.cases


def test_hidden_files_are_no_pictures(tmp_path):
    """Copying through a Mac leaves a `._` file beside each picture."""
    tree = write_kaggle(tmp_path)
    for folder in ("CXR_png", "masks"):
        (tree / folder / "._CHNCXR_0001_1.png").write_bytes(b"\0\5\x16\7")
    assert len(list_source("kaggle", tmp_path).cases) == len(KAGGLE_STEMS)


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
    """'No pictures' alone leaves the user to guess what the layout should be."""
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
    with pytest.raises(DataError, match="0 pictures and 0 masks"):
        list_source("kaggle", tmp_path)


def test_an_absent_folder(tmp_path):
    """A typing error in the path."""
    with pytest.raises(DataError, match=r"nowhere: no such folder; .*data.manual_dir"):
        list_source("kaggle", tmp_path / "nowhere")


def test_no_folder_given_is_not_the_current_one(tmp_path, monkeypatch):
    """The empty default would search, and use, whatever lies where the program is started."""
    write_kaggle(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^data\.manual_dir: is empty"):
        list_source("kaggle", "")


def test_home_is_expanded(tmp_path, monkeypatch):
    """In --config.data.manual_dir=~/x the shell leaves the tilde as it is."""
    write_kaggle(tmp_path / "x")
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    assert len(list_source("kaggle", "~/x").cases) == len(KAGGLE_STEMS)


def test_masks_without_pictures_are_refused(tmp_path):
    """A half-copied folder would silently give a smaller data set."""
    tree = write_kaggle(tmp_path)
    for stem in ("CHNCXR_0003_1", "CHNCXR_0002_0"):
        (tree / "CXR_png" / f"{stem}.png").unlink()
    with pytest.raises(DataError, match=r"^CHNCXR_0002_0: mask without its picture \(one of 2\)"):
        list_source("kaggle", tmp_path)


def write_phantom_layout(root, stems) -> None:
    for folder in ("images", "masks/left", "masks/right"):
        (root / folder).mkdir(parents=True)
    picture, mask = chest(20, 20, 0)
    for stem, patient_id in stems.items():
        content = dicom_bytes(picture, {"PatientID": patient_id})
        (root / "images" / f"{stem}.dcm").write_bytes(content)
        for side in ("left", "right"):
            (root / "masks" / side / f"{stem}.png").write_bytes(png_bytes(mask))


def test_patients_of_dicom_files_are_told_apart_without_their_ids(tmp_path):
    """Records are shared more freely than the archive they came from."""
    write_phantom_layout(tmp_path, {"a": PATIENT_ID, "b": PATIENT_ID, "c": "other", "d": ""})
    cases = {case.example_id: case for case in list_source("phantom", tmp_path).cases}
    patients = [cases[stem].patient_id for stem in "abcd"]
    assert patients[0] == patients[1]
    assert len(set(patients)) == 3
    assert patients[3] == "d"
    assert PATIENT_ID not in "".join(patients)
    assert [path.parent.name for path in cases["a"].masks] == ["left", "right"]


def test_a_phantom_with_one_lung_only_is_refused(tmp_path):
    """Left out in silence, or taken as a whole mask, it would spoil what is measured."""
    write_phantom_layout(tmp_path, {"a": "1", "b": "2"})
    (tmp_path / "masks" / "right" / "b.png").unlink()
    with pytest.raises(DataError, match=r"^b: "):
        list_source("phantom", tmp_path)


REAL = SHARED / "chest_xray_512"


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data in ../shared/data/chest_xray_512")
def test_the_real_data_are_found_whole():
    """Counts as published; the folder `test` repeats the unlabelled pictures."""
    listing = list_source("kaggle", REAL)
    assert len(listing.cases) == 563
    assert len(listing.unlabelled) == 96
    assert {case.source for case in listing.cases} == {"montgomery", "shenzhen"}
    assert {case.finding for case in listing.cases} == {"normal", "abnormal"}
