"""Images stored rotated, upside down or mirrored come out upright."""

import itertools

import numpy as np
import pytest
from pydicom.dataset import Dataset

from lungseg_jax.errors import NotFrontalError
from lungseg_jax.imaging.dicom import read_dicom
from lungseg_jax.imaging.orientation import read_orientation
from lungseg_jax.imaging.radiograph import ReadOptions
from tests.images import dicom_bytes

# Every pixel another value, more columns than rows: no turn looks like another.
UPRIGHT = np.arange(8 * 12, dtype=np.uint8).reshape(8, 12) * 2
WINDOW = {"WindowCenter": 128, "WindowWidth": 256}


def store(upright: np.ndarray, row_direction: str, column_direction: str) -> np.ndarray:
    """The image as its pixels are laid out when rows and columns run in these directions.

    Built from where each pixel lies in the patient: `L` and `F` grow along the upright axes.
    """
    height, width = upright.shape
    place = {"L": np.arange(width), "F": np.arange(height)}
    place |= {"R": place["L"][::-1], "H": place["F"][::-1]}
    stored = np.empty((len(place[column_direction]), len(place[row_direction])), upright.dtype)
    for row, along_column in enumerate(place[column_direction]):
        for column, along_row in enumerate(place[row_direction]):
            if row_direction in "LR":
                stored[row, column] = upright[along_column, along_row]
            else:
                stored[row, column] = upright[along_row, along_column]
    return stored


DIRECTIONS = [
    pair for pair in itertools.permutations("LRHF", 2) if set(pair) not in ({"L", "R"}, {"H", "F"})
]


@pytest.mark.parametrize(("row", "column"), DIRECTIONS)
def test_every_orientation_comes_out_upright(row, column):
    """Fault: a turn the wrong way round, a flip before the transposition, spacing not swapped."""
    stored = store(UPRIGHT, row, column)
    # As stored: (between rows, between columns).
    spacing = ("0.3", "0.2") if row in "HF" else ("0.2", "0.3")
    attributes = WINDOW | {"PatientOrientation": [row, column], "PixelSpacing": list(spacing)}
    radiograph = read_dicom(dicom_bytes(stored, attributes), "image.dcm")
    np.testing.assert_allclose(radiograph.pixels, UPRIGHT / 255, atol=1e-6)
    assert radiograph.spacing_mm == pytest.approx((0.2, 0.3))
    np.testing.assert_array_equal(radiograph.orientation.to_stored(UPRIGHT), stored)
    *turns, squeezed = radiograph.notes
    assert bool(turns) == ((row, column) != ("L", "F"))
    assert squeezed == "pixels are not square: one side is 1.50 times the other"


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (["R", "F"], "stored mirrored according"),
        (["L", "H"], "stored mirrored and upside down according"),
        (["R", "H"], "stored upside down according"),
        (["F", "R"], "stored turned by 90 degrees according"),
        (["F", "L"], "stored mirrored and turned by 90 degrees according"),
    ],
)
def test_notes_tell_turning_from_mirroring(stated, words):
    """Fault: an image turned by half called mirrored, which hides that sides are right."""
    content = dicom_bytes(UPRIGHT, WINDOW | {"PatientOrientation": stated})
    (note,) = read_dicom(content, "image.dcm").notes
    assert words in note


@pytest.mark.parametrize(("stated", "main"), [(["LF", "FR"], "LF"), (["RHA", "FP"], "RF")])
def test_oblique_directions_count_by_their_first_letter(stated, main):
    """Fault: an image a few degrees askew taken for one without orientation."""
    dataset = Dataset()
    dataset.PatientOrientation = stated
    simple = Dataset()
    simple.PatientOrientation = list(main)
    assert read_orientation(dataset) == read_orientation(simple)


@pytest.mark.parametrize(
    "stated", [None, "", ["L"], ["L", "R"], ["H", "F"], ["X", "Y"], ["L", "F", "H"], ["LEFT", "F"]]
)
def test_orientations_without_sense_mean_upright(stated):
    """Fault: most archives' files refused, or turned at random."""
    dataset = Dataset()
    dataset.PatientOrientation = stated
    assert read_orientation(dataset) is None


@pytest.mark.parametrize("stated", [["A", "F"], ["P", "F"], ["AL", "F"], ["H", "A"]])
def test_lateral_images_are_refused(stated):
    """Fault: a lateral chest segmented as a frontal one."""
    content = dicom_bytes(UPRIGHT, WINDOW | {"PatientOrientation": stated})
    with pytest.raises(NotFrontalError, match=r"^image\.dcm: lateral according to its header"):
        read_dicom(content, "image.dcm")
    read_dicom(content, "image.dcm", ReadOptions(frontal_only=False))
