"""Every fault of a folder of records found by name, none in a whole one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.png import encode_png
from lungseg_jax.imaging.structures import Structure
from tests.stored import claiming, raw_records, read_split, rewrite, shard, write_records
from tfds_builder.data_report import write_data_report
from tfds_builder.manifest import MANIFEST, FileDigest, digest_file, read_manifest, write_manifest
from tfds_builder.records_folder import open_folder
from tfds_builder.verify import main, verify


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return write_records(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "records"))


def found(folder: Path) -> dict[tuple[str, str], str]:
    return {(fault.subject, fault.field): fault.fault for fault in verify(folder)}


def change_first(folder: Path, split: str = "test", **fields) -> str:
    """Gives the first record of a split other fields; returns its id."""
    example_id = read_split(folder, split)[0]["example_id"]

    def change(records):
        return [records[0] | fields, *records[1:]]

    rewrite(folder, split, change)
    return fields.get("example_id", example_id)


def test_a_whole_folder_has_no_fault(whole, capsys):
    """Fault: an alarm on good records, after which nobody heeds alarms."""
    assert verify(whole) == []
    assert main(["verify", str(whole)]) == 0
    said = capsys.readouterr().out
    assert "20 records" in said
    assert said.count("\n") == 1


def test_records_written_anew_without_a_change_are_whole(folder):
    """Fault: the tests below provoke something else than what they name."""
    change_first(folder)
    assert verify(folder) == []


def test_manifest_is_read_as_written(folder):
    """Fault: a field lost between writing and reading, or a digest of other bytes."""
    files = {"b.png": FileDigest("0" * 64, 5), "a/c.png": FileDigest("f" * 64, 7)}
    written = write_manifest(folder, files)
    assert read_manifest(folder) == written
    assert written.files == files
    assert sum(written.counts.values()) == 20
    assert len(written.records) == 5
    (folder / "empty").write_bytes(b"")
    # The digest of no bytes, as FIPS 180-4's test vectors have it.
    assert digest_file(folder / "empty").sha256.startswith("e3b0c44298fc1c149afbf4c8996fb924")


def test_a_folder_of_other_things_is_not_called_damaged(folder, capsys):
    """Fault: the folder above the records, given by mistake, reads like a loss of data."""
    assert main(["verify", str(folder.parent)]) == 1
    assert "holds no records; give the folder" in capsys.readouterr().err
    # Fault: records that lost all but their shards, taken for a mistyped folder.
    for name in ("manifest.json", "dataset_info.json", "features.json"):
        (folder / name).unlink()
    assert main(["verify", str(folder)]) == 1
    assert "manifest.json: absent" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "{", "[]", '{"files": {}}', '{"files": 3}'])
def test_absent_or_broken_manifest_is_a_fault(folder, content):
    """Fault: records that cannot be compared with anything pass as whole."""
    (folder / "manifest.json").unlink()
    if content is not None:
        (folder / "manifest.json").write_text(content)
    assert set(found(folder)) == {("manifest.json", "")}


def test_a_flipped_byte_names_file_and_record(folder):
    """Fault: a rotten disk goes unnoticed until training crashes on it."""
    path = shard(folder, "train")
    content = bytearray(path.read_bytes())
    record = raw_records(path)[3]
    # Rows of a padded or black frame may be there many times.
    windows = (record[start : start + 64] for start in range(len(record) - 64))
    position = content.index(next(window for window in windows if content.count(window) == 1))
    content[position + 30] ^= 0xFF
    path.write_bytes(content)
    faults = found(folder)
    assert "checksum" in faults[path.name, ""]
    assert "cannot be read" in faults[f"record 3 of {path.name}", ""]
    assert len(faults) == 2


def test_a_dropped_shard_is_named(folder):
    """Fault: a copy that was interrupted looks like a smaller set."""
    path = shard(folder, "val")
    path.unlink()
    faults = verify(folder)
    assert {fault.subject for fault in faults} == {path.name}
    assert any("missing" in fault.fault for fault in faults)


@pytest.mark.parametrize("kept", [0, 1000, 66000])
def test_a_cut_shard_is_named(folder, kept):
    """Fault: ArrayRecord takes a file without its end for one without records."""
    path = shard(folder, "train")
    path.write_bytes(path.read_bytes()[:kept])
    assert {fault.subject for fault in verify(folder)} == {path.name}


def test_a_shard_of_another_split_is_named(folder):
    """Fault: test images in training."""
    shutil.copy(shard(folder, "test"), shard(folder, "val"))
    write_manifest(folder, {})
    faults = found(folder)
    assert "records where dataset_info.json states" in faults[shard(folder, "val").name, ""]
    record = read_split(folder, "test")[0]
    assert "2 records" in faults[record["example_id"], "example_id"]
    assert faults[f"patient {record['patient_id']}", "patient_id"] == "is in test and val"


def test_an_additional_shard_is_named(folder):
    """Fault: a file that a reader by pattern would take in."""
    extra = folder / shard(folder, "val").name.replace("00000-of", "00001-of")
    shutil.copy(shard(folder, "val"), extra)
    assert set(found(folder)) == {(extra.name, "")}


def test_a_count_that_differs_is_named(folder):
    """Fault: records lost between the build and its own account."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content["counts"]["val"] += 1
    # Fault: a split that dataset_info.json has lost looks like one that never was.
    content["counts"]["more"] = 3
    path.write_text(json.dumps(content))
    assert set(found(folder)) == {("val", ""), ("more", "")}


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_description_is_a_fault(folder, name):
    """Fault: a traceback of TFDS instead of a name."""
    (folder / name).write_text("{")
    faults = found(folder)
    assert (name, "") in faults
    assert any("damaged" in fault or "is damaged" in fault for fault in faults.values())


