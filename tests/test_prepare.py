"""Records on disk: equal to the files, never stale, never half."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath

from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.mask_file import read_mask
from lungseg_jax.imaging.radiograph import ReadOptions
from tests.images import KAGGLE_STEMS, chest, png_bytes, write_kaggle
from tfds_builder import prepare as prepare_module
from tfds_builder.build_lock import one_build_at_a_time
from tfds_builder.build_report import REPORT, read_build_report
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import LungsConfig
from tfds_builder.conversion import Conversion, describe_case
from tfds_builder.convert_case import ConvertSettings, convert_case
from tfds_builder.manifest import MANIFEST, read_manifest
from tfds_builder.prepare import fingerprint, prepare
from tfds_builder.sources import Clinical, list_source

CONFIG = LungsConfig(source="kaggle", image_size=32)


def read_all(builder) -> dict[str, dict[str, Any]]:
    records = [record for split in builder.info.splits for record in builder.as_data_source(split)]
    return {record["example_id"].decode(): record for record in records}


def prepared(data_dir: Path) -> list[Path]:
    """Folders that TFDS takes for whole data sets."""
    return sorted(data_dir.glob("chest_xray_lungs/*/*/dataset_info.json"))


def test_records_read_back_equal_what_went_in(tmp_path):
    """A codec that loses bits, or a field of another example, would spoil every figure."""
    write_kaggle(tmp_path / "raw")
    records = read_all(prepare(CONFIG, tmp_path / "data", tmp_path / "raw"))
    cases = {case.example_id: case for case in list_source("kaggle", tmp_path / "raw").cases}
    assert sorted(records) == sorted(KAGGLE_STEMS)
    for example_id, record in records.items():
        original = cases[example_id].masks[0].path.read_bytes()
        np.testing.assert_array_equal(record["original_mask"][..., 0], read_mask(original, "x"))
        _, wanted = convert_case(cases[example_id], ConvertSettings(32, b"", ReadOptions()))
        assert wanted is not None
        np.testing.assert_array_equal(record["mask"][..., 0], read_mask(wanted["mask"], "x"))
        assert record["image"].dtype == np.uint16
        assert record["image"].max() > 255
        for name in ("original_size", "spacing_mm"):
            np.testing.assert_array_equal(record[name], np.float32(wanted[name]))
        for name in ("patient_id", "source", "finding", "spacing_source"):
            assert record[name].decode() == wanted[name]


def test_phantoms_are_prepared_from_nothing(tmp_path):
    """The default configuration must run on a fresh machine."""
    config = LungsConfig(source="phantom", image_size=32, num_phantoms=10)
    records = read_all(prepare(config, tmp_path, ""))
    assert len(records) == 10
    for record in records.values():
        mask = record["mask"][..., 0] > 0
        assert 0.05 < mask.mean() < 0.6
        assert not record["patient_id"].startswith(b"PHANTOM")


def test_a_user_without_a_name_builds_records(tmp_path, monkeypatch):
    """Fault: builds end in a traceback in containers, which often run under a bare number."""
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    monkeypatch.setattr("grp.getgrgid", {}.__getitem__)
    write_kaggle(tmp_path / "raw")
    assert len(read_all(prepare(CONFIG, tmp_path / "data", tmp_path / "raw"))) == len(KAGGLE_STEMS)


def test_records_are_not_written_to_a_path_that_is_not_utf8():
    """Fault: records in a folder of another name than their description, or a traceback."""
    with pytest.raises(ConfigError, match="not in UTF-8"):
        prepare(LungsConfig(source="phantom", image_size=32), os.fsdecode(b"/d\xfc"), "")


def test_records_of_fewer_phantoms_are_not_made(tmp_path):
    """Fault: another data set under the same name, after the phantoms were cleaned in part."""
    config = LungsConfig(source="phantom", image_size=32, num_phantoms=10)
    prepare(config, tmp_path, "")
    for path in (tmp_path / "downloads").rglob("phantom_00003.*"):
        path.unlink()
    with pytest.raises(DataError, match="3 of its 30 files are missing or empty"):
        prepare(dataclasses.replace(config, image_size=64), tmp_path, "")


def test_other_phantoms_give_new_records(monkeypatch):
    """Fault: phantoms that are generated in another way now, trained on as they were."""
    config = LungsConfig(source="phantom", image_size=32, num_phantoms=10)
    before = fingerprint(config, None)
    monkeypatch.setattr("tfds_builder.phantom_files.VERSION", 1000)
    assert fingerprint(config, None) != before


@pytest.mark.parametrize("field", dataclasses.fields(ReadOptions), ids=lambda field: field.name)
def test_files_that_are_read_in_another_way_give_new_records(field):
    """Fault: lateral views, or images of the wrong polarity, kept after the key was changed."""
    default = getattr(ReadOptions(), field.name)
    other = not default if isinstance(default, bool) else default // 2
    reading = dataclasses.replace(ReadOptions(), **{field.name: other})
    changed = dataclasses.replace(CONFIG, reading=reading)
    assert fingerprint(changed, []) != fingerprint(CONFIG, [])


@pytest.mark.parametrize(
    "change",
    [
        {"example_id": "other"},
        {"patient_id": "other"},
        {"patient_is_secret": True},
        {"source": "other"},
        {"spacing_mm": (0.1, 0.2)},
        {"clinical": Clinical(reading="scar")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_case_that_is_listed_otherwise_gives_new_records(tmp_path, change):
    """Fault: old patients, and with them old splits, kept after a list of pairs was corrected."""
    write_kaggle(tmp_path)
    case = list_source("kaggle", tmp_path).cases[0]
    assert describe_case(dataclasses.replace(case, **change)) != describe_case(case)


def test_chunks_of_a_build_with_other_settings_are_not_used(tmp_path):
    """Fault: images of the old size among the new, from a build stopped before a key changed."""
    write_kaggle(tmp_path)
    cases = list_source("kaggle", tmp_path).cases
    folder = epath.Path(tmp_path)
    names = [
        {chunk.name for chunk in Conversion(folder, settings, folder, False).cut(cases)}
        for settings in (
            ConvertSettings(32, b"", ReadOptions()),
            ConvertSettings(64, b"", ReadOptions()),
            ConvertSettings(32, b"", ReadOptions(frontal_only=False)),
        )
    ]
    assert len(cases) > 16
    assert len(set.union(*names)) == sum(map(len, names)) == 6


def test_whole_records_are_used_again(tmp_path, capsys):
    """Building anew at each start would cost hours; reports on standard output would spoil data."""
    write_kaggle(tmp_path / "raw")
    first = prepare(CONFIG, tmp_path / "data", tmp_path / "raw")
    assert not capsys.readouterr().out
    (written,) = prepared(tmp_path / "data")
    before = written.stat().st_mtime_ns
    again = prepare(CONFIG, tmp_path / "data", tmp_path / "raw")
    assert again.data_path == first.data_path
    assert written.stat().st_mtime_ns == before


@pytest.mark.parametrize("content", [None, "", '{"name": "x"'])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_records_that_lost_what_is_known_of_them_are_named(tmp_path, name, content):
    """Fault: a parser's traceback after a cache was cleaned in part, or power was lost."""
    write_kaggle(tmp_path / "raw")
    path = prepare(CONFIG, tmp_path / "data", tmp_path / "raw").data_path / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=f"{path.parent}: .*{name}.*; remove the folder"):
        prepare(CONFIG, tmp_path / "data", tmp_path / "raw")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", MANIFEST, REPORT])
