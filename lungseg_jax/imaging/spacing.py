"""The distance between pixel centres, and what it was measured on."""

import math

from pydicom.dataset import Dataset

from lungseg_jax.imaging.header import read_numbers
from lungseg_jax.imaging.radiograph import SpacingSource

# No detector for chest radiographs lies outside these: PixelSpacing of 0 or 1e-6 is a filler.
PLAUSIBLE_SPACING_MM = (0.02, 5.0)

# Largest relative difference of spacings that differ in their last digits only.
SAME_SPACING = 1e-3

# A chest fills its image at 1.05 to 1.3; beyond 2 nobody would expose one, below 1 nobody can.
PLAUSIBLE_MAGNIFICATION = (1.0, 2.0)


def read_spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, SpacingSource]:
    """Returns the (row, column) spacing of the stored pixels in mm and what it was measured on.

    PixelSpacing is the patient's only after a calibration; where it repeats ImagerPixelSpacing, or
    stands alone, it is the detector's (DICOM PS3.3 10.7.1.3). So is NominalScannedPixelSpacing, for
    scanned films. The detector's spacing divided by the magnification is the patient's.
    """
    pixel = _plausible_spacing(dataset, "PixelSpacing")
    imager = _plausible_spacing(dataset, "ImagerPixelSpacing")
    if pixel and (
        dataset.get("PixelSpacingCalibrationType") or (imager and not _repeats(pixel, imager))
    ):
        return pixel, "calibrated"
    detector = imager or pixel or _plausible_spacing(dataset, "NominalScannedPixelSpacing")
    if detector is None:
        return None, "none"
    magnification = _magnification(dataset)
    if magnification is None:
        return detector, "detector"
    row, column = (spacing / magnification for spacing in detector)
    return (row, column), "magnification-corrected"


def _repeats(pixel: tuple[float, float], imager: tuple[float, float]) -> bool:
    """Whether two spacings are equal up to the digits with which each is written."""
    return all(
        math.isclose(one, other, rel_tol=SAME_SPACING)
        for one, other in zip(pixel, imager, strict=True)
    )


def _magnification(dataset: Dataset) -> float | None:
    """Returns (0018,1114), else the ratio of distances that defines it (PS3.3 C.8.7.5)."""
    low, high = PLAUSIBLE_MAGNIFICATION
    stated = read_numbers(dataset, "EstimatedRadiographicMagnificationFactor")
    to_detector = read_numbers(dataset, "DistanceSourceToDetector")
    to_patient = read_numbers(dataset, "DistanceSourceToPatient")
    # A factor of 1, like equal distances, means that nobody measured the patient's position.
    if stated and low < stated[0] <= high:
        return stated[0]
    if to_detector and to_patient and to_patient[0] < to_detector[0] <= high * to_patient[0]:
        return to_detector[0] / to_patient[0]
    return None


def _plausible_spacing(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    low, high = PLAUSIBLE_SPACING_MM
    match read_numbers(dataset, keyword):
        case (row, column) if low <= row <= high and low <= column <= high:
            return row, column
    return None
