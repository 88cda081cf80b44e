"""From any DICOM file to a data set: with or without preamble, meta header, transfer syntax."""

import contextlib
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator

import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import data_element_generator
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import VR

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.codestream import read_codestream

# pydicom's messages quote header values, a patient's name among them; the root logger, which absl
# prints to the terminal, must not get them.
logging.getLogger("pydicom").propagate = False

_PREFIX = b"DICM"
_TRANSFER_SYNTAX = 0x00020010
_VALUE_TYPES = frozenset(value_type.value.encode() for value_type in VR)


def is_dicom(content: bytes) -> bool:
    """Whether content carries DICOM's prefix (PS3.10 7.1) or starts like a data set without it."""
    return content[128:132] == _PREFIX or content[:4] == _PREFIX or _starts_with_element(content)


def parse_dicom(content: bytes, name: str, max_bytes: int, until_pixels: bool = False) -> Dataset:
    """Returns the data set in a file; `file_meta` states a transfer syntax, guessed if need be.

    Args:
      content: the file's bytes.
      name: what errors call the file.
      max_bytes: how large a deflated file may become.
      until_pixels: leave the pixels out.

    Raises:
      DataError: not DICOM, or deflated and larger than allowed.
    """
    if not is_dicom(content):
        raise DataError(name, "not a DICOM file", "leave it out, or copy it again")
    if content.startswith(_PREFIX):
        content = bytes(128) + content
    inflated = _inflate(content, name, max_bytes)
    dataset = pydicom.dcmread(
        io.BytesIO(content if inflated is None else inflated),
        force=True,
        stop_before_pixels=until_pixels,
    )
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = _guess_transfer_syntax(dataset)
    return dataset


@contextlib.contextmanager
def guarded(name: str, fault: str) -> Iterator[None]:
    """Turns whatever pydicom and its decoders raise into a `DataError`, and hides their warnings.

    The warnings report oddities in a header, with the values.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DataError:
            raise
        except MemoryError:
            raise DataError(name, "needs more memory than there is", "leave it out") from None
        # Headers are parsed at each access and decoders are C libraries: any exception may occur.
        # Its message may quote the header, so it is not chained either.
        except Exception as error:  # noqa: BLE001
            fault = f"{fault} ({type(error).__name__})"
            raise DataError(name, fault, "copy or export it again") from None


def _starts_with_element(content: bytes) -> bool:
    """Whether content starts like the meta header, or like group 8, where data sets start."""
    if len(content) < 16:
        return False
    group, _, value_type, length = struct.unpack("<HH2s2xI", content[:8] + content[4:8])
    # Without a value type there is a length: for the first attributes it is small and even.
    return group in (2, 8) and (value_type in _VALUE_TYPES or (length <= 1024 and length % 2 == 0))


def _inflate(content: bytes, name: str, max_bytes: int) -> bytes | None:
    """Returns a deflated file's data set, explicit VR little endian; `None` for other files.

    pydicom would inflate it to any size.
    """
    file = io.BytesIO(content)
    file.seek(132 if content[128:132] == _PREFIX else 0)
    meta = data_element_generator(
        file, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2
    )
    stated = b"".join(element.value or b"" for element in meta if element.tag == _TRANSFER_SYNTAX)
    if stated.rstrip(b"\0 ").decode("latin1") != DeflatedExplicitVRLittleEndian:
        return None
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), max_bytes + 1)
    if len(inflated) > max_bytes:
        raise DataError(name, "inflates beyond the largest accepted size", "leave it out")
    return inflated


def _guess_transfer_syntax(dataset: Dataset) -> UID:
    """Returns how the data set was read; for compressed pixels, what the stream looks like."""
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
        return read_codestream(stream).transfer_syntax
    implicit, little_endian = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
