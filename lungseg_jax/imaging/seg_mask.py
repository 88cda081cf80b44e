"""Masks in DICOM Segmentation objects (SEG): of one image, with a segment for each structure.

pydicom decodes the pixels; highdicom, which could tell the segments, is an optional dependency.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.sr.coding import Code

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.dicom import max_bytes
from lungseg_jax.imaging.dicom_file import guarded, parse_dicom
from lungseg_jax.imaging.header import read_numbers, read_word
from lungseg_jax.imaging.radiograph import ReadOptions, check_num_pixels
from lungseg_jax.imaging.structures import Structure

# Segmentation, and Label Map Segmentation (PS3.4 B.5).
_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")

# SNOMED CT's codes; pydicom holds older codes of the same meaning for equal.
_CODES = {
    Code("39607008", "SCT", "Lung"): Structure.LUNGS,
    Code("3341006", "SCT", "Right lung"): Structure.RIGHT_LUNG,
    Code("44029006", "SCT", "Left lung"): Structure.LEFT_LUNG,
    Code("80891009", "SCT", "Heart"): Structure.HEART,
    Code("51299004", "SCT", "Clavicle"): Structure.CLAVICLES,
}
_LATERALITY = {
    Code("24028007", "SCT", "Right"): Structure.RIGHT_LUNG,
    Code("7771000", "SCT", "Left"): Structure.LEFT_LUNG,
}
# Many programs leave the code at "tissue" and let people write a label.
_LABELS = {
    frozenset(words.split()): structure
    for words, structure in {
        "LUNG": Structure.LUNGS,
        "LUNGS": Structure.LUNGS,
        "RIGHT LUNG": Structure.RIGHT_LUNG,
        "R LUNG": Structure.RIGHT_LUNG,
        "LEFT LUNG": Structure.LEFT_LUNG,
        "L LUNG": Structure.LEFT_LUNG,
        "HEART": Structure.HEART,
        "CLAVICLES": Structure.CLAVICLES,
    }.items()
}

# The note on a mask that is not a reader's (SegmentAlgorithmType, PS3.3 C.8.20.4).
BY_A_PROGRAM = "mask made by a program (SegmentAlgorithmType is AUTOMATIC)"

_SIDES = Structure.RIGHT_LUNG | Structure.LEFT_LUNG
_LUNGS = Structure.LUNGS | _SIDES

# One radiograph has fewer structures: more frames are of several images.
_MAX_FRAMES = 64
_SEVERAL = "segmentation of several images"
_ONE_EACH = "save one for each radiograph"


def read_seg_mask(
    content: bytes, name: str, options: ReadOptions = ReadOptions(), image_uid: str = ""
) -> tuple[UInt8[np.ndarray, "h w"], tuple[str, ...]]:
    """Returns the bits of each `Structure` in a SEG of one image (PS3.3 A.51 and A.91), and notes.

    A segment is known by its property type and laterality, or by its label; those of other
    structures are ignored. Of fractions, half is inside.

    Args:
      content: the file's bytes, uncompressed.
      name: what errors call the file.
      options: how large it may be.
      image_uid: SOPInstanceUID of the image, if it is known.

    Raises:
      DataError: no SEG, of several images or of another one, without a lung, compressed, too large,
        or broken.
    """
    with guarded(name, "broken DICOM header"):
        dataset = parse_dicom(content, name, max_bytes(options))
        if read_word(dataset, "SOPClassUID") not in _SEG_CLASSES:
            remedy = "save masks as 8-bit grey PNG or as DICOM SEG"
            raise DataError(name, "a DICOM file, but no segmentation", remedy)
        referenced = set(_referenced(dataset))
        if image_uid and referenced and image_uid not in referenced:
            raise DataError(name, "segmentation of another image", "pair it with that image")
        segments = {
            int(segment.SegmentNumber): _structure_of(segment)
            for segment in dataset.SegmentSequence
        }
        kinds = {
            read_word(segment, "SegmentAlgorithmType")
            for segment in dataset.SegmentSequence
            if segments[int(segment.SegmentNumber)] & _LUNGS
        }
        if not kinds:
            remedy = "give lungs their SNOMED codes, or the labels 'right lung' and 'left lung'"
            raise DataError(name, "segmentation without a lung", remedy)
        _check_size(dataset, name, options.max_pixels)
        with guarded(name, "segments do not decode"):
            bits = _merge(dataset, segments, name)
    bits[bits & np.uint8(_SIDES) > 0] |= np.uint8(Structure.LUNGS)
    return bits, (BY_A_PROGRAM,) if kinds == {"AUTOMATIC"} else ()


def _referenced(dataset: Dataset) -> Iterator[str]:
    """Yields the SOPInstanceUID of each image that a SEG says it is of."""
    for series in dataset.get("ReferencedSeriesSequence") or ():
        for instance in series.get("ReferencedInstanceSequence") or ():
            yield read_word(instance, "ReferencedSOPInstanceUID")
    groups = (
        dataset.get(name) or ()
        for name in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
    )
    for group in (item for items in groups for item in items):
        for derivation in group.get("DerivationImageSequence") or ():
            for source in derivation.get("SourceImageSequence") or ():
                yield read_word(source, "ReferencedSOPInstanceUID")


def _structure_of(segment: Dataset) -> Structure:
    """Returns what a segment marks; no bit for anything else."""
    # Drawing programs, or whoever made a file anonymous, may leave the code out.
    (kind,) = segment.get("SegmentedPropertyTypeCodeSequence") or [Dataset()]
    labels = (read_word(segment, "SegmentLabel"), read_word(kind, "CodeMeaning"))
    # In any order, and with anything between them.
    words = [frozenset(re.findall("[A-Z]+", label)) for label in labels]
    labelled = next((_LABELS[found] for found in words if found in _LABELS), Structure(0))
    structure = _meaning_of(kind, _CODES) or labelled
    if structure is not Structure.LUNGS:
        return structure
    for modifier in kind.get("SegmentedPropertyTypeModifierCodeSequence") or ():
        if side := _meaning_of(modifier, _LATERALITY):
            return side
    return labelled if labelled & _SIDES else structure


def _meaning_of(item: Dataset, codes: Mapping[Code, Structure]) -> Structure | None:
    stated = Code(read_word(item, "CodeValue"), read_word(item, "CodingSchemeDesignator"), "")
    # Equal codes of two schemes have different hashes.
    return next((structure for code, structure in codes.items() if code == stated), None)


def _check_size(dataset: Dataset, name: str, max_pixels: int) -> None:
    """Checks, before anything is allocated, that the frames are few, small and all there."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax or syntax.is_encapsulated:
        raise DataError(name, "compressed segmentation", "save it uncompressed")
    size = [int(dataset.get(key) or 0) for key in ("Rows", "Columns", "BitsAllocated")]
    rows, columns, bits = size
    if min(size) < 1:
        fault = f"segmentation of {rows} x {columns} pixels of {bits} bits"
        raise DataError(name, fault, "export it again")
    check_num_pixels(rows, columns, name, max_pixels)
    count = _count_frames(dataset)
    if count > _MAX_FRAMES:
        raise DataError(name, _SEVERAL, _ONE_EACH)
    length = -(-rows * columns * bits * count // 8)
    if len(dataset.PixelData) < length:
        raise DataError(name, "segments do not decode (cut short)", "copy or export it again")
    # pydicom refuses more than one byte too many.
    dataset.PixelData = dataset.PixelData[: length + length % 2]


def _count_frames(dataset: Dataset) -> int:
    return int((*read_numbers(dataset, "NumberOfFrames"), 1)[0])


def _merge(
    dataset: Dataset, segments: Mapping[int, Structure], name: str
) -> UInt8[np.ndarray, "h w"]:
    """Returns the bits of all segments."""
    shape = _count_frames(dataset), int(dataset.Rows), int(dataset.Columns)
    frames = pixel_array(dataset, raw=True).reshape(shape)
    if read_word(dataset, "SegmentationType") == "LABELMAP":
        if len(frames) > 1:
            raise DataError(name, _SEVERAL, _ONE_EACH)
        table = np.zeros(2**16, np.uint8)
        for number, structure in segments.items():
            table[number] = structure
        return table[frames[0]]
    numbers = [_segment_number(dataset, place) for place in range(len(frames))]
    if len(set(numbers)) < len(numbers):
        raise DataError(name, _SEVERAL, _ONE_EACH)
    bits = np.zeros(shape[1:], np.uint8)
    for number, inside in zip(numbers, _inside(dataset, frames, name), strict=True):
        bits |= inside * np.uint8(segments.get(number, 0))
    return bits


def _inside(
    dataset: Dataset, frames: Shaped[np.ndarray, "n h w"], name: str
) -> Bool[np.ndarray, "n h w"]:
    """Returns which pixels belong to each frame's segment."""
    kind = read_word(dataset, "SegmentationType")
    if kind == "BINARY":
        return frames > 0
    whole = (*read_numbers(dataset, "MaximumFractionalValue"), 255)[0]
    if kind != "FRACTIONAL" or whole < 1:
        fault = f"segmentation of type {kind or 'unknown'} with {whole:g} for the whole"
        raise DataError(name, fault, "save it as BINARY")
    return frames >= whole / 2


def _segment_number(dataset: Dataset, frame: int) -> int:
    """Returns the number of a frame's segment, which the frame states, or all frames together."""
    of_each = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    for group in (*of_each[frame:][:1], *shared):
        for identification in group.get("SegmentIdentificationSequence") or ():
            return int(identification.ReferencedSegmentNumber)
    raise ValueError("a frame without a segment")