@pytest.mark.parametrize("code", [errno.ESTALE, errno.EACCES])
def test_records_that_cannot_be_read_are_not_called_damaged(tmp_path, monkeypatch, name, code):
    """Fault: advice to remove whole records because the network was gone for a moment."""
    write_kaggle(tmp_path / "raw")
    folder = prepare(CONFIG, tmp_path / "data", tmp_path / "raw").data_path
    read = type(folder).read_text

    def read_text(path, *given, **options):
        if path.name == name:
            raise OSError(code, os.strerror(code), os.fspath(path))
        return read(path, *given, **options)

    monkeypatch.setattr(type(folder), "read_text", read_text)

    def prepare_again(_: epath.Path) -> None:
        prepare(CONFIG, tmp_path / "data", tmp_path / "raw")

    readers = {MANIFEST: read_manifest, REPORT: read_build_report}
    with pytest.raises(DataError, match=os.strerror(code)) as refused:
        readers.get(name, prepare_again)(folder)
    assert "remove" not in str(refused.value)


def test_records_that_another_process_built_meanwhile_are_used(tmp_path, monkeypatch, capsys):
    """Fault: of two runs started together the second ends, for what it knows is of before."""
    write_kaggle(tmp_path / "raw")
    places = tmp_path / "data", tmp_path / "raw"
    one_at_a_time = prepare_module.one_build_at_a_time

    @contextlib.contextmanager
    def after_another(folder):
        monkeypatch.setattr(prepare_module, "one_build_at_a_time", one_at_a_time)
        prepare(CONFIG, *places)
        capsys.readouterr()
        with one_at_a_time(folder):
            yield

    monkeypatch.setattr(prepare_module, "one_build_at_a_time", after_another)
    builder = prepare(CONFIG, *places)
    assert "Building" not in capsys.readouterr().err
    assert len(builder.as_data_source("train")) > 0


