"""DICOM files to intensities in [0, 1] with bone bright, and the pixel spacing.

The grey-scale pipeline is that of DICOM PS3.4 N.2: Modality LUT, VOI LUT, Presentation LUT.
"""

import hashlib
import io
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float, Shaped
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_modality_lut, apply_voi

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.radiograph import Radiograph, SpacingSource

# Outside these no detector for chest radiographs exists: PixelSpacing of 0 or 1e-6 is a filler.
PLAUSIBLE_SPACING_MM = (0.02, 5.0)

# Share of pixels left out at each end where a file states no window.
PERCENTILES_WITHOUT_WINDOW = (0.5, 99.5)


def read_dicom(content: bytes, name: str) -> Radiograph:
    """Returns the radiograph in a DICOM file.

    Args:
      content: the file's bytes.
      name: how errors call the file.

    Raises:
      DataError: not DICOM, no pixels, several frames, colour, or pixels that do not decode.
    """
    dataset = _parse(content, name)
    if "PixelData" not in dataset:
        raise DataError(name, "DICOM file without PixelData", "leave it out")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise DataError(name, "DICOM file of several frames", "export the frontal frame alone")
    if dataset.get("SamplesPerPixel", 1) != 1:
        raise DataError(name, "colour DICOM picture", "leave it out: radiographs are grey")
    try:
        stored = dataset.pixel_array
        pixels = _window(apply_modality_lut(stored, dataset), dataset)
    # Decoders raise whatever their C libraries report; to the user all of it is one fault.
    except Exception as error:
        raise DataError(
            name, f"pixels do not decode ({type(error).__name__})", "fetch the file again"
        ) from error
    if _is_inverted(dataset):
        pixels = 1.0 - pixels
    spacing_mm, source = read_spacing(dataset)
    return Radiograph(pixels.astype(np.float32), spacing_mm, source)


def read_patient_id(content: bytes, name: str) -> str | None:
    """Returns a hash of the DICOM PatientID, `None` where the file states none.

    Only equality matters, so the identifier itself never leaves the header.

    Raises:
      DataError: not DICOM.
    """
    patient_id = _parse(content, name, specific_tags=["PatientID"]).get("PatientID")
    if not patient_id:
        return None
    return hashlib.sha256(str(patient_id).encode()).hexdigest()[:16]


def read_spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, SpacingSource]:
    """Returns the (row, column) spacing in mm and what it was measured on.

    PixelSpacing is the patient's only after a calibration; where it repeats ImagerPixelSpacing, or
    stands alone, it is the detector's (DICOM PS3.3 10.7.1.3). The detector's spacing divided by the
    estimated magnification (0018,1114) is the patient's.
    """
    pixel = _plausible(dataset.get("PixelSpacing"))
    imager = _plausible(dataset.get("ImagerPixelSpacing"))
    calibrated = dataset.get("PixelSpacingCalibrationType") or (imager and pixel != imager)
    if pixel and calibrated:
        return pixel, "calibrated"
    detector = imager or pixel
    if detector is None:
        return None, "none"
    magnification = float(dataset.get("EstimatedRadiographicMagnificationFactor") or 0)
    if magnification >= 1:
        row, column = detector
        return (row / magnification, column / magnification), "magnification-corrected"
    return detector, "detector"


def _parse(content: bytes, name: str, specific_tags: list[str] | None = None) -> Dataset:
    try:
        return pydicom.dcmread(io.BytesIO(content), specific_tags=specific_tags)  # type: ignore[arg-type]
    except InvalidDicomError as error:
        raise DataError(name, "not a DICOM file", "leave it out or fetch it again") from error
    except Exception as error:
        raise DataError(
            name, f"broken DICOM header ({type(error).__name__})", "fetch the file again"
        ) from error


def _window(values: Shaped[np.ndarray, "h w"], dataset: Dataset) -> Float[np.ndarray, "h w"]:
    """Returns values brought to [0, 1] by the VOI LUT, else the window, else percentiles."""
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return apply_voi(values, dataset) / np.float32(2**bits - 1)
    if _first(dataset.get("WindowWidth")) is None or _first(dataset.get("WindowCenter")) is None:
        low, high = np.percentile(values, PERCENTILES_WITHOUT_WINDOW)
        return np.clip((values - low) / np.float32(max(high - low, 1)), 0, 1)
    center, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
    return apply_window(values, center, width, str(dataset.get("VOILUTFunction") or "LINEAR"))


def apply_window(
    values: Shaped[np.ndarray, "h w"], center: float, width: float, function: str
) -> Float[np.ndarray, "h w"]:
    """Returns values in [0, 1] after a VOI window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    pydicom's `apply_windowing` ends in an output range that depends on bits stored and rescaling
    and takes several float64 passes; here the range is [0, 1] by definition.
    """
    x = values.astype(np.float32)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (x - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((x - center) / width + 0.5, 0, 1)
    return np.clip((x - (center - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1)


def _is_inverted(dataset: Dataset) -> bool:
    """MONOCHROME1 and PresentationLUTShape INVERSE say the same thing, in one file often both."""
    return (
        dataset.PhotometricInterpretation == "MONOCHROME1"
        or dataset.get("PresentationLUTShape") == "INVERSE"
    )


def _first(value: Any) -> float | None:  # noqa: ANN401
    """The first of a multi-valued number; several windows are alternatives, the first the default."""
    if value is None or value == "":
        return None
    return float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)


def _plausible(spacing: Any) -> tuple[float, float] | None:  # noqa: ANN401
    if spacing is None or isinstance(spacing, str) or len(spacing) != 2:
        return None
    row, column = (float(x) for x in spacing)
    low, high = PLAUSIBLE_SPACING_MM
    return (row, column) if low <= min(row, column) and max(row, column) <= high else None
