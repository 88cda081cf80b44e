"""One way from a file to a radiograph; the content decides the format, never the name."""

import dataclasses

from etils import epath

from lungseg_jax.errors import DataError, NotFrontalError
from lungseg_jax.imaging import chest_template, dicom, png, raw
from lungseg_jax.imaging.dicom_file import is_dicom
from lungseg_jax.imaging.radiograph import Radiograph, ReadOptions

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_radiograph(path: epath.PathLike, options: ReadOptions = ReadOptions()) -> Radiograph:
    """Returns the radiograph in a DICOM or PNG file.

    Raises:
      NotFrontalError: a picture of something else than a frontal chest.
      DataError: the file cannot be read, is of another kind, or does not decode.
    """
    path = epath.Path(path)
    return decode_radiograph(read_bytes(path), path.name, options)


def decode_radiograph(
    content: bytes, name: str, options: ReadOptions = ReadOptions()
) -> Radiograph:
    """Returns the radiograph in the bytes of a DICOM or PNG file.

    Args:
      content: the file's bytes.
      name: how errors call the file.
      options: how files are read.

    Raises:
      NotFrontalError: a picture of something else than a frontal chest.
      DataError: the content is of another kind, or does not decode.
    """
    if content.startswith(_PNG_SIGNATURE):
        radiograph = png.read_png(content, name, options)
    elif is_dicom(content):
        radiograph = dicom.read_dicom(content, name, options)
    elif name.lower().endswith(".img"):
        # Bare pixels have nothing to be known by but their name.
        radiograph = raw.read_jsrt(content, name)
    else:
        raise DataError(name, f"is {describe(content)}, neither DICOM nor PNG", "leave it out")
    shown = chest_template.judge(radiograph.pixels)
    if shown == "other" and options.frontal_only:
        raise NotFrontalError(name, "does not look like a frontal chest", "leave it out")
    if shown != "inverted":
        return radiograph
    if not options.correct_polarity:
        return _noted(radiograph, "lungs brighter than the mediastinum")
    if is_dicom(content):
        # Read again, for padding stays black.
        inverted = dicom.read_dicom(content, name, options, against_tag=True)
    else:
        inverted = dataclasses.replace(radiograph, pixels=1 - radiograph.pixels)
    return _noted(inverted, "lungs brighter than the mediastinum: inverted")


def read_bytes(path: epath.Path) -> bytes:
    """Returns a file's content.

    Raises:
      DataError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(path, error.strerror or str(error), "check path and permissions") from error


def describe(content: bytes) -> str:
    """Says in words what a file that is no picture seems to be."""
    head = content[:256].lower()
    if not content:
        return "an empty file"
    if any(tag in head for tag in (b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    if head.startswith(b"\xff\xd8\xff"):
        return "a JPEG picture"
    return "of unknown format"


def _noted(radiograph: Radiograph, note: str) -> Radiograph:
    return dataclasses.replace(radiograph, notes=(*radiograph.notes, note))
