"""Checks one record: every field must decode, and the fields must agree with each other."""

import dataclasses
import io
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Num, UInt8
from PIL.PngImagePlugin import PngImageFile

from lungseg_jax.imaging.geometry import Box, Fit, fit_to_square, to_square
from lungseg_jax.imaging.png import png_size
from lungseg_jax.imaging.radiograph import SpacingSource
from lungseg_jax.imaging.spacing import PLAUSIBLE_MAGNIFICATION, PLAUSIBLE_SPACING_MM
from lungseg_jax.imaging.structures import Structure
from tfds_builder.fields import MAX_PIXELS

IMAGE_FIELDS = ("image", "mask", "original_mask")
LABELS = ("example_id", "patient_id", "source")

ALL_BITS = int(~Structure(0))
SIDE_BITS = Structure.RIGHT_LUNG | Structure.LEFT_LUNG

# Covered shares this close to one half may fall on either side of it on another machine.
UNDECIDED_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class CheckedRecord:
    """What the check of a record found.

    Attributes:
      example_id: the record's id; empty if the record does not decode.
      patient_id: its patient's id; empty if the record does not decode.
      faults: (field, fault) of each fault; the field is empty if the whole record is meant.
    """

    example_id: str
    patient_id: str
    faults: tuple[tuple[str, str], ...]


def check_record(content: bytes, features: tfds.features.FeaturesDict) -> CheckedRecord:
    """Returns the id and all faults of a record, given as it is stored."""
    skip = dict.fromkeys(IMAGE_FIELDS, tfds.decode.SkipDecoding())
    try:
        record: Any = features.deserialize_example_np(content, decoders=skip)
    # TFDS lets through whatever its parsers raise; the message may quote the record.
    except Exception as error:  # noqa: BLE001
        return CheckedRecord("", "", (("", f"does not decode ({type(error).__name__})"),))
    faults = []
    for name in IMAGE_FIELDS:
        try:
            stated: Any = (
                record["original_size"] if name == "original_mask" else features[name].shape
            )
            # Before it is decoded: a few bytes may say that they are an image that fills memory.
            size = int(stated[0]), int(stated[1])
            if fault := _wrong_size(name, size, png_size(record[name])):
                faults.append(fault)
                del record[name]
            else:
                record[name] = _decode_image(record[name], features[name])
        # Pillow and OpenCV each raise their own kinds.
        except Exception as error:  # noqa: BLE001
            faults.append((name, f"does not decode ({type(error).__name__})"))
            del record[name]
    faults += check_fields(record)
    example_id, patient_id = (_text(record, name) for name in ("example_id", "patient_id"))
    return CheckedRecord(example_id, patient_id, tuple(faults))


def check_fields(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (field, fault) for each fault in a decoded record, whose images may be missing."""
    faults = [(name, "is empty") for name in LABELS if not _text(record, name)]
    faults += _check_spacing(record)
    if any(side <= 0 for side in record["original_size"]):
        return [*faults, ("original_size", "is not positive")]
    for name in ("mask", "original_mask"):
        if name in record:
            faults += [(name, fault) for fault in _check_bits(record[name])]
    if not _lies_within(Box.of(record["field"]), *map(int, record["original_size"])):
        return [*faults, ("field", "does not lie within the image")]
    if "image" in record:
        faults += _check_image(record)
    if "mask" in record and "original_mask" in record:
        faults += _compare_masks(record)
    return faults


def _decode_image(
    content: bytes, feature: tfds.features.FeatureConnector
) -> Num[np.ndarray, "h w c"]:
    # OpenCV returns what it can decode of a broken file; Pillow checks the checksums.
    PngImageFile(io.BytesIO(content)).verify()
    return np.asarray(feature.decode_example_np(content))


def _check_image(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    image = record["image"][..., 0]
    fit = _fit_of(record, len(image))
    # With the padding, an empty image would seem to have two values.
    inside = image[fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
    if inside.min() == inside.max():
        yield "image", "is empty: all pixels are equal"


def _check_bits(mask: UInt8[np.ndarray, "h w 1"]) -> Iterator[str]:
    if np.any(mask & ~np.uint8(ALL_BITS)):
        yield f"has bits of no known structure (known: {ALL_BITS})"
    sides = (mask & np.uint8(SIDE_BITS)) > 0
    outside = np.count_nonzero(sides & ((mask & np.uint8(Structure.LUNGS)) == 0))
    if outside:
        yield f"has {outside} pixels marked as right or left lung but not as lung"


def _wrong_size(
    name: str, stated: tuple[int, int], there: tuple[int, int]
) -> tuple[str, str] | None:
    """Returns (field, fault) of an image of another size than is stated; `None` if there is none.

    Args:
      name: the image's field.
      stated: the height and width that it should have.
      there: those that it has.
    """
    if stated == there and there[0] * there[1] <= MAX_PIXELS:
        return None
    if stated == there:
        return name, f"has {_by(there)} pixels, too many to be looked at"
    if name == "original_mask":
        return "original_size", f"is {_by(stated)}, but {name} has {_by(there)} pixels"
    return name, f"has {_by(there)} pixels instead of {_by(stated)}"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _compare_masks(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    original, mask = record["original_mask"][..., 0], record["mask"][..., 0]
    fit = _fit_of(record, len(mask))
    seen = Box.of(record["field"]).cut(original)
    # Bits that neither mask has need no resizing.
    used = int(np.bitwise_or.reduce(original, axis=None) | np.bitwise_or.reduce(mask, axis=None))
    for structure in Structure:
        if not structure & used:
            continue
        inside = (seen & np.uint8(structure)) > 0
        share = to_square(inside.astype(np.uint8), fit)
        differs = (share > 0.5) != ((mask & np.uint8(structure)) > 0)
        wrong = np.count_nonzero(differs & (np.abs(share - 0.5) > UNDECIDED_SHARE))
        if wrong:
            yield "mask", f"differs from original_mask in {wrong} pixels of {structure.name}"


def _lies_within(field: Box, height: int, width: int) -> bool:
    inside = field.top + field.height <= height and field.left + field.width <= width
    return min(field.top, field.left) >= 0 and min(field.height, field.width) > 0 and inside


def _fit_of(record: Mapping[str, Any], size: int) -> Fit:
    field = Box.of(record["field"])
    return fit_to_square(field.height, field.width, size)


def _check_spacing(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    source = _text(record, "spacing_source")
    known = typing.get_args(SpacingSource)
    if source not in known:
        yield "spacing_source", f"is none of {', '.join(known)}"
        return
    spacing = np.asarray(record["spacing_mm"])
    if source == "none":
        if np.any(spacing != 0):
            yield "spacing_mm", "is given, but spacing_source is none"
        return
    low, high = PLAUSIBLE_SPACING_MM
    if source == "magnification-corrected":
        low /= PLAUSIBLE_MAGNIFICATION[1]
    # The comparison is false for NaN, too.
    if not np.all((spacing >= low) & (spacing <= high)):
        yield "spacing_mm", f"is not within {low} to {high} mm, but spacing_source is {source}"


def _text(record: Mapping[str, Any], name: str) -> str:
    return record[name].decode(errors="replace")
