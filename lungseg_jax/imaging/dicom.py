"""DICOM files to radiographs."""

import dataclasses
import hmac
import re
from typing import Literal, cast

import numpy as np

from lungseg_jax.imaging import frontal
from lungseg_jax.imaging.dicom_file import guarded, parse_dicom
from lungseg_jax.imaging.greyscale import read_greyscale, to_intensities
from lungseg_jax.imaging.header import read_word
from lungseg_jax.imaging.orientation import describe_turn, read_orientation
from lungseg_jax.imaging.pixel_data import has_surplus, read_stored_values
from lungseg_jax.imaging.radiograph import Orientation, Radiograph, ReadOptions
from lungseg_jax.imaging.shutter import black_outside_shutter
from lungseg_jax.imaging.spacing import read_spacing, remarks_on_spacing

# Attributes that distinguish patients, in order of preference, and notes on their use.
_IDENTIFIERS = {
    "PatientID": (),
    "StudyInstanceUID": ("no PatientID: each study counts as a patient",),
}

# Room for what a deflated file holds besides its pixels of up to four bytes each.
_HEADER_BYTES = 2**26

# An age string (PS3.5, section 6.2): a number of days, weeks, months or years.
_AGE = re.compile(r"(\d{1,3})([DWMY])")
_IN_A_YEAR = {"D": 365, "W": 52, "M": 12, "Y": 1}
_OLDEST = 90


def read_dicom(
    content: bytes, name: str, options: ReadOptions = ReadOptions(), *, against_tag: bool = False
) -> Radiograph:
    """Returns the radiograph in a DICOM file, as its header says.

    Args:
      content: the file's bytes.
      name: what errors call the file.
      options: how files are read.
      against_tag: read the image as if its photometric interpretation were the opposite.

    Raises:
      NotFrontalError: the header states something other than a frontal chest radiograph.
      DataError: not DICOM, no pixels, several frames, colour, too large, or pixels that do not
        decode.
    """
    with guarded(name, "broken DICOM header"):
        dataset = parse_dicom(content, name, max_bytes(options))
        if options.frontal_only:
            frontal.check_header(dataset, name)
        stored = read_stored_values(dataset, name, options.max_pixels)
        greyscale = read_greyscale(dataset)
        if against_tag:
            greyscale = dataclasses.replace(greyscale, inverted=not greyscale.inverted)
        with guarded(name, "greyscale attributes are inconsistent"):
            pixels = to_intensities(stored, dataset, greyscale)
        is_shuttered = black_outside_shutter(pixels, dataset)
        stated = read_orientation(dataset)
        orientation = stated or Orientation()
        spacing_mm, source = read_spacing(dataset)
        notes = [describe_turn(orientation), *remarks_on_spacing(dataset)]
        if read_word(dataset, "BurnedInAnnotation") == "YES":
            notes.append("text burned into the pixels according to the header")
        if greyscale.window not in ("table", "percentiles") and dataset.get("VOILUTSequence"):
            notes.append("its VOI LUT is broken: left out")
        if is_shuttered:
            notes.append("black outside its shutter")
        if has_surplus(dataset):
            notes.append("more pixel data than its rows and columns hold")
    if spacing_mm and orientation.transpose:
        row, column = spacing_mm
        spacing_mm = column, row
    return Radiograph(
        np.ascontiguousarray(orientation.to_upright(pixels)),
        spacing_mm,
        source,
        orientation,
        tuple(note for note in notes if note),
        orientation_stated=stated is not None,
    )


def read_patient_id(
    content: bytes, name: str, key: bytes, options: ReadOptions = ReadOptions()
) -> tuple[str | None, tuple[str, ...]]:
    """Returns a keyed hash of the DICOM PatientID, and notes on what it was made from.

    Without one, as in many anonymised files, the hash is of the StudyInstanceUID, and `None` if
    that is absent too. Only equality matters, so the identifier itself never leaves
    the header.

    Raises:
      DataError: not DICOM, or deflated and larger than the largest image.
    """
    with guarded(name, "broken DICOM header"):
        dataset = parse_dicom(content, name, max_bytes(options), until_pixels=True)
        for keyword, note in _IDENTIFIERS.items():
            identifier = str(dataset.get(keyword) or "").strip()
            if identifier:
                return hash_patient(identifier, key), note
    return None, ("no PatientID: counts as a patient of its own",)


def read_instance_uid(content: bytes, name: str, options: ReadOptions = ReadOptions()) -> str:
    """Returns the SOPInstanceUID, by which other files refer to an image; empty if it has none.

    Raises:
      DataError: not DICOM, or deflated and larger than the largest image.
    """
    with guarded(name, "broken DICOM header"):
        return read_word(
            parse_dicom(content, name, max_bytes(options), until_pixels=True), "SOPInstanceUID"
        )


def read_sex_and_age(
    content: bytes, name: str, options: ReadOptions = ReadOptions()
) -> tuple[Literal["F", "M", ""], float | None]:
    """Returns a patient's sex and age in whole years by the DICOM header, where it tells them.

    From 90 years up the age is 90: so few are older that it would tell who they are.

    Raises:
      DataError: not DICOM, or deflated and larger than the largest image.
    """
    with guarded(name, "broken DICOM header"):
        dataset = parse_dicom(content, name, max_bytes(options), until_pixels=True)
        sex = read_word(dataset, "PatientSex")
        age = _AGE.fullmatch(read_word(dataset, "PatientAge"))
    years = None if age is None else float(min(int(age[1]) // _IN_A_YEAR[age[2]], _OLDEST))
    return cast(Literal["F", "M", ""], sex if sex in ("F", "M") else ""), years


def hash_patient(patient_id: str, key: bytes) -> str:
    """Returns a keyed hash of a patient's identifier, ignoring blanks around it.

    Without the key nobody can try out identifiers (HMAC-SHA256, RFC 2104, its first 16 hexadecimal
    digits). An identifier has the same hash wherever it was read.
    """
    return hmac.new(key, patient_id.strip().encode(), "sha256").hexdigest()[:16]


def max_bytes(options: ReadOptions) -> int:
    """Returns how large a deflated file may become."""
    return 4 * options.max_pixels + _HEADER_BYTES
