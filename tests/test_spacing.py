"""The spacing of pixels and what it was measured on."""

import pytest
from pydicom.dataset import Dataset

from lungseg_jax.imaging.spacing import read_spacing, remarks_on_spacing

DETECTOR = {"ImagerPixelSpacing": [0.15, 0.3]}


def header(attributes: dict) -> Dataset:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def read(attributes: dict):
    return read_spacing(header(attributes))


@pytest.mark.parametrize(
    ("attributes", "spacing", "source"),
    [
        ({}, None, "none"),
        ({"PixelSpacing": ["0.15", "0.2"]}, (0.15, 0.2), "detector"),
        ({"ImagerPixelSpacing": ["0.15", "0.2"]}, (0.15, 0.2), "detector"),
        ({"NominalScannedPixelSpacing": ["0.15", "0.2"]}, (0.15, 0.2), "detector"),
        (
            {"NominalScannedPixelSpacing": ["0.15", "0.2"], "PixelSpacing": ["0.15", "0.2"]},
            (0.15, 0.2),
            "detector",
        ),
        # Of a scanned film, too, another spacing is that after a correction (PS3.3 10.7.1.1).
        (
            {"NominalScannedPixelSpacing": ["0.15", "0.2"], "PixelSpacing": ["0.12", "0.16"]},
            (0.12, 0.16),
            "calibrated",
        ),
        # A spacing may repeat either.
        (
            {
                "ImagerPixelSpacing": ["0.1", "0.1"],
                "NominalScannedPixelSpacing": ["0.15", "0.2"],
                "PixelSpacing": ["0.15", "0.2"],
            },
            (0.1, 0.1),
            "detector",
        ),
        (
            {"ImagerPixelSpacing": ["0.15", "0.2"], "PixelSpacing": ["0.15", "0.2"]},
            (0.15, 0.2),
            "detector",
        ),
        (
            {"ImagerPixelSpacing": ["0.15", "0.2"], "PixelSpacing": ["0.12", "0.16"]},
            (0.12, 0.16),
            "calibrated",
        ),
        (
            {"ImagerPixelSpacing": ["0.143", "0.143"], "PixelSpacing": ["0.1430001", "0.14299"]},
            (0.143, 0.143),
            "detector",
        ),
        (
            {"ImagerPixelSpacing": ["0.15", "0.15"], "PixelSpacing": ["0.15", "0.149"]},
            (0.15, 0.149),
            "calibrated",
        ),
        (
            {"PixelSpacing": ["0.12", "0.16"], "PixelSpacingCalibrationType": "FIDUCIAL"},
            (0.12, 0.16),
            "calibrated",
        ),
        (
            {
                "ImagerPixelSpacing": ["0.15", "0.3"],
                "EstimatedRadiographicMagnificationFactor": "1.2",
            },
            (0.125, 0.25),
            "magnification-corrected",
        ),
        (
            {
                "ImagerPixelSpacing": ["0.15", "0.2"],
                "EstimatedRadiographicMagnificationFactor": "0",
            },
            (0.15, 0.2),
            "detector",
        ),
        (
            {
                "ImagerPixelSpacing": ["0.15", "0.2"],
                "EstimatedRadiographicMagnificationFactor": "1.0",
            },
            (0.15, 0.2),
            "detector",
        ),
        ({"PixelSpacing": ["0.000", "0.000"]}, None, "none"),
        ({"PixelSpacing": ["0.15", "0"]}, None, "none"),
        ({"PixelSpacing": ["1e-6", "1e-6"]}, None, "none"),
        ({"PixelSpacing": ["150", "150"]}, None, "none"),
        ({"PixelSpacing": ["-0.15", "-0.15"]}, None, "none"),
        ({"PixelSpacing": "0.15"}, None, "none"),
        ({"PixelSpacing": ["0.15", "0.15", "0.15"]}, None, "none"),
        (
            {"PixelSpacing": ["0.000", "0.000"], "ImagerPixelSpacing": ["0.15", "0.2"]},
            (0.15, 0.2),
            "detector",
        ),
    ],
)
def test_spacing(attributes, spacing, source):
    """Fault: a filler, which gives distances of 0 mm, or the detector's taken for the patient's."""
    spacing_mm, measured_on = read(attributes)
    assert spacing_mm == (spacing if spacing is None else pytest.approx(spacing))
    assert measured_on == source


@pytest.mark.parametrize(
    ("distances", "magnification"),
    [
        ((1800, 1500), 1.2),
        ((1800, 1800), 1.0),
        ((1500, 1800), 1.0),
        ((1800, 0), 1.0),
        ((0, 0), 1.0),
        ((1800, 100), 1.0),
        ((1800, None), 1.0),
    ],
)
def test_magnification_from_distances(distances, magnification):
    """Fault: a distance of 0, or detector and patient swapped, taken for a magnification."""
    keywords = ("DistanceSourceToDetector", "DistanceSourceToPatient")
    spacing_mm, source = read(DETECTOR | dict(zip(keywords, distances, strict=True)))
    assert spacing_mm == pytest.approx((0.15 / magnification, 0.3 / magnification))
    assert source == ("detector" if magnification == 1 else "magnification-corrected")


def test_the_stated_magnification_goes_first():
    """Fault: table distances preferred to what the device worked out."""
    stated = {"EstimatedRadiographicMagnificationFactor": 1.5}
    distances = {"DistanceSourceToDetector": 1800, "DistanceSourceToPatient": 1500}
    assert read(DETECTOR | stated | distances)[0] == pytest.approx((0.1, 0.2))


def test_calibrated_spacing_is_not_divided_again():
    """Fault: a spacing at the patient made smaller by the magnification once more."""
    calibrated = {"PixelSpacing": [0.12, 0.24], "PixelSpacingCalibrationType": "GEOMETRY"}
    stated = {"EstimatedRadiographicMagnificationFactor": 1.25}
    assert read(DETECTOR | calibrated | stated) == (pytest.approx((0.12, 0.24)), "calibrated")


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({}, []),
        ({"PixelSpacing": ["0.15", "0.15"]}, []),
        ({"PixelSpacing": ["0.150", "0.1515"]}, []),
        ({"PixelSpacing": ["0.1545", "0.150"]}, ["1.03 times"]),
        ({"NominalScannedPixelSpacing": ["0", "0"]}, ["no detector has"]),
        ({"PixelSpacing": ["0", "0"]}, ["no detector has"]),
        ({"PixelSpacing": ["0", "0"], "ImagerPixelSpacing": ["0.1", "0.1"]}, ["no detector has"]),
        ({"PixelSpacing": ["0.15", "0.3"]}, ["2.00 times"]),
        ({"PixelAspectRatio": ["2", "1"]}, ["2.00 times"]),
        ({"PixelAspectRatio": ["1", "1"]}, []),
        ({"PixelAspectRatio": ["0", "1"]}, []),
    ],
)
def test_what_is_odd_about_a_spacing_is_told(attributes, told):
    """Fault: a squeezed chest whose mask is worse, or areas that are missing, and no word why."""
    found = list(remarks_on_spacing(header(attributes)))
    assert len(found) == len(told)
    assert all(words in remark for words, remark in zip(told, found, strict=True))
