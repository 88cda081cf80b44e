"""Merges a case's mask files into one mask with a bit for each structure."""

import os
from collections.abc import Mapping

import cv2
import numpy as np
from etils import epath
from jaxtyping import Bool, Float32, UInt8

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.dicom import read_instance_uid
from lungseg_jax.imaging.dicom_file import is_dicom
from lungseg_jax.imaging.mask_file import read_mask
from lungseg_jax.imaging.radiograph import Orientation, ReadOptions
from lungseg_jax.imaging.seg_mask import read_seg_mask
from lungseg_jax.imaging.structures import Structure
from tfds_builder.sources import Case, MaskFile

_WORDS = {
    Structure.LUNGS: "lung",
    Structure.RIGHT_LUNG: "right lung",
    Structure.LEFT_LUNG: "left lung",
    Structure.HEART: "heart",
    Structure.CLAVICLES: "clavicle",
}

# Even lungs that a tight frame cuts off touch a smaller share of its border.
_LARGEST_SHARE_OF_BORDER = 0.5

# Outlines drawn at a smaller share of the image's size are coarser than what is measured on them.
_SMALLEST_SCALE = 0.25

# Two outlines drawn along a common border share a few pixels: this share of the smaller lung.
_TOLERATED_OVERLAP = 0.001


def read_structures(
    case: Case,
    contents: Mapping[epath.Path, bytes],
    shape: tuple[int, int],
    orientation: Orientation,
    reading: ReadOptions,
) -> tuple[UInt8[np.ndarray, "h w"], tuple[str, ...]]:
    """Returns a case's mask, with a bit for each `Structure`, and notes on what is doubtful in it.

    Masks of the image's proportions are resized to it, with a note: the outlines of JSRT, and of
    other collections, were drawn at another scale.

    Args:
      case: the case whose masks to read.
      contents: contents of the mask files, and of the image where a mask may refer to it.
      shape: (height, width) of the image as stored.
      orientation: how the stored image is turned upright. Sides are checked in the upright
        image; the mask is returned as stored.
      reading: how large a mask may be.

    Raises:
      DataError: a mask is missing, broken, too large, of other proportions than the image or less
        than a quarter of its size, or marks what is not lung.
    """
    bits = np.zeros(shape, np.uint8)
    notes: list[str] = []
    for file in case.masks:
        mask, doubts = read_mask_file(file, case, contents, reading)
        notes += doubts
        if mask.shape != shape:
            mask = _resize(mask, shape, file, case)
            notes.append(f"{_WORDS[file.structure]} mask resized to its image")
        # A DICOM SEG without lung may still mark the heart.
        if not np.any(mask & np.uint8(file.structure)):
            notes.append(f"{_WORDS[file.structure]} mask is empty")
        elif len(case.masks) == 1 and (side := _only_side(mask)):
            notes.append(f"only the {_WORDS[side]} is marked")
        _check_border(mask, file)
        bits |= mask
    upright = orientation.to_upright(bits)
    return bits, (*notes, *_doubts_about_sides(upright))


def read_mask_file(
    file: MaskFile, case: Case, contents: Mapping[epath.Path, bytes], reading: ReadOptions
) -> tuple[UInt8[np.ndarray, "a b"], tuple[str, ...]]:
    """Returns the bits of a file, its structure's or those that a DICOM SEG tells, and notes.

    Args:
      file: the file.
      case: the case that it belongs to.
      contents: contents of the file, and of the image if it is DICOM.
      reading: how large a mask may be.

    Raises:
      DataError: the file is broken, too large, or no mask of that structure or that image.
    """
    name, content = os.fspath(file.path), contents[file.path]
    if not is_dicom(content):
        inside = read_mask(content, name, reading.max_pixels)
        return inside * np.uint8(_bits_of(file.structure)), ()
    if file.structure is not Structure.LUNGS:
        remedy = "give one file with both, as the image's only mask"
        raise DataError(file.path, "DICOM SEG as mask of one lung", remedy)
    image, image_uid = contents.get(case.image, b""), ""
    if is_dicom(image):
        image_uid = read_instance_uid(image, os.fspath(case.image), reading)
    return read_seg_mask(content, name, reading, image_uid)


