"""PNG files to intensities, PNG and GIF files to masks."""

import io

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.bit_depth import largest_value
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions

# Masks are drawn anti-aliased in the public sets; half coverage is the outline.
MASK_THRESHOLD = 127


_GIF_SIGNATURE = b"GIF8"


def read_png(content: bytes, name: str, options: ReadOptions = ReadOptions()) -> Radiograph:
    """Returns the radiograph in a PNG file of any bit depth; colour is reduced to luminance.

    Sixteen-bit files of digitised films often use 10 or 12 bits of the range: intensities are
    scaled by the smallest whole number of bits that holds the brightest pixel.

    Raises:
      DataError: not a PNG, one that does not decode, or too large.
    """
    pixels = decode_grey(content, name, PngImageFile, options.max_pixels)
    largest = 255 if pixels.dtype == np.uint8 else largest_value(int(pixels.max()))
    return Radiograph(pixels.astype(np.float32) / np.float32(largest), None, "none")


def read_mask(
    content: bytes, name: str, max_pixels: int = ReadOptions().max_pixels
) -> UInt8[np.ndarray, "h w"]:
    """Returns a mask of {0, 1} from a PNG or GIF file, thresholded at half its coverage.

    Raises:
      DataError: neither PNG nor GIF, one that does not decode or is too large, or values that are
        no mask's.
    """
    is_gif = content.startswith(_GIF_SIGNATURE)
    opener = GifImageFile if is_gif else PngImageFile
    pixels = decode_grey(content, name, opener, max_pixels)
    if pixels.dtype != np.uint8:
        raise DataError(name, "mask of more than 8 bits", "save masks as 8-bit grey PNG")
    brightest = int(pixels.max())
    # Files that mark the lung with 1 instead of 255 are masks all the same.
    if brightest == 1:
        return pixels
    # Labels 1 and 2, or the lung in red: thresholding would leave an empty mask unnoticed.
    if 0 < brightest <= MASK_THRESHOLD:
        raise DataError(
            name, f"mask whose brightest pixel is {brightest}", "mark lung with 255 or with 1"
        )
    return (pixels > MASK_THRESHOLD).astype(np.uint8)


def encode_png(pixels: Shaped[np.ndarray, "h w *rgb"]) -> bytes:
    """Returns 8- or 16-bit grey pixels, or 8-bit RGB, as a PNG file."""
    # OpenCV's order is blue, green, red.
    pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    # OpenCV's defaults take a sixth of the time of Pillow's fastest and make files as small.
    whole, content = cv2.imencode(".png", pixels)
    assert whole
    return content.tobytes()


def decode_grey(
    content: bytes, name: str, opener: type[ImageFile], max_pixels: int
) -> Shaped[np.ndarray, "h w"]:
    """Returns the grey values of a file.

    Args:
      content: the file's bytes.
      name: how errors call the file.
      opener: of the format, which nothing else is taken for.
      max_pixels: the largest picture that is decoded.

    Raises:
      DataError: not of the format, one that does not decode, or too large.
    """
    # The format's own class, for Image.open has a lower limit on pixels and warns below it.
    try:
        image = opener(io.BytesIO(content))
        if image.width * image.height <= max_pixels:
            # Loading skips the check sums of the picture's data.
            opener(io.BytesIO(content)).verify()
            return _to_grey(image)
    except MemoryError:
        raise DataError(name, "needs more memory than there is", "leave it out") from None
    # Pillow lets through what its parsers meet in a broken file: OSError, SyntaxError, ValueError.
    except Exception as error:
        fault = f"broken {opener.format} file"
        raise DataError(name, fault, "fetch or export it again") from error
    raise DataError(
        name, f"{image.width} x {image.height} pixels", f"shrink it: at most {max_pixels} are read"
    )


def _to_grey(image: Image.Image) -> Shaped[np.ndarray, "h w"]:
    if image.mode == "I;16":
        return np.asarray(image)
    # Pillow would warn of what is meant here: opacity is left aside.
    image.info.pop("transparency", None)
    return np.asarray(image.convert("L"))
