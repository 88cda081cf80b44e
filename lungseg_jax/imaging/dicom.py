"""DICOM files to intensities in [0, 1] with bone bright, and the pixel spacing.

The grey-scale pipeline is that of DICOM PS3.4 N.2: Modality LUT, VOI LUT, Presentation LUT.
"""

import contextlib
import hashlib
import io
import logging
import math
import warnings
from collections.abc import Iterator

import numpy as np
import pydicom
from jaxtyping import Float32, Shaped
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.radiograph import Radiograph, SpacingSource

# Outside these no detector for chest radiographs exists: PixelSpacing of 0 or 1e-6 is a filler.
PLAUSIBLE_SPACING_MM = (0.02, 5.0)

# Share of pixels left out at each end where a file states no window.
PERCENTILES_WITHOUT_WINDOW = (0.5, 99.5)

# pydicom's messages quote header values, a patient's name among them; the root logger, which absl
# prints to the terminal, must not get them.
logging.getLogger("pydicom").propagate = False


def read_dicom(content: bytes, name: str) -> Radiograph:
    """Returns the radiograph in a DICOM file.

    Args:
      content: the file's bytes.
      name: how errors call the file.

    Raises:
      DataError: not DICOM, no pixels, several frames, colour, or pixels that do not decode.
    """
    with _guarded(name, "broken DICOM header"):
        dataset = pydicom.dcmread(io.BytesIO(content))
        if "PixelData" not in dataset:
            # Where compressed pixels are cut short, pydicom drops them whole.
            raise DataError(
                name, "DICOM file without PixelData, or cut short", "fetch it again or leave it out"
            )
        if _numbers(dataset, "NumberOfFrames") > (1,):
            raise DataError(name, "DICOM file of several frames", "export the frontal frame alone")
        if dataset.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
            raise DataError(name, "DICOM picture that is not grey", "leave it out")
        with _guarded(name, "pixels do not decode"):
            pixels = _window(_to_modality_values(dataset.pixel_array, dataset), dataset)
        if not np.isfinite(pixels).all():
            raise DataError(name, "rescale or window beyond all range", "fetch the file again")
        if _is_inverted(dataset):
            pixels = 1 - pixels
        spacing_mm, source = read_spacing(dataset)
    return Radiograph(pixels, spacing_mm, source)


def read_patient_id(content: bytes, name: str) -> str | None:
    """Returns a hash of the DICOM PatientID, `None` where the file states none.

    Only equality matters, so the identifier itself never leaves the header.

    Raises:
      DataError: not DICOM.
    """
    with _guarded(name, "broken DICOM header"):
        dataset = pydicom.dcmread(io.BytesIO(content), specific_tags=["PatientID"])
        patient_id = dataset.get("PatientID")
    if not patient_id:
        return None
    return hashlib.sha256(str(patient_id).encode()).hexdigest()[:16]


def read_spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, SpacingSource]:
    """Returns the (row, column) spacing in mm and what it was measured on.

    PixelSpacing is the patient's only after a calibration; where it repeats ImagerPixelSpacing, or
    stands alone, it is the detector's (DICOM PS3.3 10.7.1.3). The detector's spacing divided by the
    estimated magnification (0018,1114) is the patient's.
    """
    pixel = _plausible_spacing(dataset, "PixelSpacing")
    imager = _plausible_spacing(dataset, "ImagerPixelSpacing")
    calibrated = dataset.get("PixelSpacingCalibrationType") or (imager and pixel != imager)
    if pixel and calibrated:
        return pixel, "calibrated"
    detector = imager or pixel
    if detector is None:
        return None, "none"
    magnification = _numbers(dataset, "EstimatedRadiographicMagnificationFactor")
    if magnification and magnification[0] >= 1:
        row, column = (spacing / magnification[0] for spacing in detector)
        return (row, column), "magnification-corrected"
    return detector, "detector"


