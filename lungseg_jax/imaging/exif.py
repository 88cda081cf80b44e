"""How viewers turn images by their Exif tag Orientation (Exif 2.32, 4.6.4)."""

import io
import warnings

from PIL.ExifTags import Base
from PIL.ImageFile import ImageFile

from lungseg_jax.imaging.radiograph import Orientation

# How an image is turned, and the notes on it.
Turn = tuple[Orientation, tuple[str, ...]]

UPRIGHT: Turn = (Orientation(), ())

# 1 is upright as stored.
_TURNS = {
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transpose=True),
    6: Orientation(transpose=True, flip_columns=True),
    7: Orientation(transpose=True, flip_rows=True, flip_columns=True),
    8: Orientation(transpose=True, flip_rows=True),
}


def exif_turn(content: bytes, opener: type[ImageFile]) -> Turn:
    """Returns how to turn the image in a file that decodes.

    Args:
      content: the file's bytes.
      opener: Pillow's class for its format.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            tag = opener(io.BytesIO(content)).getexif().get(Base.Orientation)
    # Pillow passes on whatever its parser raises for broken tags. The image itself is intact.
    except Exception:  # noqa: BLE001
        return Orientation(), ("its Exif tags are broken",)
    turn = _TURNS.get(tag or 1)
    return UPRIGHT if turn is None else (turn, ("turned as its Exif tag says",))
