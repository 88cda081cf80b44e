"""Masks in DICOM Segmentation objects, made with highdicom and by hand."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from etils import epath
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from lungseg_jax.data.records import open_records
from lungseg_jax.errors import DataError
from lungseg_jax.imaging.dicom_seg import encode_dicom_seg
from lungseg_jax.imaging.radiograph import Orientation, ReadOptions
from lungseg_jax.imaging.seg_mask import BY_A_PROGRAM, read_seg_mask
from lungseg_jax.imaging.structures import Structure
from tests.images import chest, dicom_bytes
from tests.small import small_config
from tfds_builder.masks import read_structures
from tfds_builder.sources import Case, Clinical, MaskFile

STUDY = {"StudyInstanceUID": "1.2.4", "SeriesInstanceUID": "1.2.5"}
SHAPE = (21, 34)
RIGHT, LEFT = Code("3341006", "SCT", "Right lung"), Code("44029006", "SCT", "Left lung")
HEART = Code("80891009", "SCT", "Heart")
LUNG, TISSUE = Code("39607008", "SCT", "Lung"), Code("85756007", "SCT", "Tissue")
RIGHT_BITS = Structure.LUNGS | Structure.RIGHT_LUNG
LEFT_BITS = Structure.LUNGS | Structure.LEFT_LUNG


def masks(count: int = 2, seed: int = 0) -> list[np.ndarray]:
    """Masks without a pixel in common, of no symmetry."""
    classes = np.random.default_rng(seed).integers(0, count + 1, SHAPE)
    return [classes == number for number in range(1, count + 1)]


def seg_of(
    segments: Sequence[tuple[Code, str]], kind: str = "BINARY", frames: Any = None
) -> Dataset:
    """A segmentation of one image with a segment for each (code, label)."""
    source = pydicom.dcmread(io.BytesIO(dicom_bytes(np.zeros(SHAPE, np.uint8), STUDY)))
    source.Modality = "DX"
    for keyword in (
        "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
        "ReferringPhysicianName",
    ):  # fmt: skip
        source.setdefault(keyword, None)
    if frames is None:
        frames = np.stack(masks(len(segments)), axis=-1).astype(np.uint8)
    algorithm = AlgorithmIdentificationSequence(
        name="x", family=codes.DCM.ArtificialIntelligence, version="1"
    )
    return Segmentation(
        source_images=[source],
        pixel_array=frames[None],
        segmentation_type=kind,
        segment_descriptions=[
            SegmentDescription(
                number, label, codes.SCT.AnatomicalStructure, code, "AUTOMATIC", algorithm
            )
            for number, (code, label) in enumerate(segments, 1)
        ],
        series_instance_uid="1.2.8",
        series_number=1,
        sop_instance_uid="1.2.9",
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=False,
    )


def content_of(seg: Dataset) -> bytes:
    buffer = io.BytesIO()
    seg.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
@pytest.mark.parametrize("order", [(RIGHT, LEFT), (LEFT, RIGHT)])
def test_lungs_are_told_by_their_codes(kind: str, order: tuple[Code, Code]):
    """Fault: sides by the segments' order, bits in another order, a byte of frames misaligned."""
    frames = np.stack(masks(), axis=-1)
    seg = seg_of([(code, "x") for code in order], kind, frames.astype(np.uint8))
    bits = {RIGHT: RIGHT_BITS, LEFT: LEFT_BITS}
    expected = sum(frames[..., i] * np.uint8(bits[code]) for i, code in enumerate(order))
    np.testing.assert_array_equal(read_seg_mask(content_of(seg), "x")[0], expected)


def test_half_of_a_fraction_is_inside():
    """Fault: any probability above 0 taken for lung, or fractions of 255 where 100 is the whole."""
    fractions = np.random.default_rng(0).random((*SHAPE, 1))
    seg = seg_of([(LUNG, "x")], "FRACTIONAL", fractions)
    stored = np.rint(fractions[..., 0] * 255)
    expected = (stored >= 127.5) * np.uint8(Structure.LUNGS)
    np.testing.assert_array_equal(read_seg_mask(content_of(seg), "x")[0], expected)
    seg.MaximumFractionalValue = 100
    expected = (stored >= 50) * np.uint8(Structure.LUNGS)
    np.testing.assert_array_equal(read_seg_mask(content_of(seg), "x")[0], expected)


