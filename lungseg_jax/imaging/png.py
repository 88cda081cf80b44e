"""PNG files to intensities and masks."""

import io

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.radiograph import Radiograph

# Masks are drawn anti-aliased in the public sets; half coverage is the outline.
MASK_THRESHOLD = 127

# The largest picture accepted: film digitisers end near 100 megapixels.
MAX_PIXELS = 2**27


def read_png(content: bytes, name: str) -> Radiograph:
    """Returns the radiograph in a PNG file of any bit depth; colour is reduced to luminance.

    Sixteen-bit files of digitised films often use 10 or 12 bits of the range: intensities are
    scaled by the smallest whole number of bits that holds the brightest pixel.

    Raises:
      DataError: not a PNG, or one that does not decode.
    """
    pixels = _decode(content, name)
    bits = 8 if pixels.dtype == np.uint8 else max(8, int(pixels.max()).bit_length())
    return Radiograph(pixels.astype(np.float32) / np.float32(2**bits - 1), None, "none")


def read_mask(content: bytes, name: str) -> UInt8[np.ndarray, "h w"]:
    """Returns a mask of {0, 1} from a PNG file, thresholded at half its coverage.

    Raises:
      DataError: not a PNG, or one that does not decode.
    """
    pixels = _decode(content, name)
    if pixels.dtype != np.uint8:
        raise DataError(name, "mask of more than 8 bits", "save masks as 8-bit grey PNG")
    # Files that mark the lung with 1 instead of 255 are masks all the same.
    threshold = 0 if pixels.max() == 1 else MASK_THRESHOLD
    return (pixels > threshold).astype(np.uint8)


def encode_png(pixels: Shaped[np.ndarray, "h w"]) -> bytes:
    """Returns 8- or 16-bit grey pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _decode(content: bytes, name: str) -> Shaped[np.ndarray, "h w"]:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    name, f"{image.width} x {image.height} pixels", f"at most {MAX_PIXELS} are read"
                )
            image.load()
            if image.mode in ("I;16", "I"):
                return np.asarray(image).astype(np.uint16)
            return np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(name, "broken PNG file", "fetch or export it again") from error