@pytest.mark.parametrize("name", ["ENOTSUP", "ENOLCK", "ENOSYS", "EINVAL"])
def test_records_are_built_where_there_are_no_locks(tmp_path, monkeypatch, capsys, name):
    """Fault: a share without locks refused, after word of another build that there is not."""
    monkeypatch.setattr(fcntl, "flock", _raising(getattr(errno, name)))
    with one_build_at_a_time(epath.Path(tmp_path / "downloads")):
        assert not capsys.readouterr().err


@pytest.mark.parametrize("name", ["EWOULDBLOCK", "EACCES"])
def test_a_build_waits_for_another_on_any_file_system(tmp_path, monkeypatch, capsys, name):
    """Fault: two builds at once on a share of Windows, where a held lock is a denied permission."""
    asked = []

    def flock(_: object, operation: int) -> None:
        asked.append(operation)
        if operation & fcntl.LOCK_NB:
            raise OSError(getattr(errno, name), "held")

    monkeypatch.setattr(fcntl, "flock", flock)
    with one_build_at_a_time(epath.Path(tmp_path / "downloads")):
        assert asked == [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX]
    assert "Waiting for another build" in capsys.readouterr().err


def test_a_planted_lock_of_builds_is_not_emptied(tmp_path):
    """Fault: the file that a link called build.lock leads to is emptied."""
    (tmp_path / "precious").write_text("someone's")
    (tmp_path / "build.lock").symlink_to(tmp_path / "precious")
    with one_build_at_a_time(epath.Path(tmp_path)):
        pass
    assert (tmp_path / "precious").read_text() == "someone's"