@pytest.mark.parametrize("form", ["pythonClassName", "python_class_name", "type", "json"])
def test_records_do_not_run_code(folder, monkeypatch, form: str):
    """Fault: whoever sends records has the machine that checks them run what they like."""
    ran = folder.parent / "ran"
    (folder.parent / "sent_with_them.py").write_text(f"open({str(ran)!r}, 'w').close()")
    monkeypatch.syspath_prepend(folder.parent)
    path = folder / "features.json"
    content = json.loads(path.read_text())
    name, base = "sent_with_them.Field", "tensorflow_datasets.core.features."
    field = {"pythonClassName": name, "text": {}}
    if form == "python_class_name":
        field = {form: name, "text": {}}
    if form == "type":
        field = {"type": name, "content": {}}
    if form == "json":
        inner = {"feature": {"type": name, "content": {}}, "length": None}
        field = {
            "pythonClassName": f"{base}sequence_feature.Sequence",
            "jsonFeature": {"json": json.dumps(inner)},
        }
    if form == "type":
        content = field
    else:
        content["featuresDict"]["features"]["finding"] = field
    path.write_text(json.dumps(content))
    assert "is damaged" in " ".join(fault.fault for fault in verify(folder))
    assert not ran.exists()


def test_records_as_tfrecord_are_called_so(folder):
    """Fault: whole records are called lost by the check, and end the report in a traceback."""
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    for path in folder.glob("*array_record*"):
        path.rename(folder / path.name.replace("array_record", "tfrecord"))
    (folder / MANIFEST).unlink()
    for work in (open_folder, write_data_report):
        with pytest.raises(DataError, match="holds records as tfrecord, which TFDS alone reads"):
            work(folder)
    faults = [fault.fault for fault in verify(folder)]
    assert any("holds records as tfrecord" in fault for fault in faults)
    assert not any("lost" in fault for fault in faults)


