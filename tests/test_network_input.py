"""What networks take of an image."""

import numpy as np
import pytest

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.network_input import network_input
from lungseg_jax.imaging.radiograph import Radiograph


@pytest.mark.parametrize("shape", [(95, 400), (400, 95)])
def test_an_image_with_a_short_side_is_too_small(shape: tuple[int, int]):
    """Fault: a strip of a few pixels segmented, for its long side is long enough."""
    with pytest.raises(DataError, match=f"x.png: too small: {shape[0]} x {shape[1]} pixels"):
        network_input(Radiograph(np.zeros(shape, np.float32), None, "none"), "x.png", 32)


def test_the_smallest_image_is_taken():
    """Fault: an image refused that has just as many pixels as the message asks for."""
    radiograph = Radiograph(np.ones((96, 96), np.float32), None, "none")
    assert (network_input(radiograph, "x.png", 32) == np.full((32, 32, 1), 65535)).all()
