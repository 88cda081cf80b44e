"""Fields of records, read by a shorter way than TFDS's own."""

import os
import resource
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lungseg_jax.errors import DataError, UserError
from lungseg_jax.imaging.png import encode_png
from lungseg_jax.runtime.threads import check_threads_for_records
from tests.stored import claiming, read_split, rewrite, shard, write_records
from tfds_builder.fields import Fields
from tfds_builder.verify import verify


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records"))


def test_fields_are_what_tfds_reads(folder):
    """Fault: bytes swapped, bits cut, channels or an order other than TFDS's own."""
    builder: Any = tfds.builder_from_directory(folder)
    whole = builder.as_data_source("train")
    names = list(builder.info.features)
    fields = Fields(builder, "train", *names)
    backwards = list(range(len(fields)))[::-1]
    assert len(fields) == len(whole) > 1
    for record, position in zip(fields.read(backwards), backwards, strict=True):
        assert record.keys() == whole[position].keys()
        for name in names:
            expected = whole[position][name]
            np.testing.assert_array_equal(record[name], expected)
            assert np.asarray(record[name]).dtype == np.asarray(expected).dtype
            assert np.shape(record[name]) == np.shape(expected)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("image", claiming(70, encode_png(np.zeros((64, 64), np.uint16)))),
        ("original_mask", claiming(30_000, encode_png(np.zeros((90, 80), np.uint8)))),
        # A JPEG that has a PNG's numbers where a PNG has them.
        (
            "image",
            b"\xff\xd8\xff\xfe\x00\x40".ljust(16, b"x") + struct.pack(">II", 64, 64) + bytes(99),
        ),
    ],
)
def test_what_claims_to_be_larger_is_not_decoded(tmp_path, monkeypatch, name: str, content: bytes):
    """Fault: a record of a few bytes that fills the memory of whoever trains or looks at it."""
    folder = write_records(tmp_path)
    rewrite(folder, "test", lambda records: [records[0] | {name: content}, *records[1:]])
    decoded = []
    monkeypatch.setattr("tfds_builder.fields.cv2.imdecode", lambda *_: decoded.append(1))
    fields = Fields(tfds.builder_from_directory(folder), "test", name)
    with pytest.raises(DataError, match="is damaged"):
        fields.read([0])
    assert not decoded


def test_other_fields_are_read_from_the_same_open_shards(folder):
    """Fault: each choice of fields opens every shard again, up to the limit of open files."""
    fields = Fields(tfds.builder_from_directory(folder), "train", "image")
    (image,) = fields.read([1])
    before = len(list(Path("/proc/self/fd").iterdir()))
    (mask,) = fields.select("mask", "example_id").read([1])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert (set(image), set(mask)) == ({"image"}, {"mask", "example_id"})
    assert set(fields.read([1])[0]) == {"image"}


def test_only_what_was_asked_for_is_decoded(tmp_path):
    """Fault: time for masks of full size, which training has no use for, and no word of damage."""
    folder = write_records(tmp_path)
    broken = encode_png(np.zeros((9, 9), np.uint8))[:40]
    rewrite(
        folder, "test", lambda records: [record | {"original_mask": broken} for record in records]
    )
    builder = tfds.builder_from_directory(folder)
    (record,) = Fields(builder, "test", "image", "example_id").read([0])
    assert set(record) == {"image", "example_id"}
    with pytest.raises(DataError, match=r"test split is damaged .*verify"):
        Fields(builder, "test", "original_mask").read([0])


def test_a_share_that_fails_is_no_damage(folder, monkeypatch):
    """Fault: advice to remove whole records because the network was gone for a moment."""
    fields = Fields(tfds.builder_from_directory(folder), "train", "image")
    text = "pread() failed: Stale file handle; reading /a.array_record; at byte 10929"
    monkeypatch.setattr(fields, "_records", _Failing(RuntimeError(text)))
    with pytest.raises(DataError, match=r"cannot be read .*Stale file handle") as refused:
        fields.read([0])
    assert "remove" not in str(refused.value)


def _first_image(folder: Path) -> None:
    Fields(tfds.builder_from_directory(folder), "train", "image").read([0])


class _Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getitem__(self, _: int) -> bytes:
        raise self._error


@pytest.mark.parametrize("read", [_first_image, verify])
def test_too_few_threads_for_records_are_told(folder, monkeypatch, read):
    """Fault: a command that hangs for ever where threads are few, because ArrayRecord waits."""
    start, most = threading.Thread.start, threading.active_count() + 40

    def start_some(thread: threading.Thread) -> None:
        if threading.active_count() == most:
            raise RuntimeError("can't start new thread")
        start(thread)

    check_threads_for_records.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_some)
        with pytest.raises(UserError, match=r"^threads: .* only [1-4]\d? .*ulimit -u"):
            read(folder)
    assert threading.active_count() < most
    read(folder)


def test_more_shards_than_open_files_are_no_damage(folder):
    """Fault: hours of building again because of a limit that one command raises."""
    builder = tfds.builder_from_directory(folder)
    fields = Fields(builder, "train", "image")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(DataError, match=r"more shards than files .* ulimit -n"):
            fields.read([0])
        # Anew, which raises the limit: ArrayRecord does not try a shard again.
        assert len(Fields(builder, "train", "image").read([0])) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_rotten_byte_names_the_folder(tmp_path):
    """Fault: hours of training end in a traceback of ArrayRecord."""
    folder = write_records(tmp_path)
    path = shard(folder, "train")
    content = bytearray(path.read_bytes())
    image = read_split(folder, "train")[1]["image"]
    content[content.index(image[40].astype(">u2").tobytes())] ^= 0xFF
    path.write_bytes(content)
    fields = Fields(tfds.builder_from_directory(folder), "train", "image")
    with pytest.raises(DataError) as caught:
        fields.read(range(len(fields)))
    assert str(folder) in str(caught.value)