@pytest.mark.parametrize(
    ("attributes", "inside"),
    [
        # Whatever it says about fractions.
        ({"SegmentationType": "BINARY", "MaximumFractionalValue": 255}, lambda x: x > 0),
        ({"MaximumFractionalValue": None}, lambda x: x >= 127.5),
        ({"MaximumFractionalValue": 200}, lambda x: x >= 100),
    ],
)
def test_the_whole_is_what_the_header_says(attributes: dict, inside):
    """Fault: all that is not 0 inside, or nothing at all, for want of a value or one too many."""
    fractions = np.random.default_rng(0).random((*SHAPE, 1))
    seg = seg_of([(LUNG, "x")], "FRACTIONAL", fractions)
    for keyword, value in attributes.items():
        setattr(seg, keyword, value)
    expected = inside(np.rint(fractions[..., 0] * 255)) * np.uint8(Structure.LUNGS)
    np.testing.assert_array_equal(read_seg_mask(content_of(seg), "x")[0], expected)


@pytest.mark.parametrize(
    ("code", "label", "bits"),
    [
        (LUNG, "x", Structure.LUNGS),
        (LUNG, "Left lung", LEFT_BITS),
        # Of another scheme: who knows what it is?
        (Code("39607008", "99MINE", "Rib"), "x", 0),
        (Code("T-28000", "SRT", "x"), "x", Structure.LUNGS),
        (TISSUE, "Left lung", LEFT_BITS),
        (TISSUE, "right lung ", RIGHT_BITS),
        (TISSUE, "lung_right", RIGHT_BITS),
        (TISSUE, "Lung L", LEFT_BITS),
        (TISSUE, "left lung nodule", 0),
        (Code("T-28000", "SRT", "Lungs"), "Segment_1", Structure.LUNGS),
        # The code counts, whatever people call it.
        (RIGHT, "left lung", RIGHT_BITS),
    ],
)
def test_a_segment_is_known_by_code_or_label(code: Code, label: str, bits: Structure):
    """Fault: files of drawing programs refused, or a label believed against the code."""
    first, mask = masks(2)
    found, _ = read_seg_mask(content_of(seg_of([(LUNG, "x"), (code, label)])), "x")
    np.testing.assert_array_equal(found, first * np.uint8(1) + mask * np.uint8(bits))


@pytest.mark.parametrize("codes_of_type", [[], None])
def test_without_a_code_a_label_tells(codes_of_type: list[Dataset] | None):
    """Fault: a file called broken because one segment, be it a rib, has a label alone."""
    seg = seg_of([(RIGHT, "x"), (LEFT, "left lung"), (TISSUE, "rib")])
    for segment in seg.SegmentSequence[1:]:
        segment.SegmentedPropertyTypeCodeSequence = codes_of_type
    right, left, _ = masks(3)
    expected = right * np.uint8(RIGHT_BITS) + left * np.uint8(LEFT_BITS)
    np.testing.assert_array_equal(read_seg_mask(content_of(seg), "x")[0], expected)


@pytest.mark.parametrize(
    ("laterality", "scheme", "bits"),
    [
        ("24028007", "SCT", RIGHT_BITS),
        ("7771000", "SCT", LEFT_BITS),
        ("G-A101", "SRT", LEFT_BITS),
        ("1", "SCT", 1),
    ],
)
def test_a_side_may_be_a_modifier(laterality: str, scheme: str, bits: int):
    """Fault: lungs of programs that code sides apart from organs merged into one."""
    seg = seg_of([(LUNG, "x")])
    modifier = Dataset()
    modifier.CodeValue, modifier.CodingSchemeDesignator = laterality, scheme
    kind = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    kind.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    found, _ = read_seg_mask(content_of(seg), "x")
    np.testing.assert_array_equal(found, masks(1)[0] * np.uint8(bits))


