"""Stored values out of every encoding, and files that ask for more than they hold."""

import collections
import io
import json
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import get_frame
from pydicom.uid import (
    JPEG2000,
    MPEG2MPML,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.codestream import Codestream, read_codestream
from lungseg_jax.imaging.dicom import read_dicom
from lungseg_jax.imaging.radiograph import ReadOptions
from tests.images import (
    chest,
    compressed_dicom_bytes,
    dicom_bytes,
    encoded_dicom_bytes,
    without_meta_header,
)

STORED = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
RAMP = {"WindowCenter": 2048, "WindowWidth": 4096}  # LINEAR: 0 to 4095 onto 0 to 1
# Smooth as lossy streams need it, and larger than their blocks.
SMOOTH = (np.add.outer(np.arange(48), np.arange(64)) * 36).astype(np.uint16)
BITS = {"BitsStored": 12, "HighBit": 11}


def read(content: bytes, **options: Any) -> np.ndarray:
    return read_dicom(content, "image.dcm", ReadOptions(**options)).pixels


@pytest.mark.parametrize("high_bit", [11, 12, 13, 14, 15])
@pytest.mark.parametrize("signed", [False, True])
def test_only_the_stored_bits_count(high_bit, signed):
    """Fault: overlays that old files keep in the other bits shown as white text; a lost sign."""
    values = STORED.astype(int) - 2048 * signed
    shift = high_bit - 11
    overlay = np.random.default_rng(0).integers(0, 2**16, STORED.shape) & ~(0xFFF << shift)
    words = ((values & 0xFFF) << shift | overlay).astype(np.uint16)
    attributes = RAMP | {"HighBit": high_bit, "PixelRepresentation": int(signed)}
    attributes["WindowCenter"] -= 2048 * signed
    np.testing.assert_allclose(read(dicom_bytes(words, attributes)), STORED / 4095, atol=1e-6)


@pytest.mark.parametrize(
    "transfer_syntax", [RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless]
)
@pytest.mark.parametrize("high_bit", [11, 15])
@pytest.mark.parametrize("signed", [False, True])
def test_only_the_stored_bits_of_compressed_words_count(transfer_syntax, high_bit, signed):
    """Fault: the lowest bits of words taken, and the highest lost, where these were compressed."""
    values = STORED.astype(int) - 2048 * signed
    words = ((values & 0xFFF) << (high_bit - 11)).astype(np.uint16)
    attributes = RAMP | {"PixelRepresentation": int(signed)}
    attributes["WindowCenter"] -= 2048 * signed
    content = encoded_dicom_bytes(words, attributes | {"BitsStored": 16}, transfer_syntax)
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.BitsStored, dataset.HighBit = 12, high_bit
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    np.testing.assert_allclose(read(buffer.getvalue()), STORED / 4095, atol=1e-6)


def test_a_stream_of_the_stored_bits_alone_has_none_below():
    """Fault: grey values shifted out of an image that kept the high bit of its words' time."""
    values = STORED | 1
    stream = imagecodecs.jpeg2k_encode(
        values, codecformat="j2k", reversible=True, level=0, bitspersample=12
    )
    assert read_codestream(stream).bits == 12
    content = compressed_dicom_bytes(values, stream, JPEG2000Lossless, RAMP | {"HighBit": 15})
    np.testing.assert_allclose(read(content), values / 4095, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 12])
def test_jpeg_extended(bits):
    """Fault: JPEG of 12 bits, which neither gdcm nor Pillow decodes, lost or cut to 8 bits."""
    stored = SMOOTH if bits == 12 else (SMOOTH >> 4).astype(np.uint8)
    stream = imagecodecs.jpeg8_encode(stored, 100, bitspersample=bits)
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    content = compressed_dicom_bytes(stored, stream, JPEGExtended12Bit, window)
    np.testing.assert_allclose(read(content), stored / (2**bits - 1), atol=2.5 / 2**bits)


