"""PNG files of every kind the public sets use, and broken ones."""

import io
import struct
import zlib

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.files import radiograph_of
from lungseg_jax.imaging.png import COMPRESSED, UNCOMPRESSED, UNFILTERED, encode_png, read_png
from lungseg_jax.imaging.radiograph import ReadOptions
from tests.images import chest, png_bytes

GREY = np.arange(240, dtype=np.uint8).reshape(12, 20)


def test_eight_bits():
    """Brightest 255, not the brightest found: images must stay comparable."""
    radiograph = read_png(png_bytes(GREY), "x.png")
    np.testing.assert_allclose(radiograph.pixels, GREY / 255, atol=1e-7)
    assert radiograph.spacing_mm is None
    assert radiograph.spacing_source == "none"


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
def test_sixteen_bit_files_use_the_bits_they_fill(bits):
    """Read as 8 bits they lose detail; 12 bits divided by 65535 come out black."""
    pixels = np.linspace(0, 2**bits - 1, 240).astype(np.uint16).reshape(12, 20)
    radiograph = read_png(png_bytes(pixels), "x.png")
    np.testing.assert_allclose(radiograph.pixels, pixels / (2**bits - 1), atol=1e-6)


@pytest.mark.parametrize("kind", ["file", "array"])
def test_a_marker_at_the_largest_value_does_not_darken_the_chest(kind):
    """Fault: twelve bits divided by 65535 because of one marker: a black image."""
    pixels = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    marked = pixels.copy()
    marked[:4, :4] = 65535
    if kind == "file":
        found = read_png(png_bytes(marked), "x.png")
    else:
        found = radiograph_of(marked, ReadOptions(frontal_only=False, correct_polarity=False))
    expected = np.minimum(marked, 4095) / 4095
    np.testing.assert_allclose(found.pixels, expected, atol=1e-6)
    assert "pixels beyond 12 bits cut" in found.notes


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_stored_as_colour_stays_the_same_grey(mode):
    """Some of Shenzhen's images are RGB; a mean over RGBA would count opacity."""
    np.testing.assert_allclose(
        read_png(png_bytes(GREY, mode), "x.png").pixels, GREY / 255, atol=1e-7
    )


def sixteen_bit_png(channels: np.ndarray) -> bytes:
    """A PNG of height × width × (grey and opacity, RGB, or RGBA), which Pillow does not write."""
    height, width, count = channels.shape
    colour_type = {2: 4, 3: 2, 4: 6}[count]
    rows = channels.astype(">u2").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    ]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts])


@pytest.mark.parametrize("count", [2, 3, 4])
def test_sixteen_bits_of_grey_stored_as_colour_are_all_read(count: int):
    """Cut to eight bits, twelve leave sixteen greys of 1 / 255 each: a black image."""
    grey = np.linspace(0, 4095, 240).astype(np.uint16).reshape(12, 20)
    channels = np.stack([grey] * count, axis=-1)
    if count in (2, 4):
        channels[..., -1] = np.arange(20) * 3000
    found = read_png(sixteen_bit_png(channels), "x.png").pixels
    np.testing.assert_allclose(found, grey / 4095, atol=1e-6)


def test_sixteen_bit_colours_have_their_luminance():
    """Fault: red taken for blue."""
    channels = np.zeros((1, 4, 3), np.uint16)
    channels[0, 1:] = np.eye(3) * 65535
    channels[0, 0] = 65535
    found = read_png(sixteen_bit_png(channels), "x.png").pixels
    np.testing.assert_allclose(found, [[1, 0.299, 0.587, 0.114]], atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"transparency": bytes(range(200))}, {"bits": 4}])
def test_palettes_are_looked_up(options):
    """Palette positions are no intensities: here the palette is reversed."""
    indices = GREY % 16 if "bits" in options else GREY
    image = Image.fromarray(indices).convert("L")
    image.putpalette([value for i in range(256) for value in [255 - i] * 3])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    pixels = read_png(buffer.getvalue(), "x.png").pixels
    np.testing.assert_allclose(pixels, (255 - indices) / 255, atol=1e-7)


def test_one_bit():
    """Set bits are white, not 1 / 255."""
    bits = GREY % 3 == 0
    content = png_bytes(bits.astype(np.uint8) * 255, "1")
    np.testing.assert_array_equal(read_png(content, "x.png").pixels, bits)


