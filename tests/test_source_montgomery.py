"""Montgomery County as the National Library of Medicine publishes it."""

from pathlib import Path

import pytest

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.structures import Structure
from tests.layouts import assert_every_file_is_listed_once, dot, reason_of, write_files
from tfds_builder.sources import Clinical, list_source

STEMS = ("MCUCXR_0001_0", "MCUCXR_0113_1", "MCUCXR_0117_1")


def write_montgomery(folder: Path) -> Path:
    root = folder / "MontgomerySet"
    write_files(root / "CXR_png", {f"{stem}.png": dot(0, 0) for stem in (*STEMS, "MCUCXR_0399_1")})
    for side, column in (("left", 6), ("right", 1)):
        masks = {f"{stem}.png": dot(1, column) for stem in STEMS}
        write_files(root / "ManualMask" / f"{side}Mask", masks)
    reading = b"Patient's Sex: F\nPatient's Age: 027Y\nnormal"
    write_files(root / "ClinicalReadings", {f"{STEMS[0]}.txt": reading})
    write_files(root, {"NLM-MontgomeryCXRSet-ReadMe.pdf": b"%PDF", "Thumbs.db": b""})
    return root


def test_layout(tmp_path):
    """Fault: sides changed, one patient counted as two, files lost from the count."""
    root = write_montgomery(tmp_path)
    listing = list_source("montgomery", tmp_path)
    assert [case.example_id for case in listing.cases] == list(STEMS)
    patients = [case.patient_id for case in listing.cases]
    assert patients == ["MCUCXR_0001", "MCUCXR_0113", "MCUCXR_0113"]
    first = listing.cases[0]
    assert (first.source, first.spacing_mm) == ("montgomery", (0.0875, 0.0875))
    assert first.clinical == Clinical("F", 27.0, "normal", "normal")
    places = {mask.structure: mask.path.parent.name for mask in first.masks}
    assert places == {Structure.LEFT_LUNG: "leftMask", Structure.RIGHT_LUNG: "rightMask"}
    assert [path.stem for path in listing.unlabelled] == ["MCUCXR_0399_1"]
    assert_every_file_is_listed_once(listing, root)
    assert sorted(reason_of(listing).values()) == [
        "clinical reading",
        "not an image",
        "not an image",
    ]
    assert any(path.suffix == ".txt" for path in listing.files())


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_lung_without_the_other_is_refused(tmp_path, side):
    """Fault: half the lungs taken for the whole."""
    root = write_montgomery(tmp_path)
    (root / "ManualMask" / f"{side}Mask" / f"{STEMS[1]}.png").unlink()
    with pytest.raises(DataError, match=rf"^{STEMS[1]}: mask of one lung"):
        list_source("montgomery", tmp_path)


def test_kaggles_folder_is_told_from_it(tmp_path):
    """Fault: "no images" for the wrong of two layouts of the same set."""
    (tmp_path / "CXR_png").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match=r"ManualMask/leftMask/ .*found CXR_png, masks"):
        list_source("montgomery", tmp_path)
