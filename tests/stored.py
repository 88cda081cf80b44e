"""Small folders of finished records, and records in them written anew."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorflow_datasets.core import example_serializer

from lungseg_jax.imaging.png import encode_png
from tests.images import write_kaggle
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import LungsConfig
from tfds_builder.duplicates import Fingerprint, Fingerprints, Pair
from tfds_builder.manifest import write_manifest
from tfds_builder.prepare import prepare
from tfds_builder.records_folder import open_folder, read_records

IMAGES = ("image", "mask", "original_mask")


def write_records(root: Path, size: int = 64) -> Path:
    """Builds small records with their manifest and returns their folder."""
    write_kaggle(root / "raw", height=90, width=80)
    config = LungsConfig(source="kaggle", image_size=size)
    folder = Path(prepare(config, root / "data", root / "raw").data_path)
    write_manifest(folder, {})
    return folder


def shard(folder: Path, split: str) -> Path:
    """The only shard of a split."""
    (path,) = folder.glob(f"*-{split}.array_record-*")
    return path


def read_split(folder: Path, split: str) -> list[dict[str, Any]]:
    """The records of a split with images as arrays of rows and columns, texts as `str`."""
    records: Any = tfds.builder_from_directory(folder).as_data_source(split)
    return [{name: _plain(value) for name, value in record.items()} for record in records]


def example(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A decoded record as a reader hands it out."""
    rng = np.random.default_rng(number)
    mask = np.zeros((32, 32, 1), np.uint8)
    mask[8:24, 4:14], mask[8:24, 18:28] = 3, 5
    return {
        "image": rng.integers(0, 65536, (32, 32, 1), dtype=np.uint16),
        "mask": mask,
        "example_id": f"example {number}".encode(),
        "patient_id": f"patient {number}".encode(),
        "source": b"montgomery",
        "finding": b"normal",
        "sex": b"",
        "age_years": np.float32(np.nan),
        "original_size": np.array([300, 300], np.int32),
        "field": np.array([0, 0, 300, 300], np.int32),
        "spacing_mm": np.array([0.2, 0.3], np.float32),
        "spacing_source": b"calibrated",
    } | fields


def pairs_in(folder: Path) -> list[Pair]:
    """The pairs of images in a folder of records that show the same."""
    fingerprints = Fingerprints()
    for split, record, seen in read_records(open_folder(folder), Fingerprint.of):
        fingerprints.add(split, record, seen)
    return fingerprints.pairs()


def rewrite(
    folder: Path, split: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
) -> None:
    """Writes a split's records anew after a change, and the manifest with them."""
    records = change(read_split(folder, split))
    features: Any = tfds.builder_from_directory(folder).info.features
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    path = shard(folder, split)
    path.unlink()
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        files = {name: _file(record[name]) for name in IMAGES}
        writer.write(serializer.serialize_example(features.encode_example(record | files)))
    writer.close()
    write_manifest(folder, {})


def raw_records(path: Path) -> list[bytes]:
    """The records of a shard as they are stored."""
    reader = ArrayRecordReader(str(path))
    return reader.read_all()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value[..., 0] if np.ndim(value) == 3 else value


def _file(image: np.ndarray | bytes) -> bytes:
    """A file as given, or pixels as one."""
    return image if isinstance(image, bytes) else encode_png(image)


def claiming(side: int, content: bytes) -> bytes:
    """A PNG whose header states another size, with the right checksum."""
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
