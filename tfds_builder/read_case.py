"""Decodes a case's image and masks; imports are light, because worker processes run it."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import UInt8, UInt16

from lungseg_jax.errors import DataError
from lungseg_jax.imaging import dicom, files
from lungseg_jax.imaging.dicom_file import is_dicom
from lungseg_jax.imaging.geometry import Box
from lungseg_jax.imaging.network_input import network_input
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions
from lungseg_jax.imaging.structures import Structure
from tfds_builder.masks import read_mask_file, read_structures
from tfds_builder.sources import Case, Clinical, MaskFile, documented_spacing

# Share of a mask beside the exposed field that is not worth a note: an outline's width.
_NEXT_TO_NOTHING = 0.001


@dataclasses.dataclass(frozen=True)
class Labelled:
    """An image, and where its lungs are.

    Attributes:
      radiograph: the image.
      mask: the reference mask, in the frame of the file; see `Structure`.
      patient_id: the patient's id; a keyed hash if it is secret.
      clinical: what is known about the patient.
      mask_notes: doubts about the mask.
    """

    radiograph: Radiograph
    mask: UInt8[np.ndarray, "h w"]
    patient_id: str
    clinical: Clinical
    mask_notes: tuple[str, ...]


def read_case(
    case: Case, contents: Mapping[epath.Path, bytes], reading: ReadOptions
) -> tuple[Radiograph, UInt8[np.ndarray, "h w"], tuple[str, ...]]:
    """Returns a case's radiograph, its mask as stored with a bit for each structure, and its notes.

    The notes are on the mask. If the file states no spacing, the radiograph has the spacing from
    the data set's documentation.

    Args:
      case: the case that the files belong to.
      contents: contents of the files, by their paths.
      reading: how files are read.

    Raises:
      NotFrontalError: by its header, the image shows something other than a frontal chest.
      DataError: a file cannot be read, or the masks do not fit the image.
    """
    radiograph = files.decode_radiograph(contents[case.image], os.fspath(case.image), reading)
    turn = radiograph.orientation
    height, width = turn.to_stored(radiograph.pixels).shape
    mask, notes = read_structures(case, contents, (height, width), turn, reading)
    if share := _share_beside(radiograph.field, turn.to_upright(mask)):
        notes = (*notes, f"of the lungs' mask {share:.1%} lie on bars that are cut off")
    documented = documented_spacing(case, radiograph.pixels.shape)
    if radiograph.spacing_mm is None and documented is not None:
        radiograph = dataclasses.replace(
            radiograph, spacing_mm=documented, spacing_source="detector"
        )
    return radiograph, mask, notes


def _share_beside(field: Box, mask: UInt8[np.ndarray, "h w"]) -> float:
    """Returns the share of a mask's lungs that networks do not see; 0 for next to nothing."""
    lungs = mask & np.uint8(Structure.LUNGS)
    whole = np.count_nonzero(lungs)
    share = 1 - np.count_nonzero(field.cut(lungs)) / max(whole, 1)
    return share if whole and share >= _NEXT_TO_NOTHING else 0.0


def patient_of(
    case: Case, content: bytes, id_key: bytes, reading: ReadOptions
) -> tuple[str, bool, tuple[str, ...]]:
    """Returns who the patient is, whether that is a keyed hash, and notes.

    Args:
      case: the patient's case.
      content: content of its image's file.
      id_key: secret for the hash.
      reading: how files are read.
    """
    if case.patient_id:
        if case.patient_is_secret:
            return dicom.hash_patient(case.patient_id, id_key), True, ()
        return case.patient_id, False, ()
    if not is_dicom(content):
        return case.example_id, False, ()
    patient_id, notes = dicom.read_patient_id(content, os.fspath(case.image), id_key, reading)
    return patient_id or case.example_id, patient_id is not None, notes


def clinical_of(case: Case, content: bytes, reading: ReadOptions) -> Clinical:
    """Returns what is known about the patient; by the DICOM header only where that is wanted.

    Args:
      case: the patient's case.
      content: content of its image's file.
      reading: how files are read.
    """
    if not reading.sex_and_age or not is_dicom(content):
        return case.clinical
    sex, age = dicom.read_sex_and_age(content, os.fspath(case.image), reading)
    known = case.clinical
    return dataclasses.replace(
        known,
        sex=known.sex or sex,
        age_years=age if known.age_years is None else known.age_years,
    )


def read_labelled(case: Case, reading: ReadOptions, id_key: bytes) -> Labelled:
    """Returns a case as an evaluation needs it.

    Args:
      case: the case to read.
      reading: how its files are read.
      id_key: secret that patients' identifiers are hashed with.

    Raises:
      NotFrontalError: see `read_case`.
      DataError: see `read_case`.
    """
    contents = {path: files.read_bytes(path, reading) for path in case.files()}
    radiograph, mask, notes = read_case(case, contents, reading)
    patient_id, _, _ = patient_of(case, contents[case.image], id_key, reading)
    clinical = clinical_of(case, contents[case.image], reading)
    return Labelled(radiograph, mask, patient_id, clinical, notes)


def read_labelled_input(
    case: Case, reading: ReadOptions, id_key: bytes, size: int
) -> tuple[Labelled, UInt16[np.ndarray, "s s 1"]]:
    """Returns what `read_labelled` returns, and what a network sees of the image.

    Args:
      case: see `read_labelled`.
      reading: see there.
      id_key: see there.
      size: side of the model's square in pixels.

    Raises:
      NotFrontalError: see there.
      DataError: see there, or the image is too small.
    """
    labelled = read_labelled(case, reading, id_key)
    return labelled, network_input(labelled.radiograph, case.image.name, size)


def read_labelled_and_mask(
    case: Case, reading: ReadOptions, id_key: bytes, masks: tuple[MaskFile, ...]
) -> tuple[Labelled, UInt8[np.ndarray, "h w"] | DataError]:
    """Returns what `read_labelled` returns, and the bits of other masks of the image.

    If a mask cannot be read or is not of the image's size, the second item is the reason: the image
    is good all the same.

    Args:
      case: see `read_labelled`.
      reading: see there.
      id_key: see there.
      masks: the other masks.

    Raises:
      NotFrontalError: see there.
      DataError: see there.
    """
    labelled = read_labelled(case, reading, id_key)
    bits = np.zeros_like(labelled.mask)
    try:
        for file in masks:
            bits |= _read_of_size(file, case, reading, labelled.mask.shape)
    except DataError as error:
        return labelled, error
    return labelled, bits


def _read_of_size(
    file: MaskFile, case: Case, reading: ReadOptions, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "h w"]:
    if fault := files.why_no_file(file.path):
        raise DataError(file.path, fault, "make a mask of each image, empty if nothing is found")
    contents = {path: files.read_bytes(path, reading) for path in (case.image, file.path)}
    mask, _ = read_mask_file(file, case, contents, reading)
    if mask.shape != shape:
        fault = f"{mask.shape[0]} x {mask.shape[1]} pixels, its image {shape[0]} x {shape[1]}"
        raise DataError(file.path, fault, "give masks at the images' own size")
    return mask
