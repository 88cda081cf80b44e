"""What a compressed image says about itself before it is decoded."""

import dataclasses
import struct

from pydicom.uid import (
    JPEG2000,
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLSNearLossless,
    RLELossless,
)

# Markers that open a JPEG frame (ITU-T T.81 table B.1, T.87 C.1.1), with what they stand for.
_FRAMES = {
    0xC0: JPEGBaseline8Bit,
    0xC1: JPEGExtended12Bit,
    0xC3: JPEGLossless,
    0xF7: JPEGLSNearLossless,
}
_JPEG_START = b"\xff\xd8"
# Start of codestream and size segment, bare or in a JP2 file (ITU-T T.800 A.4.1, A.5.1).
_JPEG_2000_START = b"\xff\x4f\xff\x51"


@dataclasses.dataclass(frozen=True)
class Codestream:
    """The frame header of a compressed image.

    Attributes:
      transfer_syntax: one under which images of this kind are decoded.
      shape: (rows, columns, samples per pixel); `None` for RLE, which does not say.
      bits: bits per sample.
    """

    transfer_syntax: UID
    shape: tuple[int, int, int] | None
    bits: int


def read_codestream(stream: bytes) -> Codestream:
    """Returns the frame header of a JPEG, JPEG-LS or JPEG 2000 stream; all else counts as RLE.

    Raises:
      ValueError: a JPEG stream of a kind that is not decoded, or without a frame header.
      struct.error: it is cut short.
    """
    if stream.startswith(_JPEG_START):
        return _read_jpeg(stream)
    start = stream.find(_JPEG_2000_START, 0, 512)
    if start >= 0:
        return _read_jpeg_2000(stream[start:])
    return Codestream(RLELossless, None, 8)


def _read_jpeg(stream: bytes) -> Codestream:
    position = len(_JPEG_START)
    while True:
        mark, kind, length = struct.unpack_from(">BBH", stream, position)
        if mark != 0xFF:
            raise ValueError
        if kind in _FRAMES:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", stream, position + 4)
            return Codestream(_FRAMES[kind], (rows, columns, samples), bits)
        # Other frames are progressive or arithmetic-coded: no DICOM transfer syntax has them.
        if kind in (0xC2, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xDA):
            raise ValueError
        # Any number of fill bytes may precede a marker.
        position += 1 if kind == 0xFF else 2 + length


def _read_jpeg_2000(stream: bytes) -> Codestream:
    right, bottom, left, top = struct.unpack_from(">IIII", stream, 8)
    samples, depth = struct.unpack_from(">HB", stream, 40)
    return Codestream(JPEG2000, (bottom - top, right - left, samples), (depth & 0x7F) + 1)