def test_other_structures_are_no_lung():
    """Fault: a rib, or what has no name that is known, added to the lungs."""
    heart = Code("80891009", "SCT", "Heart")
    seg = seg_of([(TISSUE, "rib"), (heart, "x"), (LUNG, "x")])
    _, heart_mask, lungs = masks(3)
    expected = heart_mask * np.uint8(Structure.HEART) + lungs * np.uint8(Structure.LUNGS)
    np.testing.assert_array_equal(read_seg_mask(content_of(seg), "x")[0], expected)


def two_frames_of_one_segment() -> Dataset:
    seg = seg_of([(RIGHT, "x"), (LEFT, "x")])
    groups = seg.PerFrameFunctionalGroupsSequence[1]
    groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1
    return seg


def changed(**attributes: Any) -> Dataset:
    seg = seg_of([(LUNG, "x")])
    for keyword, value in attributes.items():
        setattr(seg, keyword, value)
    return seg


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.1"), "but no segmentation"),
        (lambda: seg_of([(TISSUE, "rib")]), "segmentation without a lung"),
        (two_frames_of_one_segment, "segmentation of several images"),
        (lambda: changed(NumberOfFrames=65), "segmentation of several images"),
        (lambda: changed(Rows=4 * SHAPE[0]), "cut short"),
        (lambda: changed(Rows=60_000, Columns=60_000), "60000 x 60000 pixels"),
        (lambda: changed(Rows=0), "0 x 34 pixels"),
        (
            lambda: changed(PerFrameFunctionalGroupsSequence=[], SharedFunctionalGroupsSequence=[]),
            "do not decode",
        ),
        (lambda: changed(SegmentationType="FRACTIONAL", MaximumFractionalValue=0), "with 0 for"),
        (lambda: changed(SegmentationType=None), "of type unknown"),
    ],
)
def test_what_is_no_segmentation_of_a_radiograph_is_refused(make, fault: str):
    """Fault: slices of a CT merged into one mask; memory filled by a header; a traceback."""
    with pytest.raises(DataError, match=f"^x: .*{fault}"):
        read_seg_mask(content_of(make()), "x")


def frames_without_groups() -> Dataset:
    # A single segment is the same for all frames.
    return changed(NumberOfFrames=None, PerFrameFunctionalGroupsSequence=[])


def surplus() -> Dataset:
    seg = changed()
    seg.PixelData += bytes(10)
    return seg


@pytest.mark.parametrize("make", [frames_without_groups, surplus])
def test_what_a_segmentation_of_one_frame_may_leave_out_is_not_missed(make):
    """Fault: whole files called broken, to be fetched again."""
    found, _ = read_seg_mask(content_of(make()), "x")
    np.testing.assert_array_equal(found, masks(1)[0] * np.uint8(1))


def test_a_segmentation_is_paired_with_its_image():
    """Fault: masks of another patient, measured and trained on without a word."""
    content = content_of(changed())
    assert read_seg_mask(content, "x", image_uid="1.2.3")[0].any()
    with pytest.raises(DataError, match=r"^x: segmentation of another image"):
        read_seg_mask(content, "x", image_uid="1.2.77")
    # Anonymised, it may say nothing.
    bare = changed(ReferencedSeriesSequence=[])
    for group in (*bare.PerFrameFunctionalGroupsSequence, *bare.SharedFunctionalGroupsSequence):
        if "DerivationImageSequence" in group:
            del group.DerivationImageSequence
    assert read_seg_mask(content_of(bare), "x", image_uid="1.2.77")[0].any()


def test_what_is_compressed_is_refused():
    """Fault: bytes of a compressed stream taken for pixels."""
    seg = changed()
    seg.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
    seg.PixelData = pydicom.encaps.encapsulate([bytes(64)])
    seg["PixelData"].is_undefined_length = True
    with pytest.raises(DataError, match=r"^x: compressed segmentation; save it uncompressed"):
        read_seg_mask(content_of(seg), "x")


