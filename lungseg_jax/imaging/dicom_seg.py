"""DICOM Segmentation objects (SEG): lungs, in the study of the radiograph they were found on."""

import hashlib
import importlib.metadata
import importlib.util
import io
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from jaxtyping import Bool, UInt8
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM, validate_value

from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.dicom import max_bytes
from lungseg_jax.imaging.dicom_file import guarded, parse_dicom
from lungseg_jax.imaging.files import read_bytes
from lungseg_jax.imaging.header import read_word
from lungseg_jax.imaging.overlay import PREDICTION_COLOURS
from lungseg_jax.imaging.radiograph import ReadOptions

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

# Its messages quote patients' names; see `dicom_file` for pydicom's.
logging.getLogger("highdicom").propagate = False

# Codes and names of SNOMED CT's structures, in the order of the segments.
_LUNGS = (("3341006", "Right lung"), ("44029006", "Left lung"))

# Attributes without which a segmentation cannot refer to its radiograph (type 1 in PS3.3 C.12.1,
# C.7.2.1 and C.7.3.1).
_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")

# Attributes that must be present but may be empty (type 2 in PS3.3 C.7.1.1, C.7.2.1, and 2C in
# C.7.6.1); anonymised files often lack them.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "PatientOrientation",
)  # fmt: skip

# What highdicom takes to describe a plane in the patient, which a projection is not, though some
# headers state one, or leave it empty. Without a frame of reference, pixels are those of the source
# image, whose spacing counts: a segmentation has none of its own (PS3.3 A.51.5), and highdicom does
# not read one with a spacing and no slice thickness.
_OF_PLANES = ("FrameOfReferenceUID", "PixelSpacing")

_REPEATED = (*_REQUIRED, *_MAY_BE_EMPTY)

# Kinds of values that have a form, which devices and anonymisers do not always keep to: an age is
# "081Y", not "81", a weight "70.5", not "70,5".
_WITH_FORM = ("AS", "CS", "DA", "DS", "TM")

# Distinct from the numbers of the devices' own series.
_SERIES_NUMBER = 1000

_PACKAGE = "lungseg_jax"


def check_highdicom() -> None:
    """Refuses to go on without the library that writes these objects.

    Raises:
      ConfigError: it is not installed.
    """
    if importlib.util.find_spec("highdicom") is None:
        raise ConfigError("--dicom_seg", "needs highdicom", "pip install highdicom")


def encode_dicom_seg(
    path: epath.PathLike,
    right: Bool[np.ndarray, "h w"],
    left: Bool[np.ndarray, "h w"],
    options: ReadOptions,
    makers: Sequence[str],
) -> bytes:
    """Returns a DICOM file with both lungs as binary segments of a radiograph (PS3.3 A.51).

    It belongs to the radiograph's patient and study, in a series of its own. Files with the same
    header, masks and makers have the same UIDs, so that an archive keeps one, although the times
    they were made at differ.

    Args:
      path: the radiograph's DICOM file.
      right: the patient's right lung, in the frame of the stored pixels.
      left: the left one.
      options: how the file is read.
      makers: strings that identify network, options and program.

    Raises:
      DataError: not a DICOM file, or its header lacks what the object must refer to, or holds what
        it may not.
    """
    name = epath.Path(path).name
    content = read_bytes(epath.Path(path), options)
    with guarded(name, "its header does not go into one"):
        header = parse_dicom(content, name, max_bytes(options), until_pixels=True)
        if missing := [keyword for keyword in _REQUIRED if not header.get(keyword)]:
            raise DataError(name, f"its header lacks {', '.join(missing)}", "add it")
        _complete(header)
        # The number of each pixel's segment.
        seg = _segmentation(header, right + 2 * left.astype(np.uint8), makers)
        buffer = io.BytesIO()
        seg.save_as(buffer)
    return buffer.getvalue()


def _segmentation(
    header: Dataset, segments: UInt8[np.ndarray, "h w"], makers: Sequence[str]
) -> "Segmentation":
    # What such a file must hold fills a chapter of the standard, to which this library keeps.
    # Imported here, because it is optional.
    from highdicom.seg import Segmentation

    mask = hashlib.sha256(segments.tobytes()).hexdigest()
    repeated = [str(header.get(keyword)) for keyword in _REPEATED]
    seg = Segmentation(
        source_images=[header],
        pixel_array=segments,
        segmentation_type="BINARY",
        segment_descriptions=_segments(),
        series_instance_uid=generate_uid(entropy_srcs=[header.SeriesInstanceUID, *makers]),
        series_number=_SERIES_NUMBER,
        series_description=f"Lungs by {_PACKAGE}",
        sop_instance_uid=generate_uid(entropy_srcs=[*repeated, *makers, mask]),
        instance_number=1,
        manufacturer=_PACKAGE,
        manufacturer_model_name=_PACKAGE,
        software_versions=importlib.metadata.version(_PACKAGE),
        device_serial_number=makers[0][:16],
        content_label="LUNGS",
        content_description="Lungs by a neural network, for research only",
        # An empty lung is an empty frame: a missing frame would say that nobody looked.
        omit_empty_frames=False,
    )
    seg.PatientOrientation = header.PatientOrientation
    return seg


def _complete(header: Dataset) -> None:
    """Gives a header all that a segmentation must repeat, and removes what it may not repeat."""
    header.decode()
    header.SpecificCharacterSet = "ISO_IR 192"
    for keyword in _MAY_BE_EMPTY:
        if not _is_valid(header, keyword):
            header.add_new(keyword, dictionary_VR(keyword), None)
    for keyword in (*_OF_PLANES, *_deformed(header)):
        header.pop(keyword, None)
    # A segmentation must state it (type 1 in PS3.3 C.8.20.2); for a header without it, highdicom
    # states that nothing was lost.
    if read_word(header, "LossyImageCompression") not in ("00", "01"):
        header.pop("LossyImageCompression", None)


def _is_valid(header: Dataset, keyword: str) -> bool:
    """Whether an attribute is present with a valid value; anonymisers leave `00000000`."""
    try:
        value = header[keyword].value
        if keyword.endswith("Date"):
            DA(value)
        if keyword.endswith("Time"):
            TM(value)
        return keyword != "PatientSex" or value in ("M", "F", "O", "", None)
    except (KeyError, ValueError, TypeError):
        return False


def _deformed(header: Dataset) -> list[str]:
    """Returns which attributes of the patient that may be absent have values of a wrong form."""
    patient = header.group_dataset(0x0010)
    optional = (x for x in patient if x.VR in _WITH_FORM and x.keyword not in _MAY_BE_EMPTY)
    return [element.keyword for element in optional if not _has_form(element)]


def _has_form(element: DataElement) -> bool:
    try:
        validate_value(element.VR, str(element.value or ""), config.RAISE)
    except ValueError:
        return False
    return True


def _segments() -> list["SegmentDescription"]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    algorithm = AlgorithmIdentificationSequence(
        name=_PACKAGE,
        family=codes.DCM.ArtificialIntelligence,
        version=importlib.metadata.version(_PACKAGE),
    )
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=Code(code, "SCT", name),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            # As in the overlays: viewers would choose colours of their own.
            display_color=CIELabColor.from_rgb(*colour),
        )
        for number, ((code, name), colour) in enumerate(
            zip(_LUNGS, PREDICTION_COLOURS, strict=True), 1
        )
    ]
