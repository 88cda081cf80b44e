"""What a DICOM shutter hides."""

import numpy as np
import pytest

from lungseg_jax.imaging.dicom import read_dicom
from tests.images import dicom_bytes

# None is black, in either sense.
STORED = np.linspace(100, 3900, 80).reshape(8, 10).astype(np.uint16)
SHUTTER = {
    "WindowCenter": 2048,
    "WindowWidth": 4096,
    "ShutterShape": "RECTANGULAR",
    "ShutterUpperHorizontalEdge": 2,
    "ShutterLowerHorizontalEdge": 6,
    "ShutterLeftVerticalEdge": 3,
    "ShutterRightVerticalEdge": 10,
}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_outside_the_shutter_is_black(photometric):
    """Fault: what no ray has reached is white; rows and columns mixed up, or counted from 0."""
    header = SHUTTER | {"PhotometricInterpretation": photometric}
    radiograph = read_dicom(dicom_bytes(STORED, header), "x")
    pixels = radiograph.pixels
    assert radiograph.notes == ("black outside its shutter",)
    shown = np.zeros((8, 10), bool)
    shown[1:6, 2:10] = True
    np.testing.assert_array_equal(pixels > 0, shown)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        # Just outside, as where edges count from what is hidden.
        ((2, 9), (3, 11)),
        ((0, 8), (0, 9)),
        # A third of each side, which differ.
        ((3, 6), (4, 8)),
    ],
)
def test_a_shutter_may_be_small_or_end_just_outside(rows, columns):
    """Fault: white margins kept for an edge that is off by one; sides taken for one another."""
    edges = zip(
        ("UpperHorizontal", "LowerHorizontal", "LeftVertical", "RightVertical"),
        (*rows, *columns),
        strict=True,
    )
    header = SHUTTER | {f"Shutter{name}Edge": value for name, value in edges}
    shown = np.zeros((8, 10), bool)
    shown[max(rows[0] - 1, 0) : rows[1], max(columns[0] - 1, 0) : columns[1]] = True
    pixels = read_dicom(dicom_bytes(STORED, header), "x").pixels
    np.testing.assert_array_equal(pixels > 0, shown)


@pytest.mark.parametrize(
    "change",
    [
        {"ShutterShape": "CIRCULAR"},
        {"ShutterShape": None},
        {"ShutterLeftVerticalEdge": None},
        {"ShutterRightVerticalEdge": 3},
        {"ShutterRightVerticalEdge": 4},
        {"ShutterUpperHorizontalEdge": 0, "ShutterLowerHorizontalEdge": 0},
        # Of an image that was larger before it was exported.
        {"ShutterLowerHorizontalEdge": 12},
        {"ShutterLowerHorizontalEdge": 10},
        {"ShutterRightVerticalEdge": 12},
        {"ShutterRightVerticalEdge": 20},
        # All of it, and beyond by the edges themselves.
        {
            "ShutterUpperHorizontalEdge": 0,
            "ShutterLowerHorizontalEdge": 9,
            "ShutterLeftVerticalEdge": 0,
            "ShutterRightVerticalEdge": 11,
        },
    ],
)
def test_a_shutter_that_says_nothing_hides_nothing(change):
    """Fault: an image blackened whole by edges that were left at 0."""
    header = {key: value for key, value in (SHUTTER | change).items() if value is not None}
    radiograph = read_dicom(dicom_bytes(STORED, header), "x")
    assert radiograph.pixels.all()
    assert radiograph.notes == ()
