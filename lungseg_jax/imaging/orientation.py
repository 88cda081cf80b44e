"""Which way up an image is stored."""

from pydicom.dataset import Dataset

from lungseg_jax.imaging.header import read_words
from lungseg_jax.imaging.radiograph import Orientation

# Patient directions in which a stored row and a stored column run (DICOM PS3.3 C.7.6.1.1.1);
# upright rows run to the patient's left, columns to the feet.
_TURNS: dict[tuple[str, ...], Orientation] = {
    ("L", "F"): Orientation(),
    ("R", "F"): Orientation(flip_columns=True),
    ("L", "H"): Orientation(flip_rows=True),
    ("R", "H"): Orientation(flip_rows=True, flip_columns=True),
    ("F", "L"): Orientation(transpose=True),
    ("F", "R"): Orientation(transpose=True, flip_columns=True),
    ("H", "L"): Orientation(transpose=True, flip_rows=True),
    ("H", "R"): Orientation(transpose=True, flip_rows=True, flip_columns=True),
}
_DIRECTIONS = frozenset("LRHFAP")


def read_orientation(dataset: Dataset) -> Orientation | None:
    """Returns how stored pixels are turned upright; `None` where the header makes no sense."""
    return _TURNS.get(_main_directions(dataset))


def is_lateral(dataset: Dataset) -> bool:
    """Whether rows or columns run from front to back."""
    return any(direction in "AP" for direction in _main_directions(dataset))


def describe_turn(orientation: Orientation) -> str | None:
    """Says in words what was done to the stored pixels; `None` if nothing."""
    if orientation == Orientation():
        return None
    mirrored = sum((orientation.transpose, orientation.flip_rows, orientation.flip_columns)) % 2
    words = ["mirrored"] if mirrored else []
    if orientation.transpose:
        words.append("turned by 90 degrees")
    elif orientation.flip_rows:
        words.append("upside down")
    return f"stored {' and '.join(words)} according to the header: turned upright"


def _main_directions(dataset: Dataset) -> tuple[str, ...]:
    """Returns the first letters of PatientOrientation's values: `LF` runs left more than down."""
    values = read_words(dataset, "PatientOrientation")
    if len(values) != 2 or not all(value and _DIRECTIONS.issuperset(value) for value in values):
        return ()
    return tuple(value[0] for value in values)
