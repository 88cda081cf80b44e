"""The distance between pixel centres, and what it was measured on."""

import math
from collections.abc import Iterator

from pydicom.dataset import Dataset

from lungseg_jax.imaging.header import read_numbers
from lungseg_jax.imaging.radiograph import SpacingSource

# No detector for chest radiographs lies outside these: PixelSpacing of 0 or 1e-6 is a filler.
PLAUSIBLE_SPACING_MM = (0.02, 5.0)

# Largest relative difference of spacings that differ in their last digits only.
SAME_SPACING = 1e-3

# Ratio of a pixel's sides from which a chest looks squeezed.
NOT_SQUARE = 1.02

_KEYWORDS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")

# A chest fills its image at 1.05 to 1.3; beyond 2 nobody would expose one, below 1 nobody can.
PLAUSIBLE_MAGNIFICATION = (1.0, 2.0)


def read_spacing(dataset: Dataset) -> tuple[tuple[float, float] | None, SpacingSource]:
    """Returns the (row, column) spacing of the stored pixels in mm and what it was measured on.

    PixelSpacing is the patient's only after a calibration; where it repeats ImagerPixelSpacing, or
    NominalScannedPixelSpacing of a scanned film, it is the detector's (DICOM PS3.3 10.7.1.1), and
    where it stands alone, that is assumed. The detector's spacing divided by the magnification is
    the patient's.
    """
    pixel = _plausible_spacing(dataset, "PixelSpacing")
    imager = _plausible_spacing(dataset, "ImagerPixelSpacing")
    scanned = _plausible_spacing(dataset, "NominalScannedPixelSpacing")
    others = [spacing for spacing in (imager, scanned) if spacing]
    if pixel and (
        dataset.get("PixelSpacingCalibrationType")
        or (others and not any(_repeats(pixel, other) for other in others))
    ):
        return pixel, "calibrated"
    detector = imager or pixel or scanned
    if detector is None:
        return None, "none"
    magnification = _magnification(dataset)
    if magnification is None:
        return detector, "detector"
    row, column = (spacing / magnification for spacing in detector)
    return (row, column), "magnification-corrected"


def remarks_on_spacing(dataset: Dataset) -> Iterator[str]:
    """Yields what a reader of masks and areas should know about the pixels' spacing.

    Networks are shown pixels as if they were square: they see a chest squeezed where these are not.
    """
    stated = [keyword for keyword in _KEYWORDS if read_numbers(dataset, keyword)]
    if any(_plausible_spacing(dataset, keyword) is None for keyword in stated):
        yield "a pixel spacing that no detector has: left out"
    spacing, _ = read_spacing(dataset)
    # Rows to columns (PS3.3 C.7.6.3.1.7), of files that state no spacing.
    sides = spacing or read_numbers(dataset, "PixelAspectRatio")
    if len(sides) == 2 and min(sides) > 0 and max(sides) > NOT_SQUARE * min(sides):
        yield f"pixels are not square: one side is {max(sides) / min(sides):.2f} times the other"


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
