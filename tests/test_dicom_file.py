"""DICOM files of any make are recognised by content and parsed."""

import io
import tracemalloc

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.dicom import read_dicom
from lungseg_jax.imaging.dicom_file import is_dicom
from lungseg_jax.imaging.radiograph import ReadOptions
from tests.images import dicom_bytes, png_bytes, without_meta_header

STORED = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
RAMP = {"WindowCenter": 2048, "WindowWidth": 4096}
NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


@pytest.mark.parametrize("transfer_syntax", NATIVE)
@pytest.mark.parametrize(
    "strip",
    [
        bytes,
        lambda content: content[128:],
        lambda content: content[132:],
        without_meta_header,
        lambda content: content[:132] + without_meta_header(content),
    ],
    ids=["whole", "no preamble", "no prefix", "data set alone", "no meta header"],
)
def test_files_lacking_parts_are_read(transfer_syntax, strip):
    """Fault: files straight from an old device, without preamble or meta header, left out."""
    content = strip(dicom_bytes(STORED, RAMP, transfer_syntax))
    assert is_dicom(content)
    np.testing.assert_allclose(read_dicom(content, "x").pixels, STORED / 4095, atol=1e-6)


def test_a_meta_header_without_transfer_syntax():
    """Fault: a file refused for the one attribute that can be seen from its bytes."""
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(STORED, RAMP)))
    del dataset.file_meta.TransferSyntaxUID
    buffer = io.BytesIO()
    dataset.save_as(buffer, implicit_vr=False, little_endian=True, enforce_file_format=False)
    np.testing.assert_allclose(read_dicom(buffer.getvalue(), "x").pixels, STORED / 4095, atol=1e-6)


@pytest.mark.parametrize(
    "content",
    [b"", b"DIC", bytes(200), b"<html>" * 50, png_bytes(STORED), b"GIF89a" * 50, b"\x08\0" * 4,
     "Jane Roe, chest PA: no finding. ".encode("utf-16") * 9],
)  # fmt: skip
def test_other_content_is_not_dicom(content):
    """Fault: any file taken for DICOM and reported as a broken one."""
    assert not is_dicom(content)


def test_deflated_files_do_not_inflate_without_bound():
    """Fault: a file of a megabyte that fills the memory."""
    zeros = {"PixelData": bytes(2**28)}
    content = dicom_bytes(STORED, zeros, DeflatedExplicitVRLittleEndian)
    assert len(content) < 2**20
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="inflates beyond"):
            read_dicom(content, "x", ReadOptions(max_pixels=64))
        assert tracemalloc.get_traced_memory()[1] < 2**27.5
    finally:
        tracemalloc.stop()