def test_records_of_an_earlier_version_are_called_so(whole, tmp_path):
    """Fault: sound records called damaged, or a traceback, for a field that came later."""
    folder = shutil.copytree(whole, tmp_path / "records")
    features = folder / "features.json"
    content = json.loads(features.read_text())
    del content["featuresDict"]["features"]["field"]
    features.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"holds records of version \S+; remove the folder"):
        open_folder(folder)
    assert any("holds records of version" in fault.fault for fault in verify(folder))
    # Fault: records that runs of that version need removed, or no word on what to do about them.
    assert any("if no run of that version needs it" in fault.fault for fault in verify(folder))


SQUARE, ORIGINAL = np.zeros((64, 64), np.uint8), np.zeros((90, 80), np.uint8)


@pytest.mark.parametrize(
    ("fields", "field", "fault"),
    [
        ({"original_size": np.array([9, 9], np.int32)}, "original_size", "is 9 x 9"),
        ({"original_size": np.array([0, 9], np.int32)}, "original_size", "not positive"),
        ({"field": np.array([0, 1, 9, 999], np.int32)}, "field", "not lie within"),
        ({"field": np.array([0, 0, 45, 40], np.int32)}, "mask", "differs from original_mask"),
        ({"image": np.full((64, 64), 700, np.uint16)}, "image", "is empty"),
        (
            # An image of one grey in its padding.
            {
                "image": np.pad(np.full((64, 38), 700, np.uint16), ((0, 0), (13, 13))),
                "original_size": np.array([100, 60], np.int32),
                "field": np.array([0, 0, 100, 60], np.int32),
                "mask": SQUARE,
                "original_mask": np.zeros((100, 60), np.uint8),
            },
            "image",
            "is empty",
        ),
        ({"mask": SQUARE}, "mask", "differs from original_mask"),
        ({"mask": SQUARE + 2, "original_mask": ORIGINAL + 2}, "mask", "but not as lung"),
        (
            {"original_size": [90, 80], "mask": SQUARE + 33, "original_mask": ORIGINAL + 33},
            "original_mask",
            "no known",
        ),
        # As large as 3.6 gigapixels, by what it says of itself.
        ({"image": claiming(60_000, encode_png(SQUARE))}, "image", "60000 x 60000 pixels instead"),
        (
            {
                "original_size": np.array([30_000, 30_000], np.int32),
                "field": np.array([0, 0, 30_000, 30_000], np.int32),
                "original_mask": claiming(30_000, encode_png(SQUARE)),
            },
            "original_mask",
            "30000 x 30000 pixels, too many",
        ),
        (
            {"original_mask": claiming(60_000, encode_png(SQUARE))},
            "original_size",
            "original_mask has 60000 x 60000 pixels",
        ),
        ({"spacing_mm": np.array([0.2, 0.2], np.float32)}, "spacing_mm", "source is none"),
        ({"spacing_mm": np.array([0.2, 0], np.float32)}, "spacing_mm", "source is none"),
        ({"spacing_source": "calibrated"}, "spacing_mm", "not within"),
        (
            {"spacing_source": "detector", "spacing_mm": np.array([0.2, np.nan], np.float32)},
            "spacing_mm",
            "not within",
        ),
        (
            # The finest detector at the greatest magnification, and finer.
            {
                "spacing_source": "magnification-corrected",
                "spacing_mm": np.array([0.02 / 2, 0.0099], np.float32),
            },
            "spacing_mm",
            "not within 0.01",
        ),
        ({"spacing_source": "guessed"}, "spacing_source", "is none of"),
        ({"example_id": ""}, "example_id", "is empty"),
        ({"patient_id": ""}, "patient_id", "is empty"),
        ({"source": ""}, "source", "is empty"),
    ],
)
def test_a_faulty_field_is_named(folder, fields, field, fault):
    """Fault: a record that decodes and is wrong."""
    example_id = change_first(folder, **fields)
    subject = example_id or f"record 0 of {shard(folder, 'test').name}"
    faults = found(folder)
    assert fault in faults[subject, field]
    assert {name for name, _ in faults} == {subject}


