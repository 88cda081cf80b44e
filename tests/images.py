"""Small image files for tests."""

import copy
import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import RLELosslessEncoder
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tfds_builder.phantom import Phantom, generate_phantom

# The data for development beside the repository, absent from most checkouts.
SHARED = Path(__file__).parents[2] / "shared" / "data"

LOSSLESS = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
)

PATIENT_NAME = "Roe^Jane"
PATIENT_ID = "MRN-4711"

# Images of the small data set; MCUCXR_0113 and MCUCXR_0117 show the same patient.
KAGGLE_STEMS = (
    *(f"CHNCXR_{number:04d}_{number % 2}" for number in range(1, 13)),
    *(f"MCUCXR_{number:04d}_{number % 2}" for number in range(1, 7)),
    "MCUCXR_0113_1",
    "MCUCXR_0117_1",
)
KAGGLE_UNLABELLED = ("CHNCXR_0901_0", "CHNCXR_0902_1")


def png_bytes(pixels: np.ndarray, mode: str | None = None, **options: Any) -> bytes:
    """A PNG file, of a Pillow mode where the array alone does not tell."""
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, "PNG", **options)
    return buffer.getvalue()


def chest(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """8-bit grey pixels with noise, and their anti-aliased mask of two lungs."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.minimum(
        *(np.hypot((rows / height - 0.4) / 0.3, (columns / width - x) / 0.15) for x in (0.3, 0.7))
    )
    mask = np.clip((1 - distance) * min(height, width) * 0.15 + 0.5, 0, 1)
    noise = np.random.default_rng(seed).integers(0, 60, (height, width))
    return (150 - 90 * mask + noise).astype(np.uint8), np.rint(mask * 255).astype(np.uint8)


@functools.cache
def shared_phantom(seed: int, index: int) -> Phantom:
    """A phantom that is made once for all tests of a process, which cannot change its arrays."""
    phantom = generate_phantom(seed, index)
    for array in (phantom.image, phantom.left_lung, phantom.right_lung):
        array.flags.writeable = False
    return phantom


def write_kaggle(root: Path, height: int = 40, width: int = 36) -> Path:
    """Writes the layout of Kaggle's archive in small; returns the folder with both subfolders."""
    tree = root / "Lung Segmentation"
    for name in ("CXR_png", "masks", "test"):
        (tree / name).mkdir(parents=True)
    for seed, stem in enumerate((*KAGGLE_STEMS, *KAGGLE_UNLABELLED)):
        # Sizes differ as those of the originals do.
        image, mask = chest(height + seed, width + 2 * seed, seed)
        (tree / "CXR_png" / f"{stem}.png").write_bytes(png_bytes(image))
        if stem in KAGGLE_STEMS:
            suffix = "_mask" if stem.startswith("CHNCXR") else ""
            (tree / "masks" / f"{stem}{suffix}.png").write_bytes(png_bytes(mask))
    return tree


def dicom_bytes(
    stored: np.ndarray,
    attributes: Mapping[str, Any] | None = None,
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> bytes:
    """A DICOM file of 12 bits in 16 (8 in 8 for bytes), signed where `stored` is."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.PatientID = PATIENT_NAME, PATIENT_ID
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = 8 * stored.itemsize
    dataset.BitsStored = 12 if stored.itemsize == 2 else 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    big_endian = transfer_syntax == ExplicitVRBigEndian
    # Bytes in words would change places there.
    vr = "OB" if big_endian and stored.itemsize == 1 else "OW"
    dataset.add_new(
        "PixelData", vr, stored.astype(stored.dtype.newbyteorder("<>"[big_endian])).tobytes()
    )
    for keyword, value in (attributes or {}).items():
        if value is None:
            del dataset[keyword]
        elif big_endian and keyword.endswith("LUTSequence"):
            setattr(dataset, keyword, [_with_swapped_words(item) for item in value])
        else:
            setattr(dataset, keyword, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def _with_swapped_words(item: Dataset) -> Dataset:
    """An item of `lut_item` for a big-endian file, where pydicom writes words as they stand."""
    item = copy.deepcopy(item)
    if item["LUTData"].VR == "OW":
        item.LUTData = np.frombuffer(item.LUTData, "<u2").byteswap().tobytes()
    return item


def compressed_dicom_bytes(
    stored: np.ndarray,
    stream: bytes,
    transfer_syntax: UID,
    attributes: Mapping[str, Any] | None = None,
) -> bytes:
    """A DICOM file of `dicom_bytes` whose pixels are a compressed stream instead."""
    dataset = pydicom.dcmread(io.BytesIO(dicom_bytes(stored, attributes)))
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def encoded_dicom_bytes(
    stored: np.ndarray, attributes: Mapping[str, Any], transfer_syntax: UID
) -> bytes:
    """A DICOM file under any of `LOSSLESS`; `attributes` state BitsStored."""
    if not transfer_syntax.is_encapsulated:
        return dicom_bytes(stored, attributes, transfer_syntax)
    words = stored.view(f"u{stored.itemsize}") & (2 ** attributes["BitsStored"] - 1)
    if transfer_syntax == RLELossless:
        stream = RLELosslessEncoder.encode(
            words.tobytes(),
            rows=words.shape[0],
            columns=words.shape[1],
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=8 * words.itemsize,
            bits_stored=8 * words.itemsize,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
        )
    elif transfer_syntax == JPEG2000Lossless:
        stream = imagecodecs.jpeg2k_encode(words, codecformat="j2k", reversible=True, level=0)
    elif transfer_syntax == JPEGLSLossless:
        stream = imagecodecs.jpegls_encode(words)
    else:
        stream = imagecodecs.ljpeg_encode(words, bitspersample=8 * words.itemsize)
    return compressed_dicom_bytes(stored, stream, transfer_syntax, attributes)


def without_meta_header(content: bytes) -> bytes:
    """The data set of a DICOM file alone: neither preamble nor meta header."""
    return content[144 + int.from_bytes(content[140:144], "little") :]


def lut_item(first: int, bits: int, table: np.ndarray, vr: str = "OW") -> Dataset:
    """An item of a Modality or VOI LUT Sequence; the table's type is how its entries are kept."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(table), first, bits])
    if vr == "OW":
        item.add_new("LUTData", "OW", table.astype(table.dtype.newbyteorder("<")).tobytes())
    else:
        item.add_new("LUTData", vr, table.astype("<u2").tolist())
    return item
