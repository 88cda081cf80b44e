"""Masks in PNG and GIF files."""

import io

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.png import decode_grey
from lungseg_jax.imaging.radiograph import ReadOptions

# Masks are drawn anti-aliased in the public sets; half coverage is the outline.
MASK_THRESHOLD = 127

# A region of one grey, farther than this from black and from the brightest, and larger than this
# share of a mask, is a label of its own. Anti-aliased outlines are too thin to hold such a region,
# and traces of JPEG compression are nearer.
LABEL_DISTANCE = 16
LABEL_SHARE = 0.05

_SQUARE = np.ones((3, 3), np.uint8)

_GIF_SIGNATURE, _PNG_SIGNATURE = b"GIF8", b"\x89PNG\r\n\x1a\n"


def read_mask(
    content: bytes, name: str, max_pixels: int = ReadOptions().max_pixels
) -> UInt8[np.ndarray, "h w"]:
    """Returns a mask of {0, 1} from a PNG or GIF file, thresholded at half its coverage.

    Raises:
      DataError: neither PNG nor GIF, does not decode or is too large, or has values that are not a
        mask's: labels, or brightness and opacity that disagree.
    """
    is_gif = content.startswith(_GIF_SIGNATURE)
    if content and not is_gif and not content.startswith(_PNG_SIGNATURE):
        raise DataError(name, "neither PNG, GIF nor DICOM SEG", "save masks as 8-bit grey PNG")
    opener = GifImageFile if is_gif else PngImageFile
    pixels = decode_grey(content, name, opener, max_pixels)
    if pixels.dtype != np.uint8:
        raise DataError(name, "mask of more than 8 bits", "save masks as 8-bit grey PNG")
    brightest = int(pixels.max())
    # Files that mark the lung with 1 instead of 255 are masks too.
    if brightest == 1:
        return pixels
    # Labels 1 and 2, or the lung in red: thresholding would leave an empty mask unnoticed.
    if 0 < brightest <= MASK_THRESHOLD:
        raise DataError(
            name,
            f"mask whose brightest pixel is {brightest}",
            "mark all lung with 255 or with 1, in grey: colours are read by their luminance",
        )
    _check_no_labels(pixels, brightest, name)
    mask = (pixels > MASK_THRESHOLD).astype(np.uint8)
    _check_opacity(content, opener, mask, name)
    return mask


def _check_no_labels(pixels: UInt8[np.ndarray, "h w"], brightest: int, name: str) -> None:
    flat = cv2.dilate(pixels, _SQUARE) == cv2.erode(pixels, _SQUARE)
    counts = cv2.calcHist([pixels], [0], flat.view(np.uint8), [256], [0, 256]).ravel()
    count = counts[LABEL_DISTANCE : brightest - LABEL_DISTANCE]
    if count.max() > LABEL_SHARE * np.count_nonzero(pixels):
        grey = LABEL_DISTANCE + int(count.argmax())
        raise DataError(
            name, f"mask with regions of {grey} and of {brightest}", "mark all lung with 255"
        )


def _check_opacity(
    content: bytes, opener: type[ImageFile], mask: UInt8[np.ndarray, "h w"], name: str
) -> None:
    """Refuses a mask drawn in one colour, with the lung in the opacity.

    In white it would be all lung, in black none.
    """
    image = opener(io.BytesIO(content))
    if not image.has_transparency_data:
        return
    opacity = np.asarray(image.convert("RGBA"))[..., 3]
    # Over a radiograph lungs are painted half transparent, too.
    if not mask.any() and opacity.min() < opacity.max():
        raise DataError(
            name, "black mask with a shape in its opacity", "save masks as 8-bit grey PNG"
        )
    # Soft edges may be white and half transparent.
    if np.any(cv2.erode(mask * np.uint8(opacity <= MASK_THRESHOLD), _SQUARE)):
        raise DataError(
            name, "mask that is white where it is transparent", "save masks as 8-bit grey PNG"
        )
