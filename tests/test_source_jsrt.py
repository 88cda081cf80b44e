"""JSRT's images with the outlines of the SCR database."""

from pathlib import Path

import pytest

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.structures import Structure
from tests.layouts import assert_every_file_is_listed_once, dot, reason_of, write_files
from tfds_builder.sources import Clinical, list_source

STEMS = ("JPCLN001", "JPCLN002", "JPCNN001")
FOLDERS = ("heart", "left clavicle", "left lung", "right clavicle", "right lung")


def write_jsrt(folder: Path, suffix: str = "IMG") -> None:
    write_files(folder / "All247images", {f"{stem}.{suffix}": b"" for stem in (*STEMS, "JPCNN093")})
    readings = {
        "CLNDAT_EN.txt": b"JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tlung cancer\n",
        "CNNDAT_EN.TXT": b"JPCNN001.IMG\t61\tfemale\tnon-nodule\n",
    }
    write_files(folder / "Clinical_Information", readings)
    for number, stem in enumerate(STEMS):
        fold = folder / "scratch" / f"fold{1 + number % 2}"
        for column, name in enumerate(FOLDERS):
            write_files(fold / "masks" / name, {f"{stem}.gif": dot(number, column)})
        write_files(fold / "landmarks", {f"{stem}.pfs": b""})


@pytest.mark.parametrize("suffix", ["IMG", "png"])
def test_layout(tmp_path, suffix):
    """Fault: structures or sides mixed up, a fold missed, ids that depend on the file's kind."""
    write_jsrt(tmp_path, suffix)
    listing = list_source("jsrt", tmp_path)
    assert [case.example_id for case in listing.cases] == list(STEMS)
    for case in listing.cases:
        assert (case.patient_id, case.source) == (case.example_id, "jsrt")
        assert case.spacing_mm == (0.175, 0.175)
        structures = {mask.path.parent.name: mask.structure for mask in case.masks}
        assert structures == {
            "heart": Structure.HEART,
            "left clavicle": Structure.CLAVICLES,
            "left lung": Structure.LEFT_LUNG,
            "right clavicle": Structure.CLAVICLES,
            "right lung": Structure.RIGHT_LUNG,
        }
        assert {mask.path.stem for mask in case.masks} == {case.example_id}
    assert [case.clinical for case in listing.cases] == [
        Clinical("M", 53.0, "abnormal", "malignant lung cancer"),
        Clinical(finding="abnormal"),
        Clinical("F", 61.0, "normal", "non-nodule"),
    ]
    assert [path.stem for path in listing.unlabelled] == ["JPCNN093"]
    assert_every_file_is_listed_once(listing, tmp_path)
    assert {path.name for path in listing.files() if path.suffix.lower() == ".txt"} == {
        "CLNDAT_EN.txt",
        "CNNDAT_EN.TXT",
    }


def test_the_raw_image_goes_before_others(tmp_path):
    """Fault: 8 bits are read where 12 are there, or a mask is taken for the image."""
    write_jsrt(tmp_path)
    write_files(tmp_path / "A", {f"{STEMS[0]}.png": b""})
    write_files(tmp_path / "Nodule154images", {f"{STEMS[0]}.IMG": b""})
    write_files(tmp_path / "All masks", {f"{STEMS[1]}.png": b""})
    listing = list_source("jsrt", tmp_path)
    assert [case.image.parent.name for case in listing.cases] == ["All247images"] * 3
    assert {case.image.suffix for case in listing.cases} == {".IMG"}
    assert_every_file_is_listed_once(listing, tmp_path)
    reasons = reason_of(listing)
    assert reasons["A/JPCLN001.png"] == reasons["Nodule154images/JPCLN001.IMG"] == "second copy"


def test_folders_renamed_by_mirrors_and_structures_left_out(tmp_path):
    """Fault: a mirror's underscores hide the masks, or hearts are made a condition."""
    for name, column in (("left_lung", 6), ("Right-Lung", 1)):
        write_files(tmp_path / name, {"JPCLN001.png": dot(0, column)})
    write_files(tmp_path / "images", {"JPCLN001.png": b""})
    (case,) = list_source("jsrt", tmp_path).cases
    assert case.image.parent.name == "images"
    assert {mask.structure for mask in case.masks} == {Structure.LEFT_LUNG, Structure.RIGHT_LUNG}


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (["scratch/fold1/masks/left lung/JPCLN001.gif"], "JPCLN001: mask of one lung without"),
        (
            [f"scratch/fold1/masks/{side} lung/JPCLN001.gif" for side in ("left", "right")],
            r"JPCLN001: mask of heart or clavicle without the lungs' \(one of 1\)",
        ),
        (["All247images/JPCLN002.IMG"], "JPCLN002: mask without its image"),
    ],
)
def test_half_a_copy_is_refused(tmp_path, lost, message):
    """Fault: a smaller data set than the published one, without a word."""
    write_jsrt(tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"^{message}"):
        list_source("jsrt", tmp_path)


def test_two_observers_are_not_mixed(tmp_path):
    """Fault: the second observer's outline counts for some images, the first's for others."""
    write_jsrt(tmp_path)
    write_files(tmp_path / "second" / "heart", {"JPCLN001.gif": dot(5, 5)})
    with pytest.raises(DataError, match="is another mask of the same image"):
        list_source("jsrt", tmp_path)


def test_images_alone_are_refused(tmp_path):
    """Fault: the outlines, which come from elsewhere, were forgotten."""
    write_files(tmp_path, {"JPCLN001.IMG": b""})
    with pytest.raises(DataError, match=r"1 images .* and 0 masks .*; unpack the images"):
        list_source("jsrt", tmp_path)
