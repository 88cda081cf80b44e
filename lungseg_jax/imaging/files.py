"""From a file to a radiograph; the content decides the format, the name only for `.img`."""

import dataclasses
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
from etils import epath
from jaxtyping import Shaped

from lungseg_jax.errors import DataError
from lungseg_jax.imaging import chest_template, dicom, jpeg, png, raw
from lungseg_jax.imaging.bit_depth import largest_shown
from lungseg_jax.imaging.borders import blacken_white_bars
from lungseg_jax.imaging.dicom_file import is_dicom
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# A pixel takes most in a PNG file of four channels of 16 bits.
_BYTES_PER_PIXEL = 8
_BYTES_BESIDE_PIXELS = 2**26

# Formats that are not read, by how their files begin.
_OTHER_FORMATS = {
    b"II*\0": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"BM": "a BMP file",
    b"GIF8": "a GIF file",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 file",
    b"NRRD": "an NRRD file",
    b"\x93NUMPY": "a NumPy file",
}
_ARCHIVES = {b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "a gzip archive"}


def read_radiograph(path: epath.PathLike, options: ReadOptions = ReadOptions()) -> Radiograph:
    """Returns the radiograph in a DICOM, PNG or JPEG file.

    Raises:
      NotFrontalError: by its header, an image of something other than a frontal chest.
      DataError: the file cannot be read, is of another kind, does not decode, or has next to no
        greys.
    """
    path = epath.Path(path)
    return decode_radiograph(read_bytes(path, options), path.name, options)


def decode_radiograph(
    content: bytes, name: str, options: ReadOptions = ReadOptions()
) -> Radiograph:
    """Returns the radiograph in the bytes of a DICOM, PNG or JPEG file.

    Args:
      content: the file's bytes.
      name: what errors call the file.
      options: how files are read.

    Raises:
      NotFrontalError: by its header, an image of something other than a frontal chest.
      DataError: the content is of another kind, does not decode, or has next to no greys.
    """
    if content.startswith(_PNG_SIGNATURE):
        radiograph = png.read_png(content, name, options)
    elif content.startswith(jpeg.SIGNATURE):
        radiograph = jpeg.read_jpeg(content, name, options)
    elif is_dicom(content):
        radiograph = dicom.read_dicom(content, name, options)
    elif name.lower().endswith(".img"):
        # Bare pixels can be recognised only by the file's name.
        radiograph = raw.read_jsrt(content, name)
    else:
        kind, remedy = describe(content)
        raise DataError(name, f"is {kind}, neither DICOM, PNG nor JPEG", remedy)
    if is_dicom(content):
        # Read again, because padding must stay black.
        return _check(
            radiograph,
            name,
            options,
            lambda: dicom.read_dicom(content, name, options, against_tag=True),
        )
    return _check(radiograph, name, options, lambda: _negative(radiograph))


def radiograph_of(
    pixels: Shaped[np.ndarray, "..."], options: ReadOptions = ReadOptions()
) -> Radiograph:
    """Returns the radiograph in an array.

    Args:
      pixels: height × width, upright, bone bright: in [0, 1], or whole numbers as in a PNG file.
      options: what is checked.

    Raises:
      DataError: not an image's grey values, out of range, too many, or with next to no greys.
    """
    name = "array"
    if pixels.ndim != 2 or pixels.dtype.kind not in "uif":
        fault = f"is of shape {pixels.shape} and type {pixels.dtype}"
        raise DataError(name, fault, _remedy_of_shape(pixels))
    if not 0 < pixels.size <= options.max_pixels:
        raise DataError(name, f"has {pixels.size} pixels", f"give 1 to {options.max_pixels}")
    whole = pixels.dtype.kind in "ui"
    low, high = pixels.min(), pixels.max()
    if whole and low < 0:
        raise DataError(name, f"has values below 0: {low} to {high}", "subtract the smallest")
    # Written so that NaN fails too.
    if not whole and not (low >= 0 and high <= 1):
        raise DataError(
            name,
            f"has values out of [0, 1]: {low:g} to {high:g}",
            "divide floats by the largest value there can be, such as 255, or give whole numbers, "
            "as by astype(numpy.uint8); none may be negative or NaN",
        )
    scale, notes = largest_shown(pixels) if whole else (1, ())
    scaled = np.minimum(pixels.astype(np.float32) / np.float32(scale), 1)
    radiograph = Radiograph(scaled, None, "none", notes=notes)
    return _check(radiograph, name, options, lambda: _negative(radiograph))


def _remedy_of_shape(pixels: Shaped[np.ndarray, "..."]) -> str:
    """Says how to make an image of an array of another shape or type."""
    remedy = "give grey values, height x width"
    if pixels.ndim == 1 and pixels.dtype == np.uint8:
        return f"{remedy}, or, if these are a file's bytes, bytes(image)"
    if pixels.ndim == 2 and pixels.dtype.kind in "OV":
        return f"{remedy}, of one of NumPy's own types, as by array.astype(numpy.float32)"
    if pixels.dtype.kind in "uif" and sum(side > 1 for side in pixels.shape) == 2:
        return f"{remedy}: array.squeeze() has the shape {pixels.squeeze().shape}"
    if pixels.ndim == 3 and pixels.shape[-1] in (3, 4):
        return f"{remedy}: array[..., 0], if red, green and blue are equal, or else the file"
    return remedy


