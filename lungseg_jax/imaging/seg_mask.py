"""Masks in DICOM Segmentation objects (SEG): of one image, with a segment for each structure.

pydicom decodes the pixels; highdicom, which could tell the segments, is an optional dependency.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.dicom import max_bytes
from lungseg_jax.imaging.dicom_file import guarded, parse_dicom
from lungseg_jax.imaging.header import read_numbers, read_word
from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.imaging.structures import Structure

# Segmentation, and Label Map Segmentation (PS3.4 B.5).
_SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")

# Codes of SNOMED CT.
_CODES = {
    "39607008": Structure.LUNGS,
    "3341006": Structure.RIGHT_LUNG,
    "44029006": Structure.LEFT_LUNG,
    "80891009": Structure.HEART,
    "51299004": Structure.CLAVICLES,
}
_LUNGS = Structure.LUNGS | Structure.RIGHT_LUNG | Structure.LEFT_LUNG
_SIDES = {"24028007": Structure.RIGHT_LUNG, "7771000": Structure.LEFT_LUNG}

# Many programs leave the code at "tissue" and let people write a label.
_LABELS = {
    "LUNG": Structure.LUNGS,
    "LUNGS": Structure.LUNGS,
    "RIGHT LUNG": Structure.RIGHT_LUNG,
    "LEFT LUNG": Structure.LEFT_LUNG,
    "HEART": Structure.HEART,
    "CLAVICLES": Structure.CLAVICLES,
}

# One radiograph has fewer structures: more frames are of several images.
_MAX_FRAMES = 64
_SEVERAL = "segmentation of several images"


def read_seg_mask(
    content: bytes, name: str, options: ReadOptions = ReadOptions()
) -> UInt8[np.ndarray, "h w"]:
    """Returns the bits of each `Structure` in a SEG of one image (PS3.3 A.51 and A.91).

    A segment is known by its property type and laterality, or by its label; those of other
    structures are ignored. Of fractions, half is inside.

    Args:
      content: the file's bytes, uncompressed.
      name: what errors call the file.
      options: how large it may be.

    Raises:
      DataError: no SEG, of several images, without a lung, compressed, too large, or broken.
    """
    with guarded(name, "broken DICOM header"):
        dataset = parse_dicom(content, name, max_bytes(options))
        if read_word(dataset, "SOPClassUID") not in _SEG_CLASSES:
            remedy = "save masks as 8-bit grey PNG or as DICOM SEG"
            raise DataError(name, "a DICOM file, but no segmentation", remedy)
        segments = {
            int(segment.SegmentNumber): _structure_of(segment)
            for segment in dataset.SegmentSequence
        }
        if not any(structure & _LUNGS for structure in segments.values()):
            remedy = "give lungs their SNOMED codes, or the labels 'right lung' and 'left lung'"
            raise DataError(name, "segmentation without a lung", remedy)
        _check_size(dataset, name, options.max_pixels)
        with guarded(name, "segments do not decode"):
            return _merge(dataset, segments, name)


def _structure_of(segment: Dataset) -> Structure:
    """Returns what a segment marks; no bit for anything else."""
    (kind,) = segment.SegmentedPropertyTypeCodeSequence
    structure = _CODES.get(read_word(kind, "CodeValue"))
    if structure is None:
        words = (read_word(segment, "SegmentLabel"), read_word(kind, "CodeMeaning"))
        return next((_LABELS[word] for word in words if word in _LABELS), Structure(0))
    if structure is Structure.LUNGS:
        for laterality in kind.get("SegmentedPropertyTypeModifierCodeSequence") or ():
            structure = _SIDES.get(read_word(laterality, "CodeValue"), structure)
    return structure


def _check_size(dataset: Dataset, name: str, max_pixels: int) -> None:
    """Checks, before anything is allocated, that the frames are few, small and all there."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        raise DataError(name, "compressed segmentation", "save it uncompressed")
    size = [int(dataset.get(key) or 0) for key in ("Rows", "Columns", "BitsAllocated")]
    rows, columns, bits = size
    if min(size) < 1 or rows * columns > max_pixels:
        fault = f"segmentation of {rows} x {columns} pixels"
        raise DataError(name, fault, f"at most {max_pixels} are read")
    if _count_frames(dataset) > _MAX_FRAMES:
        raise DataError(name, _SEVERAL, "save one for each radiograph")
    if 8 * len(dataset.PixelData) < rows * columns * bits * _count_frames(dataset):
        raise DataError(name, "segments do not decode (cut short)", "fetch the file again")


def _count_frames(dataset: Dataset) -> int:
    return int(read_numbers(dataset, "NumberOfFrames")[0])


def _merge(
    dataset: Dataset, segments: Mapping[int, Structure], name: str
) -> UInt8[np.ndarray, "h w"]:
    """Returns the bits of all frames."""
    shape = _count_frames(dataset), int(dataset.Rows), int(dataset.Columns)
    frames = pixel_array(dataset, raw=True).reshape(shape)
    bits = np.zeros(shape[1:], np.uint8)
    for number, inside in _masks_of(dataset, frames, name):
        structure = segments.get(number, Structure(0))
        bits |= inside * np.uint8(structure)
    bits[bits & np.uint8(_LUNGS) > 0] |= np.uint8(Structure.LUNGS)
    return bits


def _masks_of(
    dataset: Dataset, frames: Shaped[np.ndarray, "n h w"], name: str
) -> Iterator[tuple[int, Bool[np.ndarray, "h w"]]]:
    """Yields the number of each segment and its pixels."""
    if read_word(dataset, "SegmentationType") == "LABELMAP":
        if len(frames) > 1:
            raise DataError(name, _SEVERAL, "save one for each radiograph")
        yield from ((int(number), frames[0] == number) for number in np.unique(frames))
        return
    # Fractions of the whole that 255, or what the header says, stands for.
    whole = int((*read_numbers(dataset, "MaximumFractionalValue"), 1)[0])
    numbers = [
        int(_identification(dataset, position).ReferencedSegmentNumber)
        for position in range(len(frames))
    ]
    if len(set(numbers)) < len(numbers):
        raise DataError(name, _SEVERAL, "save one for each radiograph")
    for number, frame in zip(numbers, frames, strict=True):
        yield number, 2 * frame.astype(np.uint16) >= whole


def _identification(dataset: Dataset, frame: int) -> Dataset:
    """Returns what tells the segment of a frame, by itself or as all others."""
    groups = (dataset.PerFrameFunctionalGroupsSequence[frame],)
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    (identification,) = next(
        group.SegmentIdentificationSequence
        for group in (*groups, *shared)
        if "SegmentIdentificationSequence" in group
    )
    return identification
