"""Values of DICOM attributes, if they make sense: real headers hold much that does not."""

import contextlib
import math

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue


def read_numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Returns an attribute's values up to the first that is empty or not a number."""
    numbers: list[float] = []
    # With a text among several values, pydicom returns none of them.
    with contextlib.suppress(TypeError, ValueError):
        value = dataset.get(keyword)
        for x in value if isinstance(value, MultiValue) else [value]:
            number = float(x)
            if not math.isfinite(number):
                break
            numbers.append(number)
    return tuple(numbers)


def read_words(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Returns an attribute's values in capitals without padding; none where it is absent."""
    try:
        value = dataset.get(keyword)
    except (TypeError, ValueError):
        return ()
    values = value if isinstance(value, MultiValue) else [value]
    return tuple(str(x).strip().upper() for x in values if x is not None)


def read_word(dataset: Dataset, keyword: str) -> str:
    """Returns the first of `read_words`, empty where there is none."""
    return next(iter(read_words(dataset, keyword)), "")
