"""OpenCV's way of saying that memory does not suffice, made Python's."""

import contextlib
from collections.abc import Iterator

import cv2


@contextlib.contextmanager
def opencv_memory_errors() -> Iterator[None]:
    """Within the context OpenCV raises `MemoryError`, as all else does.

    Raises:
      MemoryError: memory does not suffice.
    """
    try:
        yield
    except cv2.error as error:
        if getattr(error, "code", None) != cv2.Error.StsNoMem:
            raise
        raise MemoryError from error