def as_array(image: object) -> np.ndarray:
    """Returns what was given as an image as an array; `radiograph_of` checks that it is an image.

    Raises:
      DataError: it is nothing like an array, or cannot be made into one without losing which
        pixels are valid.
    """
    if np.ma.is_masked(image):
        raise DataError("array", "is masked", "fill it, as by image.filled(0)")
    try:
        array = np.asarray(image)
    except (TypeError, ValueError) as error:
        # NumPy's own message says which rows differ in length.
        raise DataError("array", str(error), "give grey values, height x width") from error
    # Of what it does not know, NumPy makes an array that holds the object.
    if array.dtype.kind in "OSU" and not isinstance(image, np.ndarray):
        raise DataError(
            "image",
            f"is of type {type(image).__name__}",
            "give one path, a file's bytes, as by file.read(), or grey values, height x width",
        )
    return array


def read_bytes(path: epath.Path, options: ReadOptions = ReadOptions()) -> bytes:
    """Returns a file's content.

    Args:
      path: the file.
      options: whose largest image limits the size: archives hold backups and videos, too.

    Raises:
      DataError: the file cannot be read, or is too large for an image.
    """
    try:
        # epath's own raises a KeyError where the machine has no name for the owner, as a container.
        size = Path(path).stat().st_size
        if size > _BYTES_BESIDE_PIXELS + _BYTES_PER_PIXEL * options.max_pixels:
            fault = f"has {size / 2**30:.1f} GiB, more than any image that is read"
            raise DataError(path, fault, "leave it out, or raise data.max_megapixels")
        return path.read_bytes()
    except IsADirectoryError as error:
        remedy = "give one file; lungseg_jax.predict takes folders"
        raise DataError(path, "is a folder", remedy) from error
    except OSError as error:
        raise DataError(path, error.strerror or str(error), "check path and permissions") from error


def why_no_file(path: epath.PathLike) -> str:
    """Says what is there instead of a file to read; empty if there is one.

    A pipe would keep its reader waiting. A folder is among the files where it could not be listed.
    """
    try:
        kind = Path(path).stat().st_mode
        if stat.S_ISDIR(kind):
            next(Path(path).iterdir(), None)
            return "a folder, not a file"
    except OSError as error:
        return error.strerror or "not readable"
    return "" if stat.S_ISREG(kind) else "a pipe or a device, not a file"


def describe(content: bytes) -> tuple[str, str]:
    """Says what a file that cannot be read seems to be, and what to do with it."""
    head = content[:256].lower()
    if not content:
        return "an empty file", "copy it again"
    if any(tag in head for tag in (b"<!doctype", b"<html", b"<?xml")):
        return "a web page", "fetch the image itself"
    for signature, kind in _OTHER_FORMATS.items():
        if content.startswith(signature):
            return kind, "convert it to PNG, without scaling its grey values"
    for signature, kind in _ARCHIVES.items():
        if content.startswith(signature):
            return kind, "unpack it"
    return "of unknown format", "leave it out"


def _noted(radiograph: Radiograph, note: str) -> Radiograph:
    return dataclasses.replace(radiograph, notes=(*radiograph.notes, note))


def _check(
    radiograph: Radiograph, name: str, options: ReadOptions, inverted: Callable[[], Radiograph]
) -> Radiograph:
    """Returns the radiograph as networks know them, with notes on what was changed or is odd.

    A chest whose lungs are brighter than its mediastinum becomes `inverted()`; white bars beside a
    chest's exposed field are blackened.
    """
    shown = chest_template.judge(radiograph.pixels)
    if shown == "no greys" and options.frontal_only:
        fault = "has next to no greys between black and white, as a mask or an empty image"
        raise DataError(name, fault, "leave it out, or crop it if it shows a small chest")
    if shown == "inverted" and not options.correct_polarity:
        radiograph = _noted(radiograph, "lungs brighter than the mediastinum")
    elif shown == "inverted":
        radiograph = _noted(inverted(), "lungs brighter than the mediastinum: inverted")
        radiograph = _with_black_bars(radiograph)
    elif shown == "frontal":
        radiograph = _with_black_bars(radiograph)
    elif options.frontal_only:
        radiograph = dataclasses.replace(radiograph, looks_frontal=False)
    if (radiograph.field.height, radiograph.field.width) != radiograph.pixels.shape:
        radiograph = _noted(radiograph, "wide bars beside the exposed field cut off")
    return radiograph


def _with_black_bars(radiograph: Radiograph) -> Radiograph:
    pixels, had_bars = blacken_white_bars(radiograph.pixels)
    if not had_bars:
        return radiograph
    note = "white bars at its borders blackened"
    return _noted(dataclasses.replace(radiograph, pixels=pixels), note)


def _negative(radiograph: Radiograph) -> Radiograph:
    return dataclasses.replace(radiograph, pixels=1 - radiograph.pixels)
