"""OpenCV's errors for lack of memory are told from all others."""

import cv2
import numpy as np
import pytest

from lungseg_jax.imaging.opencv_memory import opencv_memory_errors

PIXEL = np.zeros((2, 2), np.uint8)


def test_lack_of_memory_is_a_memory_error():
    """Fault: a large file that ends a whole folder's prediction, or is told as a fault of ours."""
    with pytest.raises(MemoryError), opencv_memory_errors():
        cv2.resize(PIXEL, (2**30, 2**30))


def test_other_faults_stay():
    """Fault: a fault of the program that is told as a want of memory."""
    with pytest.raises(cv2.error), opencv_memory_errors():
        cv2.resize(PIXEL, (0, 0))
