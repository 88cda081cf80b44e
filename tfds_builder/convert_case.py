"""Converts a case's files to the fields of its record."""

import dataclasses
import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from lungseg_jax.errors import DataError, NotFrontalError
from lungseg_jax.file_digest import FileDigest, digest_bytes
from lungseg_jax.imaging import files, png
from lungseg_jax.imaging.geometry import Fit, fit_to_square, to_square
from lungseg_jax.imaging.network_input import stored_square
from lungseg_jax.imaging.opencv_memory import opencv_memory_errors
from lungseg_jax.imaging.radiograph import NOT_LIKE_A_CHEST, Orientation, ReadOptions
from lungseg_jax.imaging.structures import Structure
from tfds_builder.masks import covered
from tfds_builder.outcome import Outcome
from tfds_builder.read_case import clinical_of, patient_of, read_case
from tfds_builder.sources import Case

# Stored if the spacing is not known; readers turn it back into None.
NO_SPACING = (0.0, 0.0)

# Stored if the age is not known.
UNKNOWN_AGE = math.nan


@dataclasses.dataclass(frozen=True)
class ConvertSettings:
    """What a record depends on, besides its files.

    Attributes:
      image_size: side of the model's square in pixels.
      id_key: secret that patients' identifiers are hashed with.
      reading: how files are read.
    """

    image_size: int
    id_key: bytes = dataclasses.field(repr=False)
    reading: ReadOptions

    def describe(self) -> str:
        """Returns the settings as text, with the key replaced by its hash."""
        return f"{self!r} {hashlib.sha256(self.id_key).hexdigest()}"


def convert_case(case: Case, settings: ConvertSettings) -> tuple[Outcome, dict[str, Any] | None]:
    """Returns the outcome of a case and, if it was taken, its record."""
    digests: dict[str, FileDigest] = {}
    try:
        # Read once, so that a checksum is of the very bytes that a record was made from.
        contents = {}
        for path in case.files():
            contents[path] = files.read_bytes(path, settings.reading)
            digests[os.fspath(path)] = digest_bytes(contents[path])
        with opencv_memory_errors():
            return _take(case, contents, digests, settings)
    except NotFrontalError as error:
        return Outcome.not_taken(case, "left out", error, digests), None
    except DataError as error:
        return Outcome.not_taken(case, "bad", error, digests), None
    except MemoryError:
        error = DataError(case.image, "needs more memory than there is", "leave it out")
        return Outcome.not_taken(case, "bad", error, digests), None


def _take(
    case: Case,
    contents: Mapping[epath.Path, bytes],
    digests: dict[str, FileDigest],
    settings: ConvertSettings,
) -> tuple[Outcome, dict[str, Any]]:
    radiograph, stored_mask, mask_notes = read_case(case, contents, settings.reading)
    turn = radiograph.orientation
    mask = np.ascontiguousarray(turn.to_upright(stored_mask))
    height, width = mask.shape
    field = radiograph.field
    fit = fit_to_square(field.height, field.width, settings.image_size)
    patient_id, hashed, patient_notes = patient_of(
        case, contents[case.image], settings.id_key, settings.reading
    )
    if turn != Orientation():
        mask_notes = ("mask turned with the image", *mask_notes)
    notes = radiograph.notes + mask_notes + patient_notes
    if not radiograph.looks_frontal:
        # A mask was drawn on it, so what makes it look unlike a chest is most often illness.
        notes = (NOT_LIKE_A_CHEST, *notes)
    clinical = clinical_of(case, contents[case.image], settings.reading)
    record = {
        "image": png.encode_png(stored_square(radiograph, settings.image_size), png.UNCOMPRESSED),
        "mask": png.encode_png(structures_to_square(field.cut(mask), fit), png.UNFILTERED),
        "original_mask": png.encode_png(mask, png.UNFILTERED),
        "example_id": case.example_id,
        "patient_id": patient_id,
        "source": case.source,
        "finding": clinical.finding,
        "sex": clinical.sex,
        "age_years": UNKNOWN_AGE if clinical.age_years is None else clinical.age_years,
        "reading": clinical.reading,
        "original_size": [height, width],
        "field": list(field),
        "spacing_mm": list(radiograph.spacing_mm or NO_SPACING),
        "spacing_source": radiograph.spacing_source,
        "notes": "; ".join(notes),
    }
    outcome = Outcome(
        example_id=case.example_id,
        status="taken",
        subject="",
        fault="",
        remedy="",
        notes=notes,
        has_lung=bool(np.any(mask & np.uint8(Structure.LUNGS))),
        patient_id=patient_id,
        patient_is_hashed=hashed,
        source=case.source,
        finding=case.clinical.finding,
        digests=digests,
    )
    return outcome, record


def structures_to_square(mask: UInt8[np.ndarray, "h w"], fit: Fit) -> UInt8[np.ndarray, "s s"]:
    """Returns a mask's bits in the model's square, each set where it covers half of a pixel."""
    square = np.zeros((fit.size, fit.size), np.uint8)
    present = np.bitwise_or.reduce(mask, axis=None)
    for bit in Structure:
        if bit & present:
            means = to_square(mask & np.uint8(bit), fit)
            square[covered(means, bit)] |= np.uint8(bit)
    return square