@contextlib.contextmanager
def _guarded(name: str, fault: str) -> Iterator[None]:
    """Turns whatever pydicom and its decoders raise into a `DataError`, and hides their warnings.

    The warnings tell of oddities in a header, with the values.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DataError:
            raise
        except InvalidDicomError as error:
            raise DataError(name, "not a DICOM file", "leave it out or fetch it again") from error
        # Headers are parsed at each access and decoders are C libraries: any exception may come.
        except Exception as error:
            fault = f"{fault} ({type(error).__name__})"
            raise DataError(name, fault, "fetch the file again") from error


def _to_modality_values(
    stored: Shaped[np.ndarray, "h w"], dataset: Dataset
) -> Float32[np.ndarray, "h w"]:
    """Returns stored values after the Modality LUT or the rescale, whichever the file has."""
    if dataset.get("ModalityLUTSequence"):
        return _look_up(stored, dataset.ModalityLUTSequence[0])
    slope, intercept = (_numbers(dataset, f"Rescale{part}") for part in ("Slope", "Intercept"))
    values = stored.astype(np.float32)
    return values * slope[0] + intercept[0] if slope and intercept else values


def _window(values: Float32[np.ndarray, "h w"], dataset: Dataset) -> Float32[np.ndarray, "h w"]:
    """Returns values brought to [0, 1] by the VOI LUT, else the window, else percentiles."""
    if dataset.get("VOILUTSequence"):
        lut = dataset.VOILUTSequence[0]
        return np.clip(_look_up(values, lut) / (2.0 ** lut.LUTDescriptor[2] - 1), 0, 1)
    # Several windows are alternatives, the first the default.
    center, width = _numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth")
    if center and width and width[0] > 0:
        return apply_window(values, center[0], width[0], dataset.get("VOILUTFunction") or "LINEAR")
    low, high = (float(value) for value in np.percentile(values, PERCENTILES_WITHOUT_WINDOW))
    return np.clip((values - low) / ((high - low) or 1.0), 0, 1)


def apply_window(
    values: Shaped[np.ndarray, "h w"], center: float, width: float, function: str
) -> Float32[np.ndarray, "h w"]:
    """Returns values in [0, 1] after a VOI window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    pydicom's `apply_windowing` ends in an output range that depends on bits stored and rescaling
    and takes several float64 passes; here the range is [0, 1] by definition.
    """
    x = values.astype(np.float32) - center
    if function == "SIGMOID":
        # 1 / (1 + exp(-4 x / width)) in the form that cannot overflow.
        return 0.5 + 0.5 * np.tanh(2 * x / width)
    if function == "LINEAR_EXACT":
        return np.clip(x / width + 0.5, 0, 1)
    return np.clip((x + 0.5) / max(width - 1, 1e-6) + 0.5, 0, 1)


def _look_up(values: Shaped[np.ndarray, "h w"], lut: Dataset) -> Float32[np.ndarray, "h w"]:
    """Returns values mapped by an item of a LUT sequence (DICOM PS3.3 C.11.1.1).

    pydicom's own functions fail on 12-bit tables and on packed 8-bit ones, wrap around on 8-bit
    tables longer than 256, and expect integers, which rescaling does not leave.
    """
    entries, first, _ = (int(value) for value in lut.LUTDescriptor)
    # Written as SS in files of signed pixels, though the count has no sign; 0 stands for 65536.
    entries = entries % 2**16 or 2**16
    data = lut.LUTData
    content = data if isinstance(data, bytes) else np.asarray(data, "<u2").tobytes()
    table = np.frombuffer(content, "<u2" if len(content) >= 2 * entries else "u1", entries)
    position = np.clip(np.rint(values).astype(np.int64) - first, 0, entries - 1)
    return table.astype(np.float32)[position]


def _is_inverted(dataset: Dataset) -> bool:
    """MONOCHROME1 and PresentationLUTShape INVERSE say the same thing, in one file often both."""
    return (
        dataset.PhotometricInterpretation == "MONOCHROME1"
        or dataset.get("PresentationLUTShape") == "INVERSE"
    )


def _numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Returns an attribute's values; none where it is absent, empty or not a number."""
    try:
        value = dataset.get(keyword)
        values = tuple(float(x) for x in (value if isinstance(value, MultiValue) else [value]))
    except (TypeError, ValueError):
        return ()
    return values if all(map(math.isfinite, values)) else ()


def _plausible_spacing(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    low, high = PLAUSIBLE_SPACING_MM
    match _numbers(dataset, keyword):
        case (row, column) if low <= row <= high and low <= column <= high:
            return row, column
    return None
