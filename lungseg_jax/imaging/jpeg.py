"""JPEG files to intensities."""

import io

import numpy as np
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile

from lungseg_jax.imaging.png import decode_grey
from lungseg_jax.imaging.radiograph import Orientation, Radiograph, ReadOptions

SIGNATURE = b"\xff\xd8\xff"

# How viewers turn pictures by the tag Orientation (Exif 2.32, 4.6.4); 1 is upright as stored.
_TURNS = {
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_columns=True),
    7: Orientation(transpose=True, flip_rows=True, flip_columns=True),
    8: Orientation(transpose=True, flip_rows=True),
}


def read_jpeg(content: bytes, name: str, options: ReadOptions = ReadOptions()) -> Radiograph:
    """Returns the radiograph in a JPEG file; colour is reduced to luminance.

    Raises:
      DataError: not a JPEG, one that does not decode, or too large.
    """
    stored = decode_grey(content, name, JpegImageFile, options.max_pixels)
    tag = JpegImageFile(io.BytesIO(content)).getexif().get(Base.Orientation)
    turn = _TURNS.get(tag or 1)
    pixels = (turn or Orientation()).to_upright(stored)
    return Radiograph(
        np.ascontiguousarray(pixels, np.float32) / np.float32(255),
        None,
        "none",
        turn or Orientation(),
        ("turned as its Exif tag says",) if turn else (),
    )
