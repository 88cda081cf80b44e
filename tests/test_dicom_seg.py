"""Lungs as DICOM Segmentation objects, read back by the library's reader and by pydicom."""

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.color import CIELabColor

from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.dicom_seg import encode_dicom_seg
from lungseg_jax.imaging.overlay import PREDICTION_COLOURS
from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.predict import packaged_segmenter, predict
from tests.images import PATIENT_ID, PATIENT_NAME, dicom_bytes, png_bytes
from tests.untrained import CHEST, table
from tfds_builder.phantom import generate_phantom

STUDY = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}
MAKERS = ("0123456789abcdef-network", "options")


def sides(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two masks without a pixel in common, of no symmetry."""
    classes = np.random.default_rng(seed).integers(0, 3, CHEST.shape)
    return classes == 1, classes == 2


def encoded(
    folder: Path, attributes: Mapping[str, Any] = {}, seed: int = 0, makers: Any = MAKERS
) -> pydicom.Dataset:
    path = folder / "chest.dcm"
    path.write_bytes(dicom_bytes(CHEST, STUDY | attributes))
    content = encode_dicom_seg(path, *sides(seed), ReadOptions(), makers)
    return pydicom.dcmread(io.BytesIO(content))


def test_each_lung_is_a_segment_of_its_name_pixel_for_pixel(tmp_path):
    """Fault: right and left exchanged, a mask transposed, or bits packed in another order.

    The colours in which viewers show them are those of the overlays.
    """
    seg = highdicom.seg.Segmentation.from_dataset(encoded(tmp_path))
    right, left = sides()
    for number, (mask, code, name) in enumerate(
        [(right, "3341006", "Right lung"), (left, "44029006", "Left lung")], 1
    ):
        described = seg.get_segment_description(number)
        assert described.segment_label == name
        assert described.segmented_property_type.value == code
        colour = CIELabColor.from_dicom_value(described.RecommendedDisplayCIELabValue).to_rgb()
        np.testing.assert_allclose(colour, PREDICTION_COLOURS[number - 1], atol=2)
        found = seg.get_pixels_by_source_instance(["1.2.3"], segment_numbers=[number])
        np.testing.assert_array_equal(found.squeeze() == 1, mask)


def test_it_belongs_to_the_radiographs_patient_and_study(tmp_path):
    """Fault: a segmentation that an archive files under nobody, or that points to no image."""
    seg = encoded(tmp_path, {"PatientOrientation": ["L", "F"]})
    assert (seg.PatientName, seg.PatientID) == (PATIENT_NAME, PATIENT_ID)
    assert seg.StudyInstanceUID == "1.2.4"
    assert seg.SeriesInstanceUID not in ("1.2.5", "")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.5"
    assert seg.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert list(seg.PatientOrientation) == ["L", "F"]


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 144", "Иванов^Иван"),
        ("ISO_IR 192", "山田^太郎"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        (None, "Roe^Jane"),
    ],
)
def test_names_keep_their_letters(tmp_path, character_set: Any, name: str):
    """Fault: letters lost, or in a character set that the object does not state."""
    attributes = {"SpecificCharacterSet": character_set} if character_set else {}
    seg = encoded(tmp_path, attributes | {"PatientName": name})
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert str(seg.PatientName) == name


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("PatientSex", "F", "F"),
        ("PatientSex", "MALE", ""),
        ("PatientSex", "U", ""),
        ("PatientBirthDate", "19500102", "19500102"),
        ("PatientBirthDate", "00000000", ""),
        ("PatientBirthDate", "1950", ""),
        ("StudyDate", "20200013", ""),
        ("StudyTime", "120001", "120001"),
        ("StudyTime", "12:00:01", ""),
        ("PatientAge", "081Y", "081Y"),
        ("PatientAge", "81", ""),
        ("PatientBirthTime", "12:00", ""),
        ("PatientSexNeutered", "ALTERED", "ALTERED"),
        ("PatientSexNeutered", "Altered", ""),
        ("LastMenstrualDate", "20200013", ""),
    ],
)
def test_what_a_header_may_not_say_is_left_empty(tmp_path, keyword: str, value: str, kept: str):
    """Fault: no object for the values that anonymisers leave, or these passed on."""
    path = tmp_path / "chest.dcm"
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(CHEST, STUDY)))
    with pydicom.config.disable_value_validation():
        dataset.add_new(keyword, pydicom.datadict.dictionary_VR(keyword), value)
        dataset.save_as(path)
    content = encode_dicom_seg(path, *sides(), ReadOptions(), MAKERS)
    assert (pydicom.dcmread(io.BytesIO(content)).get(keyword) or "") == kept


@pytest.mark.parametrize(("stated", "passed_on"), [(b"70.500", 70.5), (b"70,500", None)])
def test_a_weight_is_passed_on_if_it_is_a_number(tmp_path, stated: bytes, passed_on: float | None):
    """Fault: an object that validators refuse, for a decimal comma that a device wrote."""
    path = tmp_path / "chest.dcm"
    content = dicom_bytes(CHEST, STUDY | {"PatientWeight": "70.500"})
    path.write_bytes(content.replace(b"70.500", stated))
    seg = pydicom.dcmread(io.BytesIO(encode_dicom_seg(path, *sides(), ReadOptions(), MAKERS)))
    assert seg.get("PatientWeight") == passed_on


def test_the_same_masks_have_the_same_identifiers(tmp_path):
    """Fault: an archive that fills with copies, or one that takes another mask for the same."""
    first, again = encoded(tmp_path), encoded(tmp_path)
    assert (first.SOPInstanceUID, first.SeriesInstanceUID) == (
        again.SOPInstanceUID,
        again.SeriesInstanceUID,
    )
    other_mask = encoded(tmp_path, seed=1)
    assert other_mask.SOPInstanceUID != first.SOPInstanceUID
    assert other_mask.SeriesInstanceUID == first.SeriesInstanceUID
    other_network = encoded(tmp_path, makers=("another", "options"))
    assert other_network.SOPInstanceUID != first.SOPInstanceUID
    assert other_network.SeriesInstanceUID != first.SeriesInstanceUID
    for changed in ({"SOPInstanceUID": "1.2.9"}, {"PatientID": "another"}):
        assert encoded(tmp_path, changed).SOPInstanceUID != first.SOPInstanceUID


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_what_it_must_refer_to_is_named_where_it_is_missing(tmp_path, keyword: str):
    """Fault: an identifier made up, so that the object belongs to no study."""
    path = tmp_path / "chest.dcm"
    path.write_bytes(dicom_bytes(CHEST, STUDY))
    dataset = pydicom.dcmread(path)
    del dataset[keyword]
    dataset.save_as(path)
    with pytest.raises(DataError, match=rf"chest.dcm: its header lacks {keyword}; ") as raised:
        encode_dicom_seg(path, *sides(), ReadOptions(), MAKERS)
    assert PATIENT_ID not in str(raised.value)


def test_an_anonymised_header_is_enough(tmp_path):
    """Fault: no result for files without what the standard allows to be empty."""
    seg = encoded(tmp_path, {"PatientName": None, "PatientID": None})
    assert "PatientID" in seg
    assert not seg.PatientID
    assert not seg.PatientOrientation


@pytest.mark.parametrize("value", ["", "YES", "00"])
def test_an_impossible_word_on_lossy_compression_is_not_passed_on(tmp_path, value: str):
    """Fault: an object that archives refuse, for what it must state is empty or no such word."""
    assert encoded(tmp_path, {"LossyImageCompression": value}).LossyImageCompression == "00"


@pytest.mark.parametrize(
    "plane",
    [
        {"PixelSpacing": ["0.2", "0.3"]},
        {"PixelSpacing": ["0", "0"], "SliceThickness": ""},
        {"FrameOfReferenceUID": ""},
        {"FrameOfReferenceUID": "1.2.7", "PixelSpacing": ["0.2", "0.3"]},
        {
            "FrameOfReferenceUID": "1.2.7",
            "ImagePositionPatient": "",
            "ImageOrientationPatient": "",
            "PixelSpacing": ["0.2", "0.3"],
        },
        {
            "FrameOfReferenceUID": "1.2.7",
            "ImagePositionPatient": ["0", "0", "0"],
            "ImageOrientationPatient": ["1", "0", "0", "0", "0", "-1"],
            "PixelSpacing": ["0.2", "0.3"],
            "SliceThickness": "1",
        },
    ],
)
def test_pixels_are_those_of_the_radiograph_and_of_no_plane(tmp_path, plane: dict[str, Any]):
    """Fault: no object for what a header says of a plane, or one that its own library cannot read.

    What is of planes needs a frame of reference (PS3.3 table A.51-2), which projections have not.
    """
    seg = encoded(tmp_path, plane)
    assert "FrameOfReferenceUID" not in seg
    shared = seg.SharedFunctionalGroupsSequence[0]
    assert not {"PixelMeasuresSequence", "PlaneOrientationSequence"} & set(shared.dir())
    found = highdicom.seg.Segmentation.from_dataset(seg).get_pixels_by_source_instance(["1.2.3"])
    for number, mask in enumerate(sides()):
        np.testing.assert_array_equal(found[0, ..., number] == 1, mask)


def test_a_lung_that_is_not_there_has_its_segment(tmp_path):
    """Fault: a missing frame, which readers take for a lung that nobody looked for."""
    path = tmp_path / "chest.dcm"
    path.write_bytes(dicom_bytes(CHEST, STUDY))
    right, left = sides()
    content = encode_dicom_seg(path, right, np.zeros_like(left), ReadOptions(), MAKERS)
    seg = pydicom.dcmread(io.BytesIO(content))
    assert (seg.NumberOfFrames, len(seg.SegmentSequence)) == (2, 2)
    assert not seg.pixel_array[1].any()


def test_without_its_library_it_is_refused_before_anything_is_done(
    tmp_path, untrained, monkeypatch
):
    """Fault: an archive segmented for hours, with a note at each file that a library is missing."""
    (tmp_path / "a.png").write_bytes(png_bytes(CHEST))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"--dicom_seg: needs highdicom; pip install highdicom"):
        predict(untrained, [tmp_path / "a.png"], tmp_path / "out", extras=["dicom_seg"])
    assert not (tmp_path / "out").exists()


def test_what_gets_none_says_why_and_has_its_mask(tmp_path):
    """Fault: a PNG file, or one header, that stops an archive, or is passed over in silence."""
    images, output = tmp_path / "archive", tmp_path / "out"
    images.mkdir()
    pixels = np.rint(generate_phantom(5, 4).image * 255).astype(np.uint8)
    (images / "a.png").write_bytes(png_bytes(pixels))
    (images / "b.dcm").write_bytes(dicom_bytes(pixels))
    (images / "c.dcm").write_bytes(dicom_bytes(pixels, STUDY))
    predict(packaged_segmenter(), [images], output, extras=["dicom_seg"])
    png, incomplete, complete = table(output)
    assert all((output / row["mask"]).exists() for row in (png, incomplete, complete))
    assert "no DICOM SEG: not a DICOM file" in png["notes"]
    missing = "no DICOM SEG: its header lacks StudyInstanceUID, SeriesInstanceUID"
    assert missing in incomplete["notes"]
    assert [png["dicom_seg"], incomplete["dicom_seg"]] == ["", ""]
    assert (complete["dicom_seg"], complete["notes"]) == ("c_seg.dcm", "")
    seg = pydicom.dcmread(output / "c_seg.dcm")
    lungs = [int(complete["right_px"]), int(complete["left_px"])]
    assert [int(frame.sum()) for frame in seg.pixel_array] == lungs
    # It is no image of a later call, and stays when it is not asked for again.
    rows = predict(packaged_segmenter(), [output, images], output)
    assert len(rows) == 3
    assert rows[2].dicom_seg == "c_seg.dcm"
    # It goes with the mask that it was made of.
    options = ReadOptions(correct_polarity=False)
    predict(packaged_segmenter(), [images], output, options)
    assert not list(output.glob("*.dcm"))