def test_jpeg_extended_cut_short_is_refused():
    """Fault: libjpeg fills the missing rows with grey, as if it were lung."""
    stream = imagecodecs.jpeg8_encode(SMOOTH, 100, bitspersample=12)
    content = compressed_dicom_bytes(SMOOTH, stream[: len(stream) // 2], JPEGExtended12Bit)
    with pytest.raises(DataError, match="do not decode"):
        read(content)


@pytest.mark.parametrize(
    ("stream", "transfer_syntax"),
    [
        (imagecodecs.jpegls_encode(SMOOTH, 3), JPEGLSNearLossless),
        (imagecodecs.jpeg2k_encode(SMOOTH, 90, codecformat="j2k"), JPEG2000),
        (imagecodecs.jpeg2k_encode(SMOOTH, 90, codecformat="jp2"), JPEG2000),
    ],
)
def test_lossy_streams(stream, transfer_syntax):
    """Fault: a decoder that shifts by the unused bits, or a stream in a JP2 file not found."""
    content = compressed_dicom_bytes(SMOOTH, stream, transfer_syntax, RAMP)
    np.testing.assert_allclose(read(content), SMOOTH / 4095, atol=0.01)


@pytest.mark.parametrize(
    "transfer_syntax", [RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless]
)
def test_compressed_files_without_meta_header(transfer_syntax):
    """Fault: pixels lost because only the meta header would say how they are compressed."""
    content = encoded_dicom_bytes(SMOOTH, RAMP | BITS, transfer_syntax)
    pixels = read(without_meta_header(content))
    np.testing.assert_allclose(pixels, SMOOTH / 4095, atol=1e-6)


@pytest.mark.parametrize("frames", [2, 40])
def test_several_frames_are_refused_by_name(frames):
    """Fault: the first image of a fluoroscopy taken for a radiograph."""
    with pytest.raises(DataError, match="several frames"):
        read(dicom_bytes(STORED, {"NumberOfFrames": frames}))


@pytest.mark.parametrize(
    ("attributes", "fault"),
    [
        ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels"),
        ({"Rows": 0}, "without rows or columns"),
        ({"Columns": None}, "without rows or columns"),
        ({"Rows": 9}, "cut short"),
        ({"BitsAllocated": 32}, "cut short"),
        ({"BitsAllocated": 8}, "invalid BitsStored"),
        ({"BitsStored": 0}, "invalid BitsStored"),
        ({"BitsStored": 33, "BitsAllocated": 64}, "invalid BitsStored"),
        ({"SamplesPerPixel": 3}, "not grey"),
        ({"PixelData": None, "FloatPixelData": bytes(256)}, "floating-point pixels"),
        ({"PixelData": None, "DirectoryRecordSequence": []}, "list of DICOM files"),
        ({"PhotometricInterpretation": "YBR_FULL"}, "not grey"),
    ],
)
def test_headers_that_promise_what_is_not_there(attributes, fault):
    """Fault: gigabytes allocated on the word of a broken header."""
    with pytest.raises(DataError, match=fault):
        read(dicom_bytes(STORED, attributes))


def test_the_largest_image_is_an_option():
    """Fault: a limit that is not the reader's."""
    assert read(dicom_bytes(STORED, RAMP), max_pixels=64).shape == (8, 8)
    with pytest.raises(DataError, match=r"8 x 8 pixels, more than 6\.3e-05 million; shrink it"):
        read(dicom_bytes(STORED, RAMP), max_pixels=63)


def test_images_stay_in_narrow_types():
    """Fault: copies of eight bytes a pixel, of which a large film has a hundred million."""
    content = dicom_bytes((np.indices((1024, 1024)).sum(0) * 2 - 2048).astype(np.int16))
    read(content)
    tracemalloc.start()
    pixels = read(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The file's bytes, stored values, positions in the table and intensities are needed.
    assert peak < 15 * pixels.size


def claim(stream: bytes, codec: str, side: int) -> bytes:
    """The stream with another size in its frame header."""
    if codec == "jpeg2k":
        start = stream.index(b"\xff\x51")
        return stream[: start + 6] + struct.pack(">II", side, side) + stream[start + 14 :]
    marker = {"jpeg": b"\xff\xc0", "jpegls": b"\xff\xf7", "ljpeg": b"\xff\xc3"}[codec]
    start = stream.index(marker)
    return stream[: start + 5] + struct.pack(">HH", side, side) + stream[start + 9 :]


@pytest.mark.parametrize(
    ("codec", "transfer_syntax"),
    [
        ("jpeg", JPEGBaseline8Bit),
        ("jpegls", JPEGLSLossless),
        ("ljpeg", JPEGLosslessSV1),
        ("jpeg2k", JPEG2000),
    ],
)
def test_streams_of_another_size_are_not_decoded(codec, transfer_syntax):
    """Fault: a header of 48 x 64 pixels whose stream makes the decoder allocate gigabytes."""
    stored = chest(48, 64, 0)[0]
    stream = {
        "jpeg": lambda: imagecodecs.jpeg8_encode(stored),
        "jpegls": lambda: imagecodecs.jpegls_encode(stored),
        "ljpeg": lambda: imagecodecs.ljpeg_encode(stored, bitspersample=8),
        "jpeg2k": lambda: imagecodecs.jpeg2k_encode(stored, codecformat="j2k"),
    }[codec]()
    assert read(compressed_dicom_bytes(stored, stream, transfer_syntax)).shape == (48, 64)
    huge = compressed_dicom_bytes(stored, claim(stream, codec, 60000), transfer_syntax)
    with pytest.raises(DataError, match="another size than its header says"):
        read(huge)


def test_the_offset_of_a_jpeg_2000_image_is_no_part_of_it():
    """Fault: whole images refused that lie off the origin of their grid (T.800 A.5.1, B.2)."""
    # Xsiz, Ysiz, XOsiz, YOsiz, then the tiles' size and offset.
    grid = struct.pack(">8I", 64 + 4, 48 + 3, 4, 3, 128, 128, 0, 0)
    header = struct.pack(">4H", 0xFF4F, 0xFF51, 41, 0) + grid + struct.pack(">H3B", 1, 11, 1, 1)
    assert read_codestream(header) == Codestream(JPEG2000, (48, 64, 1), 12)


def test_colour_streams_under_a_grey_header_are_refused():
    """Fault: the first of three colours, or three images side by side, taken for grey."""
    colour = np.repeat(chest(48, 64, 0)[0][..., None], 3, axis=2)
    stream = imagecodecs.jpeg8_encode(colour)
    with pytest.raises(DataError, match="another size"):
        read(compressed_dicom_bytes(colour[..., 0], stream, JPEGBaseline8Bit))


@pytest.mark.parametrize("stream", [b"\xff\xd8", b"\xff\xd8\xff", b"\xff\x4f\xff\x51\0", b"ab"])
@pytest.mark.parametrize("transfer_syntax", [JPEGBaseline8Bit, JPEG2000, RLELossless])
def test_stumps_of_streams_are_data_errors(stream, transfer_syntax):
    """Fault: an index beyond the end of what is hardly there."""
    with pytest.raises(DataError):
        read(compressed_dicom_bytes(STORED, stream, transfer_syntax))


def mutations(stream: bytes, count: int) -> list[bytes]:
    """Streams cut short, with bytes put in, or with some of their bytes or their header's changed.

    Of less than two bytes no file could be made.
    """
    rng = np.random.default_rng(0)
    mutants = []
    for number in range(count):
        mutant = bytearray(stream)
        place = int(rng.integers(4, len(mutant)))
        if number % 4 == 0:
            del mutant[place:]
        elif number % 4 == 1:
            mutant[place:place] = rng.bytes(int(rng.integers(1, 5)))
        else:
            end = min(len(mutant), 64) if number % 4 == 2 else len(mutant)
            for position in rng.integers(0, end, rng.integers(1, 4)):
                mutant[position] = rng.integers(256)
        mutants.append(bytes(mutant))
    return mutants


def test_damaged_streams_raise_data_errors_only():
    """Fault: a decoder's own exception, or an allocation without bound, ends a build.

    gdcm lets C++ exceptions end the process on some damaged JPEG and JPEG-LS streams, which no
    Python code can prevent: files are read in processes of their own, here as in a build.
    """
    smooth_8 = (SMOOTH >> 4).astype(np.uint8)
    streams = [
        (smooth_8, imagecodecs.jpeg8_encode(smooth_8, 90), JPEGBaseline8Bit, {}),
        (
            SMOOTH,
            imagecodecs.jpeg8_encode(SMOOTH, 90, bitspersample=12),
            JPEGExtended12Bit,
            BITS,
        ),
    ]
    for syntax in (RLELossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless):
        whole = pydicom.dcmread(io.BytesIO(encoded_dicom_bytes(SMOOTH, BITS, syntax)))
        stream = get_frame(whole.PixelData, 0, number_of_frames=1)
        streams.append((SMOOTH, stream, syntax, BITS))
    contents = [
        compressed_dicom_bytes(stored, mutant, syntax, attributes)
        for stored, stream, syntax, attributes in streams
        for mutant in (stream, *mutations(stream, 60))
    ]
    child = subprocess.run(
        [sys.executable, "-m", "tests.forked_reading"],
        cwd=Path(__file__).parents[1],
        input=pickle.dumps(contents),
        # Decoders print what they meet.
        stderr=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
    )
    ends = json.loads(child.stdout)
    assert ends[::61] == ["read"] * 6
    counts = collections.Counter(ends)
    assert len(ends) == len(contents) == 366
    crashes = {"SIGABRT", "SIGSEGV"}
    assert counts.keys() <= {"read", "DataError"} | crashes
    assert sum(counts[crash] for crash in crashes) < 0.05 * len(ends)


@pytest.mark.parametrize(
    "slip",
    [
        {"SamplesPerPixel": None},
        {"PixelRepresentation": None},
        {"SamplesPerPixel": None, "PixelRepresentation": None},
        {"HighBit": 7},
        {"HighBit": 99},
        {"HighBit": None},
    ],
)
def test_what_nearly_all_files_say_alike_may_be_left_out(slip):
    """Fault: a good image refused with the name of an error of Python."""
    np.testing.assert_array_equal(read(dicom_bytes(STORED, RAMP | slip)), STORED / np.float32(4095))


def test_a_compression_that_is_not_read_is_named():
    """Fault: video and HTJ2K refused as if they were damaged."""
    for syntax in (HTJ2KLossless, MPEG2MPML):
        content = compressed_dicom_bytes(STORED, b"stream", syntax)
        with pytest.raises(DataError, match=f"not read .{re.escape(syntax.name)}.; export it un"):
            read(content)


def test_more_data_than_the_image_holds_is_noted():
    """Fault: the upper part of a chest, because its header has fewer rows, taken for all of it."""
    cut = read_dicom(dicom_bytes(STORED, RAMP | {"Rows": 6}), "x")
    np.testing.assert_array_equal(cut.pixels, STORED[:6] / np.float32(4095))
    assert cut.notes == ("more pixel data than its rows and columns hold",)
    odd = STORED[:5, :5].astype(np.uint8)
    assert read_dicom(dicom_bytes(odd, {"PixelData": odd.tobytes() + b"\0"}), "x").notes == ()
