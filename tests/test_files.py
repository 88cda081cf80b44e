"""The content decides what a file is, and refusals say what it seems to be."""

import gzip
import io
import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from pydicom.dataset import Dataset

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.files import (
    as_array,
    decode_radiograph,
    is_dicom,
    radiograph_of,
    read_radiograph,
)
from lungseg_jax.imaging.radiograph import ReadOptions
from tests.images import chest, dicom_bytes, png_bytes

CHEST = chest(40, 36, 0)[0]
TIFF = io.BytesIO()
Image.fromarray(CHEST).save(TIFF, "TIFF")
WINDOW = {"WindowCenter": 128, "WindowWidth": 256}


@pytest.mark.parametrize("name", ["image.png", "image.dcm", "IM000001"])
@pytest.mark.parametrize("content", [png_bytes(CHEST), dicom_bytes(CHEST, WINDOW)])
def test_the_name_does_not_matter(tmp_path, name, content):
    """Archives name DICOM files without an ending, and rename PNG to .dcm."""
    (tmp_path / name).write_bytes(content)
    pixels = read_radiograph(tmp_path / name).pixels
    np.testing.assert_allclose(pixels, CHEST / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "seems", "remedy"),
    [
        (b"", "an empty file", "copy it again"),
        (b"<!DOCTYPE html><html><body>Jane Roe's archive</body></html>", "a web page", "fetch the"),
        (b"\xef\xbb\xbf\n<HTML><body>not found</body></HTML>", "a web page", "fetch the"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page", "fetch the"),
        (b"GIF89a" + b"\0" * 200, "a GIF file", "convert it to PNG"),
        (TIFF.getvalue(), "a TIFF file", "convert it to PNG"),
        (b"\x93NUMPY\x01\0" + b"\0" * 200, "a NumPy file", "convert it to PNG"),
        (gzip.compress(dicom_bytes(CHEST)), "a gzip archive", "unpack it"),
        (b"lungs" + b"\0" * 200, "of unknown format", "leave it out"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_files_are_refused_by_what_they_are(tmp_path, content, seems, remedy):
    """Web pages saved as .dcm come with real downloads; 'does not decode' hides why."""
    path = tmp_path / "scan.dcm"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_radiograph(path)
    message = f"scan.dcm: is {seems}, neither DICOM, PNG nor JPEG; {remedy}"
    assert str(caught.value).startswith(message)


def test_a_broken_dicom_file_is_still_called_dicom(tmp_path):
    """The fault of the file must not be taken for a wrong format."""
    path = tmp_path / "scan.dcm"
    path.write_bytes(dicom_bytes(CHEST)[:-30])
    assert is_dicom(path.read_bytes())
    with pytest.raises(DataError, match=r"^scan\.dcm: pixels do not decode"):
        read_radiograph(path)


@pytest.mark.parametrize(
    ("name", "remedy"), [("absent.png", "check path and permissions"), ("folder", "give one file")]
)
def test_unreadable_paths_are_data_errors(tmp_path, name, remedy):
    """A typing error in a path must not end in a traceback."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=f"{name}: .*; {remedy}"):
        read_radiograph(tmp_path / name)


def test_files_of_someone_without_a_name_are_read(tmp_path, monkeypatch):
    """Fault: no file is read in a container whose list of users lacks the owner of the files."""
    (tmp_path / "chest.png").write_bytes(png_bytes(CHEST))
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert read_radiograph(tmp_path / "chest.png").pixels.shape == CHEST.shape


def test_what_is_too_large_for_an_image_is_not_read(tmp_path):
    """Fault: a backup among an archive's images, read whole by each worker."""
    path = tmp_path / "backup.tar"
    path.touch()
    # With holes, which take no space.
    os.truncate(path, 2**36)
    with pytest.raises(DataError, match=r"has 64\.0 GiB, more than any image that is read"):
        read_radiograph(path)


LYING = {"PhotometricInterpretation": "MONOCHROME1"}
ENCODED = {
    "png": (png_bytes(CHEST), png_bytes(255 - CHEST)),
    "dicom": (dicom_bytes(CHEST, WINDOW), dicom_bytes(CHEST, WINDOW | LYING)),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_negatives_are_inverted_with_a_note(kind):
    """Fault: a photometric tag that lies makes lungs bright; or a right image is inverted."""
    right, negative = ENCODED[kind]
    radiograph = decode_radiograph(right, "x")
    assert not radiograph.notes
    corrected = decode_radiograph(negative, "x")
    np.testing.assert_allclose(corrected.pixels, radiograph.pixels, atol=1e-6)
    assert corrected.notes == ("lungs brighter than the mediastinum: inverted",)
    left_alone = decode_radiograph(negative, "x", ReadOptions(correct_polarity=False))
    np.testing.assert_allclose(left_alone.pixels, 1 - radiograph.pixels, atol=1e-6)
    assert left_alone.notes == ("lungs brighter than the mediastinum",)


def test_padding_stays_black_when_a_tag_lies():
    """Fault: a white frame around an image whose polarity was corrected."""
    framed = np.pad(CHEST.clip(max=254), 2, constant_values=255)
    attributes = WINDOW | LYING | {"PixelPaddingValue": 255}
    pixels = decode_radiograph(dicom_bytes(framed, attributes), "x").pixels
    assert not pixels[:2].any()
    np.testing.assert_allclose(pixels[2:-2, 2:-2], CHEST.clip(max=254) / 255, atol=1e-6)


@pytest.mark.parametrize("encode", [png_bytes, dicom_bytes])
def test_what_does_not_look_like_a_chest_is_told_apart(encode):
    """Fault: a hand or a test pattern without a telling header taken for a chest."""
    content = encode(np.random.default_rng(0).integers(0, 256, (40, 36), np.uint8))
    assert not decode_radiograph(content, "x").looks_frontal
    anything = decode_radiograph(content, "x", ReadOptions(frontal_only=False))
    assert anything.looks_frontal
    assert not anything.notes
    assert decode_radiograph(encode(CHEST), "x").looks_frontal


@pytest.mark.parametrize("encode", [png_bytes, dicom_bytes])
def test_what_has_no_greys_is_refused(encode):
    """Fault: masks that lie beside images, or empty exposures, segmented as chests."""
    for drawing in (np.uint8(255) * (CHEST > 127), np.full((40, 36), 7, np.uint8)):
        with pytest.raises(DataError, match=r"^x: has next to no greys .*; leave it out"):
            decode_radiograph(encode(drawing), "x")
        decode_radiograph(encode(drawing), "x", ReadOptions(frontal_only=False))


def test_jpeg_is_read_and_a_cut_one_refused():
    """Fault: the missing rows of a half-copied file filled with grey, as if it were lung."""
    buffer = io.BytesIO()
    Image.fromarray(CHEST).save(buffer, "JPEG", quality=95)
    whole = buffer.getvalue()
    np.testing.assert_allclose(decode_radiograph(whole, "a.jpg").pixels, CHEST / 255, atol=0.12)
    with pytest.raises(DataError, match=r"^a\.jpg: broken JPEG file"):
        decode_radiograph(whole[: len(whole) // 2], "a.jpg")


def test_arrays_are_scaled_by_their_type_and_inverted_where_they_must_be():
    """Fault: 12 bits in words of 16, or grey values in words of 64, that become black."""
    bright = CHEST.copy()
    bright[0, 0] = 255
    for array in (bright, bright.astype(np.int64), bright / 255, bright.astype(np.uint16) * 257):
        np.testing.assert_allclose(radiograph_of(array).pixels, bright / 255, atol=1e-6)
    twelve = bright.astype(np.uint16) * 16
    np.testing.assert_allclose(radiograph_of(twelve).pixels, twelve / 4095, atol=1e-6)
    negative = radiograph_of(255 - CHEST)
    np.testing.assert_allclose(negative.pixels, CHEST / 255, atol=1e-6)
    assert "inverted" in " ".join(negative.notes)


@pytest.mark.parametrize("value", [np.nan, -0.1, 255.0])
def test_arrays_out_of_range_are_refused(value: float):
    """Fault: NaN or grey values up to 255 in floats taken for intensities."""
    array = (CHEST / 255).astype(np.float32)
    array[0, 0] = value
    with pytest.raises(DataError, match=r"out of \[0, 1\]"):
        radiograph_of(array)


def test_an_array_that_masks_some_pixels_is_refused():
    """Fault: what the mask hides segmented as if it were part of the image."""
    with pytest.raises(DataError, match="array: is masked; fill it"):
        as_array(np.ma.masked_greater(CHEST, 127))
    np.testing.assert_array_equal(as_array(np.ma.array(CHEST)), CHEST)


def test_an_array_of_something_else_is_no_chest():
    """Fault: only files are looked at."""
    assert not radiograph_of(np.tile(np.linspace(0, 1, 200, np.float32), (200, 1))).looks_frontal


def test_what_makes_a_image_of_an_array_is_said():
    """Fault: a user who has to guess which axis or which scale is meant."""
    for axis in (0, -1):
        with pytest.raises(DataError, match=r"; .*array\.squeeze\(\) has the shape \(120, 110\)"):
            radiograph_of(np.expand_dims(np.zeros((120, 110)), axis))
    with pytest.raises(DataError, match=r"0 to 255; divide floats by .*255"):
        radiograph_of(np.float32([[0, 255]]))
    with pytest.raises(
        DataError, match=r"; .*array\[\.\.\., 0\], if red, green and blue are equal"
    ):
        radiograph_of(np.zeros((120, 110, 3), np.uint8))
    with pytest.raises(DataError, match=r"; .*if these are a file's bytes, bytes\(image\)"):
        radiograph_of(as_array(bytearray(b"\x89PNG")))
    with pytest.raises(DataError, match=r"type bfloat16; .*array\.astype\(numpy\.float32\)"):
        radiograph_of(as_array(jnp.zeros((120, 110), jnp.bfloat16)))


@pytest.mark.parametrize(
    "image", [io.BytesIO(b"x"), Dataset(), ["1.png", "2.png"], None], ids=lambda x: type(x).__name__
)
def test_what_is_no_array_is_named(image: object):
    """Fault: an upload or a DICOM data set is said to be an array of shape (), with no way out."""
    refusal = rf"^image: is of type {type(image).__name__}; give one path, .*file\.read\(\)"
    with pytest.raises(DataError, match=refusal):
        as_array(image)


@pytest.mark.parametrize(
    "array",
    [np.zeros((40, 36, 3), np.uint8), np.zeros(9), np.zeros((9, 9), bool), np.zeros((0, 9))],
)
def test_arrays_that_are_no_grey_image_are_refused(array: np.ndarray):
    """Fault: a colour image that ends in an error of NumPy's."""
    with pytest.raises(DataError, match=r"^array: (is of shape|has 0 pixels)"):
        radiograph_of(array)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_images_are_turned_as_their_tag_says(tag: int, kind: str):
    """Fault: an image that viewers show upright read upside down or mirrored."""
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x112] = tag
    stored = Image.fromarray(chest(120, 110, 0)[0])
    stored.save(buffer, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    found = decode_radiograph(buffer.getvalue(), "a", ReadOptions(frontal_only=False))
    # Pillow's own way to turn an image.
    expected = np.asarray(ImageOps.exif_transpose(Image.open(buffer, formats=[kind])))
    if "inverted" in " ".join(found.notes):
        expected = 255 - expected
    np.testing.assert_allclose(found.pixels, expected / 255, atol=1e-6)
    back = found.orientation.to_stored(found.pixels)
    assert back.shape == (120, 110)
    assert ("Exif" in " ".join(found.notes)) == (tag != 1)
