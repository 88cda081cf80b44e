"""PNG files to intensities, PNG and GIF files to masks.

Section numbers are those of PNG, third edition (https://www.w3.org/TR/png-3/).
"""

import io

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.bit_depth import largest_value
from lungseg_jax.imaging.exif import UPRIGHT, exif_turn
from lungseg_jax.imaging.opencv_memory import opencv_memory_errors
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions

# Masks are drawn anti-aliased in the public sets; half coverage is the outline.
MASK_THRESHOLD = 127


# A region of one grey, farther than this from black and from the brightest, and beyond this share
# of a mask, is a label of its own. Outlines drawn anti-aliased are too thin to hold such a region,
# and JPEG's traces are nearer.
LABEL_DISTANCE = 16
LABEL_SHARE = 0.05

_SQUARE = np.ones((3, 3), np.uint8)

_GIF_SIGNATURE = b"GIF8"

# Bit depth and colour type in the header (11.2.1) of sixteen-bit RGB, grey with alpha, and RGBA.
_HEADER = slice(24, 26)
_SIXTEEN_BIT_COLOUR = (b"\x10\x02", b"\x10\x04", b"\x10\x06")

# Luminance of red, green and blue (ITU-R BT.601), as Pillow takes it of eight bits.
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def read_png(content: bytes, name: str, options: ReadOptions = ReadOptions()) -> Radiograph:
    """Returns the radiograph in a PNG file of any bit depth; colour is reduced to luminance.

    Sixteen-bit files of digitised films often use 10 or 12 bits of the range: intensities are
    scaled by the smallest whole number of bits that holds the brightest pixel. Opacity is left
    aside.

    Raises:
      DataError: not a PNG, one that does not decode, or too large.
    """
    pixels = decode_grey(content, name, PngImageFile, options.max_pixels)
    largest = 255 if pixels.dtype == np.uint8 else largest_value(int(pixels.max()))
    turn, notes = exif_turn(content, PngImageFile) if b"eXIf" in content else UPRIGHT
    upright = np.ascontiguousarray(turn.to_upright(pixels), np.float32)
    return Radiograph(upright / np.float32(largest), None, "none", turn, notes)


def read_mask(
    content: bytes, name: str, max_pixels: int = ReadOptions().max_pixels
) -> UInt8[np.ndarray, "h w"]:
    """Returns a mask of {0, 1} from a PNG or GIF file, thresholded at half its coverage.

    Raises:
      DataError: neither PNG nor GIF, one that does not decode or is too large, or values that are
        no mask's: labels, or brightness and opacity that tell of two masks.
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
    _check_no_labels(pixels, brightest, name)
    mask = (pixels > MASK_THRESHOLD).astype(np.uint8)
    _check_opacity(content, opener, mask, name)
    return mask


def _check_no_labels(pixels: UInt8[np.ndarray, "h w"], brightest: int, name: str) -> None:
    flat = cv2.dilate(pixels, _SQUARE) == cv2.erode(pixels, _SQUARE)
    count = np.bincount(pixels[flat], minlength=256)[LABEL_DISTANCE : brightest - LABEL_DISTANCE]
    if count.max() > LABEL_SHARE * np.count_nonzero(pixels):
        grey = LABEL_DISTANCE + int(count.argmax())
        raise DataError(
            name, f"mask with regions of {grey} and of {brightest}", "mark all lung with 255"
        )


def _check_opacity(
    content: bytes, opener: type[ImageFile], mask: UInt8[np.ndarray, "h w"], name: str
) -> None:
    """A mask drawn in white on white, with the lung in the opacity, would be all lung."""
    image = opener(io.BytesIO(content))
    if not image.has_transparency_data:
        return
    opaque = np.asarray(image.convert("RGBA"))[..., 3] > MASK_THRESHOLD
    # Soft edges may be white and half transparent.
    if np.any(cv2.erode(mask * np.uint8(~opaque), _SQUARE)):
        raise DataError(
            name, "mask that is white where it is transparent", "save masks as 8-bit grey PNG"
        )


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
            return _to_grey(image, content)
    except MemoryError:
        raise DataError(name, "needs more memory than there is", "leave it out") from None
    # Pillow lets through what its parsers meet in a broken file: OSError, SyntaxError, ValueError.
    except Exception as error:
        fault = f"broken {opener.format} file"
        raise DataError(name, fault, "fetch or export it again") from error
    raise DataError(
        name, f"{image.width} x {image.height} pixels", f"shrink it: at most {max_pixels} are read"
    )


def _to_grey(image: ImageFile, content: bytes) -> Shaped[np.ndarray, "h w"]:
    if image.mode == "I;16":
        return np.asarray(image)
    if image.format == "PNG" and content[_HEADER] in _SIXTEEN_BIT_COLOUR:
        # Pillow would cut these, and these alone, to eight bits.
        with opencv_memory_errors():
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        assert pixels is not None, "Pillow found it whole"
        # OpenCV's order is blue, green, red and opacity.
        return np.rint(pixels[..., 2::-1] @ _LUMINANCE).astype(np.uint16)
    # Pillow would warn of what is meant here: opacity is left aside.
    image.info.pop("transparency", None)
    return np.asarray(image.convert("L"))
