"""The content decides what a file is, and refusals say what it seems to be."""

import numpy as np
import pytest

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.files import is_dicom, read_radiograph
from tests.pictures import dicom_bytes, png_bytes

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
WINDOW = {"WindowCenter": 128, "WindowWidth": 256}


@pytest.mark.parametrize("name", ["picture.png", "picture.dcm", "IM000001"])
@pytest.mark.parametrize("content", [png_bytes(GREY), dicom_bytes(GREY, WINDOW)])
def test_the_name_does_not_matter(tmp_path, name, content):
    """Archives name DICOM files without an ending, and rename PNG to .dcm."""
    (tmp_path / name).write_bytes(content)
    pixels = read_radiograph(tmp_path / name).pixels
    np.testing.assert_allclose(pixels, GREY / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "seems"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html><body>Log in to Jane Roe's archive</body></html>", "a web page"),
        (b"\xef\xbb\xbf\n<HTML><body>not found</body></HTML>", "a web page"),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "a web page"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 200, "a JPEG picture"),
        (b"GIF89a" + b"\0" * 200, "of unknown format"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path, content, seems):
    """Web pages saved as .dcm come with real downloads; 'does not decode' hides why."""
    path = tmp_path / "scan.dcm"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_radiograph(path)
    assert str(caught.value) == f"scan.dcm: is {seems}, neither DICOM nor PNG; leave it out"


def test_a_broken_dicom_file_is_still_called_dicom(tmp_path):
    """The fault of the file must not be taken for a wrong format."""
    path = tmp_path / "scan.dcm"
    path.write_bytes(dicom_bytes(GREY)[:-30])
    assert is_dicom(path.read_bytes())
    with pytest.raises(DataError, match=r"^scan\.dcm: pixels do not decode"):
        read_radiograph(path)


@pytest.mark.parametrize("name", ["absent.png", "folder"])
def test_unreadable_paths_are_data_errors(tmp_path, name):
    """A typing error in a path must not end in a traceback."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=f"{name}: .*; check path and permissions$"):
        read_radiograph(tmp_path / name)