def _only_side(mask: UInt8[np.ndarray, "h w"]) -> Structure | None:
    """Returns the one side that a mask marks, if it is one."""
    present = int(np.bitwise_or.reduce(mask, axis=None))
    sides = [side for side in (Structure.RIGHT_LUNG, Structure.LEFT_LUNG) if side & present]
    return sides[0] if len(sides) == 1 else None


def _resize(
    mask: UInt8[np.ndarray, "a b"], shape: tuple[int, int], file: MaskFile, case: Case
) -> UInt8[np.ndarray, "h w"]:
    """Returns a mask at its image's size: interpolated, and cut at half for each structure.

    At twice the size that repeats every pixel.
    """
    (rows, columns), (height, width) = mask.shape, shape
    # Whoever resized either, and rounded its sides to whole pixels, was off by less than one.
    alike = abs(rows * width - columns * height) < max(rows, columns, height, width)
    if not alike or rows < _SMALLEST_SCALE * height:
        fault = f"mask of {_size(mask.shape)} for an image of {_size(shape)} ({case.image.name})"
        remedy = "give a mask of all of the image, in its proportions, at least a quarter as large"
        raise DataError(file.path, fault, remedy)
    method = cv2.INTER_LINEAR if rows < height else cv2.INTER_AREA
    resized = np.zeros(shape, np.uint8)
    present = np.bitwise_or.reduce(mask, axis=None)
    for structure in Structure:
        if structure & present:
            bit = np.uint8(structure)
            marked = (mask & bit).astype(np.float32)
            means = cv2.resize(marked, (width, height), interpolation=method)
            resized[covered(means, structure)] |= bit
    return resized


def covered(means: Float32[np.ndarray, "h w"], structure: Structure) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels that a structure covers to at least half.

    Of pixels covered to exactly half, which are every second one on an outline that shrinks by two,
    every other one is taken, as on a chessboard: taking all or none would move the outline.

    Args:
      means: the mean of the structure's bit over each pixel.
      structure: the structure.
    """
    half = structure / 2
    rows, columns = np.ogrid[: means.shape[0], : means.shape[1]]
    taken = means > half
    taken |= (means == half) & (rows % 2 == columns % 2)
    return taken


def _check_border(mask: UInt8[np.ndarray, "h w"], file: MaskFile) -> None:
    """Refuses masks that mark most of the image's border, as inverted ones do."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]) > 0
    if border.mean() > _LARGEST_SHARE_OF_BORDER:
        raise DataError(
            file.path,
            f"marks most of the image's border as {_WORDS[file.structure]}",
            "mark the structure with 255 and all else with 0",
        )


def _bits_of(structure: Structure) -> int:
    is_lung = structure in Structure.LEFT_LUNG | Structure.RIGHT_LUNG
    return structure | Structure.LUNGS if is_lung else structure


def _doubts_about_sides(upright: UInt8[np.ndarray, "h w"]) -> list[str]:
    """Says whether the lungs seem to have changed places, or overlap."""
    sides = Structure.LEFT_LUNG, Structure.RIGHT_LUNG
    present = int(np.bitwise_or.reduce(upright, axis=None))
    if not all(side & present for side in sides):
        return []
    left, right = (upright & np.uint8(side) > 0 for side in sides)
    notes = []
    if _mean_column(left) < _mean_column(right):
        notes.append("left lung mask lies on the viewer's left of the right lung's")
    overlap = np.count_nonzero(left & right)
    if overlap > _TOLERATED_OVERLAP * min(np.count_nonzero(left), np.count_nonzero(right)):
        notes.append(f"left and right lung masks share {overlap} pixels")
    return notes


def _mean_column(mask: np.ndarray) -> float:
    return float(np.average(np.arange(mask.shape[1]), weights=mask.sum(axis=0)))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"
