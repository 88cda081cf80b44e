"""JPEG files to intensities."""

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from lungseg_jax.imaging.exif import exif_turn
from lungseg_jax.imaging.png import decode_grey
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions

SIGNATURE = b"\xff\xd8\xff"


def read_jpeg(content: bytes, name: str, options: ReadOptions = ReadOptions()) -> Radiograph:
    """Returns the radiograph in a JPEG file; colour is reduced to luminance.

    Raises:
      DataError: not a JPEG, does not decode, or is too large.
    """
    stored = decode_grey(content, name, JpegImageFile, options.max_pixels)
    turn, notes = exif_turn(content, JpegImageFile)
    upright = np.ascontiguousarray(turn.to_upright(stored), np.float32)
    return Radiograph(upright / np.float32(255), None, "none", turn, notes)
