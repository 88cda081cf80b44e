"""PNG files to intensities, and back.

Section numbers are those of PNG, third edition (https://www.w3.org/TR/png-3/).
"""

import io
import struct
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Shaped
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.bit_depth import largest_shown
from lungseg_jax.imaging.exif import UPRIGHT, exif_turn
from lungseg_jax.imaging.opencv_memory import opencv_memory_errors
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions, check_num_pixels

# Bit depth and colour type in the header (11.2.1) of sixteen-bit RGB, grey with alpha, and RGBA.
_HEADER = slice(24, 26)
_SIXTEEN_BIT_COLOUR = (b"\x10\x02", b"\x10\x04", b"\x10\x06")

# How to encode. OpenCV's defaults take a sixth of the time of Pillow's fastest, for files as small.
COMPRESSED = ()
# Filters break a mask's runs: without them, half the time to decode and two thirds of the bytes.
UNFILTERED = (cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)
# A fifth of the time to decode, for up to twice the bytes.
UNCOMPRESSED = (*UNFILTERED, cv2.IMWRITE_PNG_COMPRESSION, 0)

# Luminance of red, green and blue (ITU-R BT.601), as Pillow computes it for eight bits.
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def read_png(content: bytes, name: str, options: ReadOptions = ReadOptions()) -> Radiograph:
    """Returns the radiograph in a PNG file of any bit depth; colour is reduced to luminance.

    Sixteen-bit files of digitised films often use 10 or 12 bits of the range: intensities are
    scaled by the smallest whole number of bits that holds all but a few pixels; see
    `bit_depth.largest_shown`. Opacity is ignored.

    Raises:
      DataError: not a PNG, does not decode, or is too large.
    """
    pixels = decode_grey(content, name, PngImageFile, options.max_pixels)
    largest, cut = (255, ()) if pixels.dtype == np.uint8 else largest_shown(pixels)
    turn, notes = exif_turn(content, PngImageFile) if b"eXIf" in content else UPRIGHT
    intensities = np.ascontiguousarray(turn.to_upright(pixels), np.float32)
    intensities /= np.float32(largest)
    np.minimum(intensities, 1, out=intensities)
    return Radiograph(intensities, None, "none", turn, (*notes, *cut))


def encode_png(
    pixels: Shaped[np.ndarray, "h w *rgb"], parameters: Sequence[int] = COMPRESSED
) -> bytes:
    """Returns 8- or 16-bit grey pixels, or 8-bit RGB, as a PNG file.

    Args:
      pixels: any values of the type.
      parameters: `COMPRESSED`; `UNFILTERED` for masks; `UNCOMPRESSED` for what is read often.
    """
    # OpenCV's order is blue, green, red.
    pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    whole, content = cv2.imencode(".png", pixels, parameters)
    assert whole
    return content.tobytes()


def png_size(content: bytes) -> tuple[int, int]:
    """Returns the height and width that a PNG file states.

    Raises:
      ValueError: it does not begin as a PNG file.
    """
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR" or len(content) < 24:
        raise ValueError("not a PNG file")
    width, height = struct.unpack_from(">II", content, 16)
    return height, width


def decode_grey(
    content: bytes, name: str, opener: type[ImageFile], max_pixels: int
) -> Shaped[np.ndarray, "h w"]:
    """Returns the grey values of a file.

    Args:
      content: the file's bytes.
      name: what errors call the file.
      opener: Pillow's class for the format; no other format is accepted.
      max_pixels: the largest image that is decoded.

    Raises:
      DataError: not of the format, does not decode, or is too large.
    """
    # The format's own class, because Image.open has a lower limit on pixels and warns below it.
    try:
        image = opener(io.BytesIO(content))
        check_num_pixels(image.height, image.width, name, max_pixels)
        # Loading does not check the checksums of the image's data.
        opener(io.BytesIO(content)).verify()
        return _to_grey(image, content)
    except DataError:
        raise
    except MemoryError:
        raise DataError(name, "needs more memory than there is", "leave it out") from None
    # Pillow passes on what its parsers raise for a broken file: OSError, SyntaxError, ValueError.
    except Exception as error:
        fault = f"broken {opener.format} file"
        raise DataError(name, fault, "copy or export it again") from error


def _to_grey(image: ImageFile, content: bytes) -> Shaped[np.ndarray, "h w"]:
    if image.mode == "I;16":
        return np.asarray(image)
    if image.format == "PNG" and content[_HEADER] in _SIXTEEN_BIT_COLOUR:
        # Pillow would cut these, and only these, to eight bits.
        with opencv_memory_errors():
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert pixels is not None, "Pillow found it whole"
        # OpenCV's order is blue, green, red and opacity.
        return np.rint(pixels[..., 2::-1] @ _LUMINANCE).astype(np.uint16)
    # Pillow would warn about what is intended here: opacity is ignored.
    image.info.pop("transparency", None)
    return np.asarray(image.convert("L"))