def test_a_segmentation_of_a_heart_alone_has_an_empty_lung_mask(tmp_path: Path):
    """Fault: hearts for which a lung that was never drawn counts as drawn."""
    frames = np.zeros((*SHAPE, 2), np.uint8)
    frames[5:15, 9:20, 1] = 1
    file = MaskFile(epath.Path(tmp_path, "seg.dcm"), Structure.LUNGS)
    case = Case("e", "p", "folder", epath.Path("x.png"), (file,), Clinical())
    contents = {file.path: content_of(seg_of([(LUNG, "x"), (HEART, "y")], frames=frames))}
    bits, notes = read_structures(case, contents, SHAPE, Orientation(), ReadOptions())
    assert set(np.unique(bits)) == {0, Structure.HEART}
    assert "lung mask is empty" in notes


@pytest.mark.parametrize("turned", [False, True])
def test_corrected_results_are_trained_on(tmp_path: Path, turned: bool):
    """Fault: what predict wrote, and a radiologist corrected, read with a turn or without sides."""
    header = STUDY | {"PatientOrientation": ["F", "L"]} if turned else STUDY
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(10):
        pixels, mask = chest(40, 36, number)
        inside = mask > 127
        # Of the upright image, the viewer's left half.
        right = inside & (np.arange(36) < 18)
        turn = np.transpose if turned else np.asarray
        image = tmp_path / "images" / f"{number}.dcm"
        identity = {"PatientID": str(number), "SOPInstanceUID": f"1.2.3.{number}"}
        image.write_bytes(dicom_bytes(turn(pixels), header | identity))
        content = encode_dicom_seg(
            image, turn(right), turn(inside & ~right), ReadOptions(), ("network",)
        )
        (tmp_path / "masks" / f"{number}_seg.dcm").write_bytes(content)
    config = small_config(
        data__source="folder",
        data__manual_dir=str(tmp_path),
        data__data_dir=str(tmp_path / "records"),
        data__labels="left_right",
    )
    records = open_records(config)["train"]
    for position in range(len(records)):
        example = records.example(position)
        inside = chest(40, 36, int(example.example_id))[1] > 127
        expected = np.stack([inside & (np.arange(36) < 18), inside & (np.arange(36) >= 18)], -1)
        np.testing.assert_array_equal(example.original_mask, expected)


@pytest.mark.parametrize(
    ("makers", "noted"),
    [
        (["AUTOMATIC", "AUTOMATIC", "MANUAL"], True),
        # A reader's part in one lung is a part in the mask; one in the heart is not.
        (["AUTOMATIC", "SEMIAUTOMATIC", "AUTOMATIC"], False),
        (["MANUAL", "MANUAL", "AUTOMATIC"], False),
    ],
)
def test_a_mask_that_nobody_drew_is_noted(makers: list[str], noted: bool):
    """Fault: a network measured against its own masks, with a Dice of 1 and no word of warning."""
    seg = seg_of([(RIGHT, "x"), (LEFT, "x"), (HEART, "x")])
    for segment, maker in zip(seg.SegmentSequence, makers, strict=True):
        segment.SegmentAlgorithmType = maker
    assert read_seg_mask(content_of(seg), "x")[1] == ((BY_A_PROGRAM,) if noted else ())


def test_a_segmentation_is_no_mask_of_one_lung(tmp_path):
    """Fault: both lungs in the mask of one."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "images" / "1.dcm").write_bytes(dicom_bytes(chest(*SHAPE, 0)[0], STUDY))
    for side in ("left", "right"):
        content = content_of(seg_of([(LUNG, "x")]))
        (tmp_path / "masks" / f"1_{side}.dcm").write_bytes(content)
    config = small_config(
        data__source="folder",
        data__manual_dir=str(tmp_path),
        data__data_dir=str(tmp_path / "records"),
    )
    with pytest.raises(DataError, match=r"1_left\.dcm: DICOM SEG as mask of one lung"):
        open_records(config)
