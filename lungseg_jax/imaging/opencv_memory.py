"""Turns OpenCV's error for lack of memory into Python's."""

import contextlib
from collections.abc import Iterator

import cv2


@contextlib.contextmanager
def opencv_memory_errors() -> Iterator[None]:
    """Makes OpenCV raise `MemoryError` within the context, as everything else does.

    Raises:
      MemoryError: OpenCV ran out of memory.
    """
    try:
        yield
    except cv2.error as error:
        if getattr(error, "code", None) != cv2.Error.StsNoMem:
            raise
        raise MemoryError from error