def _raising(code: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_whole_records_are_used_where_nothing_may_be_written(tmp_path):
    """Fault: a shared, read-only folder of records refused for a lock or a folder beside it."""
    write_kaggle(tmp_path / "raw")
    prepare(CONFIG, tmp_path / "data", tmp_path / "raw")
    shutil.rmtree(tmp_path / "data" / "downloads")
    before = sorted(tmp_path.rglob("*"))
    prepare(CONFIG, tmp_path / "data", tmp_path / "raw")
    assert sorted(tmp_path.rglob("*")) == before


def change_image(tree: Path) -> None:
    image, _ = chest(50, 50, 99)
    (tree / "CXR_png" / "CHNCXR_0001_1.png").write_bytes(png_bytes(image))
    mask = png_bytes(np.pad(np.full((48, 48), 255, np.uint8), 1))
    (tree / "masks" / "CHNCXR_0001_1_mask.png").write_bytes(mask)


def change_time(tree: Path) -> None:
    """Only the time tells where an edit leaves the size as it was."""
    path = tree / "masks" / "CHNCXR_0001_1_mask.png"
    os.utime(path, (1e9, 1e9))


def add_case(tree: Path) -> None:
    image, mask = chest(50, 50, 99)
    (tree / "CXR_png" / "CHNCXR_0999_1.png").write_bytes(png_bytes(image))
    (tree / "masks" / "CHNCXR_0999_1_mask.png").write_bytes(png_bytes(mask))


def remove_case(tree: Path) -> None:
    (tree / "masks" / "CHNCXR_0001_1_mask.png").unlink()


@pytest.mark.parametrize("change", [change_image, change_time, add_case, remove_case])
def test_changed_files_give_new_records(tmp_path, change):
    """Corrected masks that do not take effect are found by nobody."""
    tree = write_kaggle(tmp_path / "raw")
    before = prepare(CONFIG, tmp_path / "data", tmp_path / "raw")
    change(tree)
    after = prepare(CONFIG, tmp_path / "data", tmp_path / "raw")
    assert after.data_path != before.data_path
    listed = {case.example_id for case in list_source("kaggle", tmp_path / "raw").cases}
    records = read_all(after)
    assert set(records) == listed
    if change is change_image:
        assert np.count_nonzero(records["CHNCXR_0001_1"]["original_mask"]) == 48 * 48


def write_splits(path: Path, val: str, test: str) -> str:
    train = [stem for stem in KAGGLE_STEMS if stem not in (val, test)]
    path.write_text(json.dumps({"train": train, "val": [val], "test": [test]}))
    return os.fspath(path)


def ids(builder, split: str) -> list[bytes]:
    return [record["example_id"] for record in builder.as_data_source(split)]


def test_a_changed_split_file_gives_new_records(tmp_path):
    """Its path is the same: without its content the old split would be evaluated."""
    write_kaggle(tmp_path / "raw")
    for val, test in (KAGGLE_STEMS[:2], KAGGLE_STEMS[2:4]):
        path = write_splits(tmp_path / "splits.json", val, test)
        config = LungsConfig(source="kaggle", image_size=32, splits=path)
        builder = prepare(config, tmp_path / "data", tmp_path / "raw")
        assert ids(builder, "val") == [val.encode()]
        assert ids(builder, "test") == [test.encode()]


def test_runs_of_other_seeds_share_the_records_of_a_split_file(tmp_path):
    """Fault: an archive converted again for each seed, though a file says how it is split."""
    write_kaggle(tmp_path / "raw")
    path = write_splits(tmp_path / "splits.json", *KAGGLE_STEMS[:2])
    folders = {
        (seed, splits): prepare(
            LungsConfig(source="kaggle", image_size=32, splits=splits, seed=seed),
            tmp_path / "data",
            tmp_path / "raw",
        ).data_path
        for seed in (0, 1)
        for splits in (path, "")
    }
    assert folders[0, path] == folders[1, path]
    assert len(set(folders.values())) == 3


def test_folds_share_one_conversion(tmp_path):
    """Fault: an archive converted five times for a cross-validation, or its copy kept for good."""
    tree = write_kaggle(tmp_path / "raw")
    chunks = tmp_path / "data" / "downloads" / "converted"
    # Fault: for one bad file its neighbours are converted again.
    (tree / "CXR_png" / "CHNCXR_0999_1.png").write_bytes(b"not an image")
    (tree / "masks" / "CHNCXR_0999_1_mask.png").write_bytes(b"not a mask")
    held_out = []
    # Fault: what folds wait for removed by a build that is none.
    for fold in (0, 1, None, 2, 3, 4):
        config = dataclasses.replace(CONFIG, fold=fold, on_error="skip")
        builder = prepare(config, tmp_path / "data", tmp_path / "raw")
        assert set(read_all(builder)) == set(KAGGLE_STEMS)
        held_out += [] if fold is None else ids(builder, "test")
        assert any(chunks.glob("*/*.chunk")) == (fold != 4)
        # Whoever reads it again finds no image.
        for path in tree.rglob("*.png"):
            stamp = path.stat()
            path.write_bytes(bytes(stamp.st_size))
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert sorted(held_out) == sorted(stem.encode() for stem in KAGGLE_STEMS)


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path, monkeypatch):
    """Fault: a second copy of an archive that stays for good, after a kill at a build's end."""
    write_kaggle(tmp_path / "raw")
    chunks = tmp_path / "data" / "downloads" / "converted"
    with monkeypatch.context() as patch:
        patch.setattr(Conversion, "remove", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(CONFIG, tmp_path / "data", tmp_path / "raw")
    assert prepared(tmp_path / "data")
    assert any(chunks.glob("*/*.chunk"))
    prepare(CONFIG, tmp_path / "data", tmp_path / "raw")
    assert not any(chunks.glob("*/*.chunk"))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_faulty_split_file_is_a_config_error_and_leaves_nothing(tmp_path):
    """It is read before the build for the fingerprint, where it must not end in a traceback."""
    write_kaggle(tmp_path / "raw")
    for path, content in (("absent.json", None), ("a.json", "{"), ("b.json", '{"train": []}')):
        if content is not None:
            (tmp_path / path).write_text(content)
        config = LungsConfig(source="kaggle", image_size=32, splits=os.fspath(tmp_path / path))
        with pytest.raises(ConfigError, match=path):
            prepare(config, tmp_path / "data", tmp_path / "raw")
    path = write_splits(tmp_path / "splits.json", "CHNCXR_9999_0", KAGGLE_STEMS[0])
    with pytest.raises(ConfigError, match="CHNCXR_9999_0"):
        prepare(
            LungsConfig(source="kaggle", image_size=32, splits=path),
            tmp_path / "data",
            tmp_path / "raw",
        )
    assert not prepared(tmp_path / "data")


@pytest.mark.parametrize("folder", ["CXR_png", "masks"])
def test_a_broken_file_fails_the_build_by_name(tmp_path, folder):
    """Left out in silence, or after a whole-looking data set is written, nobody would know."""
    tree = write_kaggle(tmp_path / "raw")
    path = tree / folder / "MCUCXR_0003_1.png"
    whole = path.read_bytes()
    content = bytearray(whole)
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{path}: broken PNG file; "):
        prepare(CONFIG, tmp_path / "data", tmp_path / "raw")
    assert not prepared(tmp_path / "data")
    path.write_bytes(whole)
    assert len(read_all(prepare(CONFIG, tmp_path / "data", tmp_path / "raw"))) == len(KAGGLE_STEMS)


def test_a_killed_build_is_not_taken_for_a_whole_one(tmp_path):
    """Machines are preempted without warning: half a data set would train without complaint."""
    tree = write_kaggle(tmp_path / "raw", 700, 700)
    data_dir = tmp_path / "data"
    program = textwrap.dedent(
        f"""
        from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import LungsConfig
        from tfds_builder.prepare import prepare
        prepare(LungsConfig(source="kaggle", image_size=512), {str(data_dir)!r}, {str(tree)!r})
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    try:
        # TFDS writes each split's shards into the folder that it renames at the end.
        begun = data_dir / "chest_xray_lungs"
        while process.poll() is None and not any(begun.glob("*/*incomplete*/*array_record*")):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert any(begun.glob("*/*incomplete*"))
    assert not prepared(data_dir)
    config = LungsConfig(source="kaggle", image_size=512)
    assert len(read_all(prepare(config, data_dir, tree))) == len(KAGGLE_STEMS)
    # Fault: a second copy of the records, which stays for good.
    assert not any(begun.glob("*/*incomplete*"))