def test_every_spacing_that_is_read_is_accepted(folder):
    """Fault: a fine detector's spacing, divided by the magnification, called impossible."""
    fine = np.array([0.03 / 1.9, 0.02 / 2], np.float32)
    change_first(folder, spacing_source="magnification-corrected", spacing_mm=fine)
    assert not found(folder)


@pytest.mark.parametrize("field", ["image", "mask", "original_mask"])
def test_an_image_that_does_not_decode_is_named(folder, field):
    """Fault: one broken image hides the faults of the others, or passes half decoded."""
    (first, *_) = read_split(folder, "test")
    size = first[field].shape
    content = bytearray(encode_png(np.arange(size[0] * size[1], dtype=np.uint16).reshape(size)))
    content[-40] ^= 0xFF
    example_id = change_first(folder, **{field: bytes(content), "source": ""})
    assert set(found(folder)) == {(example_id, field), (example_id, "source")}


def test_a_mask_shifted_by_a_pixel_is_named(folder):
    """Fault: half-pixel errors of resizing, invisible to the eye."""
    record = read_split(folder, "test")[0]
    example_id = change_first(folder, mask=np.roll(record["mask"], 1, axis=1))
    assert set(found(folder)) == {(example_id, "mask")}


def test_a_structure_that_one_mask_alone_has_is_named(folder):
    """Fault: a heart that is trained on and never evaluated, or the reverse."""
    for name in ("mask", "original_mask"):
        record = read_split(folder, "test")[0]
        more = record[name].copy()
        more[20:50, 20:50] |= np.uint8(Structure.HEART)
        change_first(folder, **{name: more})
        faults = found(folder)
        assert set(faults) == {(record["example_id"], "mask")}
        assert "pixels of HEART" in faults[record["example_id"], "mask"]
        change_first(folder, **{name: record[name]})


def test_a_patient_in_two_splits_is_named(folder):
    """Fault: the figures of the test split are too good."""
    patient_id = read_split(folder, "train")[0]["patient_id"]
    change_first(folder, patient_id=patient_id)
    assert found(folder) == {(f"patient {patient_id}", "patient_id"): "is in test and train"}


def test_all_faults_are_told_and_the_exit_code_is_one(folder, capsys):
    """Fault: mending one fault a run."""
    example_id = change_first(folder, image=np.full((64, 64), 7, np.uint16), source="")
    shard(folder, "val").unlink()
    assert main(["verify", str(folder)]) == 1
    said = capsys.readouterr().out
    assert f"{example_id}: image: " in said
    assert f"{example_id}: source: " in said
    assert "-val.array_record" in said
    assert f"Faults in {folder}: {len(said.splitlines()) - 1}" in said


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ([], "0 folders are given"), (["a", "b"], "2 folders are given"),
        (["a", "--seed=3"], "unknown argument '--seed=3'"),
    ],
)  # fmt: skip
def test_words_that_are_no_folder_are_one_line(words, fault, capsys):
    """Fault: a traceback, or one of two folders looked at and the other taken for whole."""
    assert main(["verify", *words]) == 1
    assert capsys.readouterr().err.startswith(f"Error: command line: {fault}; ")


def test_no_such_folder_is_one_line(tmp_path, capsys):
    """Fault: a traceback for a mistyped path."""
    with pytest.raises(DataError, match="absent"):
        verify(tmp_path / "absent")
    assert main(["verify", str(tmp_path / "absent")]) == 1
    assert capsys.readouterr().err.startswith("Error: ")


@settings(max_examples=40)
@given(st.data())
def test_any_changed_byte_is_a_fault(whole, tmp_path_factory, data):
    """Fault: an exception, or a crash, of the reader on bytes it did not expect."""
    folder = Path(shutil.copytree(whole, tmp_path_factory.mktemp("bytes") / "records"))
    path = shard(folder, "test")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content) - 8))
        content[start : start + 8] = data.draw(st.binary(min_size=8, max_size=8))
    path.write_bytes(content)
    changed = digest_file(path) != read_manifest(folder).records[path.name]
    assert any(fault.subject == path.name for fault in verify(folder)) == changed
