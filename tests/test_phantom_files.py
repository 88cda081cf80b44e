"""Phantoms as files: what a DICOM reader gets back, and what an interruption leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from lungseg_jax.errors import DataError
from tests.small import REPOSITORY
from tfds_builder import phantom_files
from tfds_builder.phantom import generate_phantom
from tfds_builder.phantom_files import check_complete, write_phantoms

SEED, COUNT = 3, 24


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The phantoms as files, written by the pool, and their parsed headers."""
    directory = tmp_path_factory.mktemp("phantoms") / "whole"
    write_phantoms(directory, COUNT, SEED)
    files = sorted((directory / "images").iterdir())
    return directory, [pydicom.dcmread(file) for file in files]


@pytest.fixture(scope="module")
def phantoms():
    return [generate_phantom(SEED, index) for index in range(COUNT)]


def _grey_levels(dataset: pydicom.Dataset) -> np.ndarray:
    """Grey levels in [0, 1], bone bright, by DICOM's grey-scale pipeline."""
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    slope, intercept = dataset.get("RescaleSlope", 1), dataset.get("RescaleIntercept", 0)
    levels = (values - intercept) / (slope * (2**dataset.BitsStored - 1))
    return 1 - levels if dataset.PhotometricInterpretation == "MONOCHROME1" else levels


def _bytes(directory) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_decoding_gives_back_the_image(written, phantoms):
    """Guards the encoding of every file: bits, rescale, window, inversion, transfer syntax."""
    for index, dataset in enumerate(written[1]):
        # A window may leave a quarter and more of the stored range unused.
        tolerance = 0.51 / (0.5 * (2**dataset.BitsStored - 1))
        np.testing.assert_allclose(
            _grey_levels(dataset), phantoms[index].image, rtol=0, atol=tolerance
        )


def test_masks_on_disk_are_the_phantoms(written, phantoms):
    """Guards against swapped sides, resampling or lossy masks."""
    for index in (0, COUNT - 1):
        phantom = phantoms[index]
        for side, expected in (("left", phantom.left_lung), ("right", phantom.right_lung)):
            path = written[0] / "masks" / side / f"phantom_{index:05d}.png"
            mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(mask, np.where(expected, 255, 0))


def test_headers_agree_with_the_phantoms(written, phantoms):
    """Guards against spacing, orientation or patient attributes that belong to another image."""
    for phantom, dataset in zip(phantoms, written[1], strict=True):
        assert (dataset.Rows, dataset.Columns) == phantom.image.shape
        assert dataset.ViewPosition == phantom.projection
        assert dataset.PatientSex == phantom.patient_sex
        assert list(dataset.PatientOrientation) == ["L", "F"]
        spacing = dataset.get("PixelSpacing") or dataset.ImagerPixelSpacing
        assert tuple(map(float, spacing)) == pytest.approx(phantom.spacing_mm)


def test_spacing_attributes_keep_their_meaning(written):
    """Guards against an uncalibrated spacing that differs from the detector's (PS3.3 10.7.1.1)."""
    for dataset in written[1]:
        imager, pixel = dataset.get("ImagerPixelSpacing"), dataset.get("PixelSpacing")
        if dataset.Modality == "DX":
            assert imager is not None
        if "PixelSpacingCalibrationType" in dataset:
            assert pixel is not None
            assert imager is None or imager[0] > pixel[0]
        else:
            assert imager is not None
            assert pixel is None or list(pixel) == list(imager)


def test_dx_files_keep_to_what_dx_allows(written):
    """Guards against attributes that a DX object for presentation must or must not have."""
    for dataset in (d for d in written[1] if d.Modality == "DX"):
        assert (dataset.RescaleSlope, dataset.RescaleIntercept) == (1, 0)
        assert dataset.PresentationIntentType == "FOR PRESENTATION"
        inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
        assert dataset.PresentationLUTShape == ("INVERSE" if inverse else "IDENTITY")
        assert "WindowCenter" in dataset


def test_uids_name_each_image_once_and_patients_recur(written):
    """Guards against colliding UIDs and against images of one patient under two identities."""
    assert len({d.SOPInstanceUID for d in written[1]}) == COUNT
    assert len({d.StudyInstanceUID for d in written[1]}) == COUNT
    assert written[1][7].PatientID == written[1][8].PatientID
    assert len({d.PatientID for d in written[1]}) == COUNT - 2


def test_the_promised_variety_occurs():
    """Guards against a kind of file that the reader would meet for the first time in a hospital."""
    drawn = [phantom_files._sample_encoding(SEED, index) for index in range(64)]
    assert {e.modality for e in drawn} == {"CR", "DX"}
    assert {(e.modality, e.inverted) for e in drawn} >= {("CR", True), ("DX", True), ("DX", False)}
    assert {e.bits for e in drawn} == set(range(10, 17))
    assert {e.transfer_syntax for e in drawn} == set(phantom_files._TRANSFER_SYNTAXES)
    assert {e.window for e in drawn} == {None, "LINEAR", "LINEAR_EXACT"}
    assert {e.spacing for e in drawn} == {"detector", "both", "calibrated", "calibrated only"}
    assert {e.slope for e in drawn} == {0.5, 1.0, 2.0}


def test_pool_and_single_process_write_the_same_bytes(written, tmp_path):
    """Guards against results that depend on the worker, on time or on a random UID."""
    write_phantoms(tmp_path / "few", 4, SEED)
    whole, few = _bytes(written[0]), _bytes(tmp_path / "few")
    assert len(few) == 3 * 4
    assert few == {name: whole[name] for name in few}


def fail_at_the_second(root: Path, seed: int, index: int) -> None:
    """What a worker is to do; it imports this module."""
    (root / "images" / f"{seed}-{index}").touch()
    if index == 1:
        raise OSError


def test_a_run_that_failed_leaves_nothing_behind(tmp_path, monkeypatch):
    """Guards against half a data set that the next run would take for a whole one."""
    monkeypatch.setattr(phantom_files, "_write_one", fail_at_the_second)
    with pytest.raises(DataError, match="OSError"):
        write_phantoms(tmp_path / "set", 3, SEED)
    assert list(tmp_path.iterdir()) == []


def test_a_script_needs_no_guard(tmp_path):
    """Guards against workers that run the script that called for them again."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\nfrom tfds_builder.phantom_files import write_phantoms\n"
        f"write_phantoms(Path({str(tmp_path / 'set')!r}), 2, 0)\nprint('once')\n"
    )
    output = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    assert output == "once\n"


def test_an_existing_directory_is_left_alone(tmp_path):
    """Guards against a second run that overwrites or completes what it did not write."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "note").touch()
    write_phantoms(tmp_path / "set", 3, SEED)
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["note"]


@pytest.mark.parametrize("name", ["images/phantom_00001.dcm", "masks/left/phantom_00000.png"])
def test_a_folder_that_has_lost_files_is_refused(tmp_path, name):
    """Fault: advice to export a file again, or to remove its mask, where all can be generated."""
    write_phantoms(tmp_path / "set", 2, SEED)
    check_complete(tmp_path / "set", 2)
    # As a loss of power leaves it.
    (tmp_path / "set" / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"{name}; remove the folder to have its phantoms"):
        check_complete(tmp_path / "set", 2)


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (1, -1)])
def test_meaningless_requests_are_refused(tmp_path, count, seed):
    """Guards against an empty directory that looks whole for ever after."""
    with pytest.raises(ValueError, match="count"):
        write_phantoms(tmp_path / "set", count, seed)
    assert list(tmp_path.iterdir()) == []