@given(
    st.sampled_from([COMPRESSED, UNFILTERED, UNCOMPRESSED]),
    st.sampled_from([np.uint8, np.uint16]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.data(),
)
@settings(max_examples=80)
def test_what_is_encoded_comes_back(parameters, kind, height, width, data):
    """Records keep images and masks in this form."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(kind).max, (height, width), kind)
    pixels[0, 0] = np.iinfo(kind).max
    back = read_png(encode_png(pixels, parameters), "x.png").pixels * np.iinfo(kind).max
    np.testing.assert_array_equal(np.rint(back).astype(kind), pixels)


def test_a_stored_image_has_its_rows_as_they_are():
    """Fault: OpenCV passes over a parameter in silence, and decoding takes five times as long."""
    pixels = np.random.default_rng(0).integers(0, 65536, (64, 64), np.uint16)
    content = encode_png(pixels, UNCOMPRESSED)
    assert all(row.astype(">u2").tobytes() in content for row in pixels[:3])


def test_a_mask_without_filters_is_smaller():
    """Fault: as above, for masks."""
    mask = cv2.circle(np.zeros((256, 256), np.uint8), (128, 128), 90, (3,), -1)
    assert len(encode_png(mask, UNFILTERED)) < len(encode_png(mask))


@pytest.mark.parametrize("image", [GREY, GREY.astype(np.uint16) * 257])
def test_every_flipped_bit_is_noticed_or_harmless(image):
    """Pillow leaves the checksums of image data unread: damage would be trained on."""
    content = png_bytes(image)
    whole = read_png(content, "x.png").pixels
    refused = 0
    # Length and checksum of the empty end marker, eight bytes, matter to nobody.
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            try:
                np.testing.assert_array_equal(read_png(bytes(damaged), "x.png").pixels, whole)
            except DataError:
                refused += 1
    assert refused == 8 * (len(content) - 8)


def test_every_truncation_is_refused():
    """A download broken off shows as an image with a black lower part."""
    content = png_bytes(chest(30, 20, 0)[0])
    # The last four bytes are the checksum of the empty end marker.
    for length in range(len(content) - 4):
        with pytest.raises(DataError, match=r"^x\.png: broken PNG file; "):
            read_png(content[:length], "x.png")


def test_other_formats_are_refused():
    """Pillow opens whatever it knows, and each of its parsers can be attacked."""
    for kind in ("JPEG", "GIF", "BMP", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(GREY).save(buffer, kind)
        with pytest.raises(DataError, match=r"^x\.png: broken PNG file"):
            read_png(buffer.getvalue(), "x.png")


def test_large_films_are_read_and_larger_ones_refused_without_a_warning():
    """Pillow warns from 89 megapixels on and calls twice that an attack."""
    film = np.zeros((9500, 9500), np.uint8)
    film[-1, -1] = 255
    assert read_png(png_bytes(film, compress_level=1), "x.png").pixels[-1, -1] == 1
    # Only the header says how large it is.
    header = b"IHDR" + struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0)
    huge = bytearray(png_bytes(GREY))
    huge[12:33] = header + struct.pack(">I", zlib.crc32(header))
    with pytest.raises(DataError, match=r"^x\.png: 20000 x 20000 pixels, more than 128 million; "):
        read_png(bytes(huge), "x.png")


def test_the_largest_image_is_an_option():
    """Fault: a limit that is not the reader's, or one that only holds after decoding."""
    content = png_bytes(GREY)
    assert read_png(content, "x.png", ReadOptions(max_pixels=240)).pixels.shape == (12, 20)
    # The limit is met before the damage to the pixels is.
    with pytest.raises(DataError, match=r"12 x 20 pixels, more than 0\.000239 million; shrink it"):
        read_png(content[:60], "x.png", ReadOptions(max_pixels=239))


def test_broken_tags_are_no_broken_image():
    """Fault: a traceback, or an image lost, for an Exif chunk of zeros."""
    whole = png_bytes(GREY)
    body = b"eXIf" + bytes(8)
    chunk = struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body))
    found = read_png(whole[:33] + chunk + whole[33:], "x.png")
    np.testing.assert_array_equal(found.pixels, read_png(whole, "x.png").pixels)
    assert found.notes == ("its Exif tags are broken",)
