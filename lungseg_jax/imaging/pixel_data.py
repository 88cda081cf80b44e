"""Stored pixel values of a DICOM data set, whatever their encoding."""

import imagecodecs
import numpy as np
from jaxtyping import Integer
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, JPEGExtended12Bit, JPEGLSTransferSyntaxes

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.codestream import read_codestream
from lungseg_jax.imaging.dicom_file import guarded
from lungseg_jax.imaging.header import read_numbers, read_word
from lungseg_jax.imaging.radiograph import check_num_pixels

# The greyscale pipeline tabulates values; no detector for radiographs has more bits.
MAX_BITS = 16

_JPEG_END = b"\xff\xd9"


def read_stored_values(dataset: Dataset, name: str, max_pixels: int) -> Integer[np.ndarray, "h w"]:
    """Returns the stored values, signed if they are, without the other bits of their words.

    Raises:
      DataError: no pixels, several frames, colour, too large, or pixels that do not decode.
    """
    _check_attributes(dataset, name, max_pixels)
    # Some files leave out what is the same in nearly all.
    for keyword, usual in (("SamplesPerPixel", 1), ("PixelRepresentation", 0)):
        if not read_numbers(dataset, keyword):
            setattr(dataset, keyword, usual)
    with guarded(name, "pixels do not decode"):
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            words, shift = _decompress(dataset, name)
        else:
            # By default pydicom takes the stored bits for the lowest ones, whatever HighBit says.
            words = pixel_array(dataset, raw=True, correct_unused_bits=False)
            shift = _bits_below(dataset, int(dataset.BitsAllocated))
        return _to_stored_values(words, dataset, shift)


def _check_attributes(dataset: Dataset, name: str, max_pixels: int) -> None:
    """Checks, before anything is allocated, that the header promises one greyscale image."""
    if "PixelData" not in dataset:
        # Where compressed pixels are cut short, pydicom drops them all.
        fault = "DICOM file without PixelData, or cut short"
        if "DirectoryRecordSequence" in dataset:
            fault = "list of DICOM files (DICOMDIR), not an image"
        elif "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            fault = "DICOM file of floating-point pixels"
        raise DataError(name, fault, "fetch it again or leave it out")
    if read_numbers(dataset, "NumberOfFrames") > (1,):
        raise DataError(name, "DICOM file of several frames", "export the frontal frame alone")
    photometric = read_word(dataset, "PhotometricInterpretation")
    if not photometric:
        fault = "DICOM image without PhotometricInterpretation"
        raise DataError(name, fault, "export it again")
    samples = read_numbers(dataset, "SamplesPerPixel") or (1,)
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or samples != (1,):
        raise DataError(name, "DICOM image that is not grey", "leave it out")
    size = read_numbers(dataset, "Rows") + read_numbers(dataset, "Columns")
    if len(size) != 2 or min(size) < 1:
        raise DataError(name, "DICOM image without rows or columns", "copy or export it again")
    rows, columns = (int(side) for side in size)
    check_num_pixels(rows, columns, name, max_pixels)
    if not dataset.file_meta.TransferSyntaxUID.is_transfer_syntax:
        raise DataError(name, "pixels do not decode (unknown transfer syntax)", "export it again")
    stored = read_numbers(dataset, "BitsStored")
    allocated = read_numbers(dataset, "BitsAllocated")
    if not stored or not allocated or not 1 <= stored[0] <= min(MAX_BITS, allocated[0]):
        fault = "pixels do not decode (invalid BitsStored or BitsAllocated)"
        raise DataError(name, fault, "copy or export it again")
    if (
        not dataset.file_meta.TransferSyntaxUID.is_encapsulated
        and len(dataset.PixelData) < rows * columns * allocated[0] / 8
    ):
        raise DataError(name, "pixels do not decode (cut short)", "copy or export it again")


def has_surplus(dataset: Dataset) -> bool:
    """Whether an uncompressed image has more data than its rows and columns hold.

    One more byte is allowed: it makes the length even.
    """
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return False
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated)
    return len(dataset.PixelData) > bits // 8 + 1


def _decompress(dataset: Dataset, name: str) -> tuple[Integer[np.ndarray, "h w"], int]:
    """Decodes a compressed image after checking the size that its stream states.

    Returns:
      Its words, and how many of their bits lie below the stored ones.
    """
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    codestream = read_codestream(stream)
    if codestream.shape not in (None, (dataset.Rows, dataset.Columns, 1)):
        raise DataError(
            name, "compressed image of another size than its header says", "copy or export it again"
        )
    # Neither gdcm nor Pillow decodes 12-bit JPEG.
    if codestream.transfer_syntax == JPEGExtended12Bit and codestream.bits == 12:
        # libjpeg fills what is missing with grey.
        if not stream.rstrip(b"\0").endswith(_JPEG_END):
            raise DataError(name, "pixels do not decode (cut short)", "copy or export it again")
        return imagecodecs.jpeg8_decode(stream), 0
    syntax = dataset.file_meta.TransferSyntaxUID
    if not _has_decoder(syntax):
        fault = f"compressed in a way that is not read ({syntax.name})"
        raise DataError(name, fault, "export it uncompressed, or as JPEG 2000, JPEG-LS or RLE")
    # With highdicom comes another decoder of JPEG-LS, which pydicom would prefer: it computes for
    # seconds on a stream that is cut short.
    plugin = "gdcm" if syntax in JPEGLSTransferSyntaxes else ""
    # RLE keeps words as they are; other streams say how many of their bits they keep.
    bits = int(dataset.BitsAllocated) if codestream.shape is None else codestream.bits
    if shift := _bits_below(dataset, bits):
        # gdcm and pydicom take the stored bits for the lowest ones: with all bits stored, none is
        # lost.
        return pixel_array(dataset, raw=True, decoding_plugin=plugin, bits_stored=bits), shift
    return pixel_array(dataset, raw=True, decoding_plugin=plugin), 0


def _has_decoder(syntax: UID) -> bool:
    try:
        return get_decoder(syntax).is_available
    # For video, pydicom has none.
    except NotImplementedError:
        return False


def _bits_below(dataset: Dataset, bits: int) -> int:
    """Returns how many bits lie below the stored ones in words of which `bits` are kept."""
    high_bit = read_numbers(dataset, "HighBit")
    below = int(high_bit[0]) - int(dataset.BitsStored) + 1 if high_bit else 0
    # A high bit that leaves no room for the stored bits is a mistake: they lie lowest.
    return below if 0 <= below <= bits - int(dataset.BitsStored) else 0


def _to_stored_values(
    words: Integer[np.ndarray, "h w"], dataset: Dataset, shift: int
) -> Integer[np.ndarray, "h w"]:
    """Returns the stored bits of each word as a number, signed where the header says so.

    Old files keep overlays in the bits above; some decoders leave the sign out.
    """
    bits = int(dataset.BitsStored)
    signed = read_numbers(dataset, "PixelRepresentation") == (1,)
    # Decoders return bytes where no more is used, however many bits the header says are stored.
    size = max(words.itemsize, 1 if bits <= 8 else 2)
    values = words.astype(f"i{size}" if words.dtype.kind == "i" else f"u{size}", copy=False)
    values = values.view(f"u{size}")
    # Shifted up, where the bits above drop out, and down again with or without the sign.
    unused = 8 * size - bits
    if unused and (shift or signed or values.max() >> bits):
        values = values << (unused - shift)
        values = values.view(f"i{size}" if signed else f"u{size}") >> unused
    elif signed:
        values = values.view(f"i{size}")
    return values if size <= 2 else values.astype(np.int16 if signed else np.uint16)
