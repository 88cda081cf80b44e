"""Bare pixels of the JSRT set."""

import numpy as np
import pytest

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.raw import read_jsrt


def test_words_are_big_endian_and_dense_film_is_dark():
    """Fault: bytes swapped, rows and columns swapped, lungs bright and bones dark."""
    density = np.zeros((2048, 2048), ">u2")
    density[3, 5], density[7, 1] = 4095, 256
    radiograph = read_jsrt(density.tobytes(), "x.IMG")
    expected = np.ones((2048, 2048), np.float32)
    expected[3, 5], expected[7, 1] = 0, 1 - 256 / 4095
    np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)
    assert radiograph.spacing_mm == (0.175, 0.175)
    assert radiograph.spacing_source == "detector"


@pytest.mark.parametrize("size", [0, 2048 * 2048 * 2 - 2, 2048 * 2048 * 2 + 2])
def test_other_sizes_are_refused(size):
    """Fault: a download cut short gives an image with its rows out of step."""
    with pytest.raises(DataError, match=rf"^x\.IMG: {size} bytes"):
        read_jsrt(bytes(size), "x.IMG")


def test_words_of_the_other_order_are_refused():
    """Fault: noise with no complaint where a copy was written on another machine."""
    swapped = np.full((2048, 2048), 2047, "<u2").tobytes()
    with pytest.raises(DataError, match="beyond 12 bits; give big-endian"):
        read_jsrt(swapped, "x.IMG")
