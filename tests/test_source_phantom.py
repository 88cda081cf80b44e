"""Folders of generated radiographs."""

import dataclasses

import pytest

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.imaging.structures import Structure
from tests.images import PATIENT_ID, chest, dicom_bytes, png_bytes
from tests.layouts import assert_every_file_is_listed_once
from tfds_builder.convert_case import ConvertSettings, convert_case
from tfds_builder.sources import list_source


def write_phantom_layout(root, stems) -> None:
    for folder in ("images", "masks/left", "masks/right"):
        (root / folder).mkdir(parents=True)
    image, mask = chest(20, 20, 0)
    for stem, patient_id in stems.items():
        content = dicom_bytes(image, {"PatientID": patient_id})
        (root / "images" / f"{stem}.dcm").write_bytes(content)
        for side in ("left", "right"):
            (root / "masks" / side / f"{stem}.png").write_bytes(png_bytes(mask))


def test_patients_of_dicom_files_are_told_apart_without_their_ids(tmp_path):
    """Records are shared more freely than the archive they came from."""
    write_phantom_layout(tmp_path, {"a": PATIENT_ID, "b": PATIENT_ID, "c": "other", "d": ""})
    listing = list_source("phantom", tmp_path)
    assert_every_file_is_listed_once(listing, tmp_path)
    cases = {case.example_id: case for case in listing.cases}
    settings = ConvertSettings(32, b"key", ReadOptions(frontal_only=False))
    outcomes = [convert_case(cases[stem], settings)[0] for stem in "abcd"]
    patients = [outcome.patient_id for outcome in outcomes]
    assert patients[0] == patients[1]
    assert len(set(patients)) == 3
    assert patients[3] == "d"
    assert PATIENT_ID not in "".join(patients)
    assert [outcome.patient_is_hashed for outcome in outcomes] == [True, True, True, False]
    other_key = dataclasses.replace(settings, id_key=b"other")
    assert convert_case(cases["a"], other_key)[0].patient_id != patients[0]
    sides = [(mask.path.parent.name, mask.structure) for mask in cases["a"].masks]
    assert sides == [("left", Structure.LEFT_LUNG), ("right", Structure.RIGHT_LUNG)]


def test_a_phantom_with_one_lung_only_is_refused(tmp_path):
    """Left out in silence, or taken as a whole mask, it would spoil what is measured."""
    write_phantom_layout(tmp_path, {"a": "1", "b": "2"})
    (tmp_path / "masks" / "right" / "b.png").unlink()
    with pytest.raises(DataError, match=r"^b: "):
        list_source("phantom", tmp_path)
