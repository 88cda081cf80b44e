"""One way from a file to a radiograph; the content decides the format, never the name."""

from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging import dicom, png
from lungseg_jax.imaging.radiograph import Radiograph

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_radiograph(path: epath.PathLike) -> Radiograph:
    """Returns the radiograph in a DICOM or PNG file.

    Raises:
      DataError: the file cannot be read, is of another kind, or does not decode.
    """
    path = epath.Path(path)
    content = read_bytes(path)
    if content.startswith(_PNG_SIGNATURE):
        return png.read_png(content, path.name)
    if is_dicom(content):
        return dicom.read_dicom(content, path.name)
    raise DataError(path.name, f"is {describe(content)}, neither DICOM nor PNG", "leave it out")


def read_bytes(path: epath.Path) -> bytes:
    """Returns a file's content.

    Raises:
      DataError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(path, error.strerror or str(error), "check path and permissions") from error


def is_dicom(content: bytes) -> bool:
    """Whether the content carries DICOM's prefix (PS3.10 7.1)."""
    return content[128:132] == b"DICM"


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
