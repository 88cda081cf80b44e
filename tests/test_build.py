"""Whole builds: killed, repeated, fuzzed, searched for what must not be in them."""

import contextlib
import dataclasses
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath

from lungseg_jax.build import main
from lungseg_jax.errors import DataError
from lungseg_jax.file_digest import digest_file
from lungseg_jax.imaging.png import png_size
from lungseg_jax.imaging.radiograph import ReadOptions
from tests.archive import write_archive
from tests.images import chest, dicom_bytes, png_bytes
from tests.small import REPOSITORY
from tfds_builder.beam_pipeline import _ConvertChunk
from tfds_builder.build_report import REPORT, SUMMARY
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import LungsConfig
from tfds_builder.conversion import Conversion
from tfds_builder.convert_case import ConvertSettings
from tfds_builder.id_key import read_or_make_key
from tfds_builder.prepare import prepare
from tfds_builder.verify import verify

CONFIG = LungsConfig(source="folder", image_size=32)

BUILD = """
import sys
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import LungsConfig
from tfds_builder.prepare import prepare
data_dir, manual_dir, on_error = sys.argv[1:]
config = LungsConfig(source="folder", image_size=32, on_error=on_error, max_bad_share=0.9)
prepare(config, data_dir, manual_dir)
"""


def start_build(data_dir: Path, manual_dir: Path, on_error: str = "fail") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, data_dir, manual_dir, on_error],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def records_of(data_dir: Path) -> dict[str, str]:
    """The checksum of every shard of finished records below a data folder, by its name."""
    return {
        shard.name: digest_file(shard).sha256
        for info in data_dir.glob("chest_xray_lungs/*/*/dataset_info.json")
        for shard in info.parent.glob("*array_record*")
    }


def report_of(builder: Any) -> dict[str, Any]:
    return json.loads((builder.data_path / REPORT).read_text())


def with_same_key(data_dir: Path, other: Path) -> Path:
    """Copies the key that identifiers are hashed with, which each data folder has of its own."""
    key = "downloads/patient_id.key"
    (data_dir / "downloads").mkdir(parents=True)
    (data_dir / key).write_bytes((other / key).read_bytes())
    return data_dir


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path, Any]:
    """Folder of the images, folder of the records, and their builder."""
    root = tmp_path_factory.mktemp("archive")
    manual_dir = write_archive(root / "archive", 150)
    return manual_dir, root / "data", prepare(CONFIG, root / "data", manual_dir)


def test_records_are_sound(built):
    """Fault: anything that the check of records knows."""
    assert verify(built[2].data_path) == []


def test_every_file_is_in_the_report_once(built):
    """Fault: files lost without a word."""
    manual_dir, _, builder = built
    report = report_of(builder)
    found = sorted(os.path.relpath(path, manual_dir) for path in manual_dir.rglob("*.*"))
    assert sorted(entry["file"] for entry in report["files"]) == found
    assert report["counts"] == {"taken": len(found)}
    splits = {entry["example_id"]: entry["split"] for entry in report["files"]}
    for split, info in builder.info.splits.items():
        assert sum(assigned == split for assigned in splits.values()) == info.num_examples


def test_images_of_one_patient_are_in_one_split(built):
    """Fault: patients known from the header alone leak from training into the test."""
    records = [
        (split, record["patient_id"], record["example_id"])
        for split in built[2].info.splits
        for record in built[2].as_data_source(split)
    ]
    split_of = {}
    for split, patient, _ in records:
        assert split_of.setdefault(patient, split) == split
    from_headers = [patient for _, patient, example in records if int(example[4:]) % 2]
    assert len(set(from_headers)) == len({number // 4 for number in range(1, 150, 2)})


def test_beam_builds_the_same_records(built, tmp_path):
    """Fault: two ways to build that drift apart."""
    manual_dir, data_dir, _ = built
    again = with_same_key(tmp_path / "data", data_dir)
    options = PipelineOptions(["--runner=FnApiRunner"])
    builder = prepare(CONFIG, again, manual_dir, options)
    assert records_of(again) == records_of(data_dir)
    assert report_of(builder) == report_of(built[2])
    assert verify(builder.data_path) == []


def test_the_key_of_patients_is_not_sent_to_workers(tmp_path):
    """Fault: the secret of all hashes in the files of a job, where a runner keeps them."""
    key = read_or_make_key(epath.Path(tmp_path))
    settings = ConvertSettings(32, key, ReadOptions())
    folder = epath.Path(tmp_path)
    sent = pickle.dumps(_ConvertChunk(Conversion(folder, settings, folder, fail_fast=False)))
    assert key not in sent
    worker = pickle.loads(sent)
    worker.setup()
    assert worker._conversion.settings == settings
    worker.teardown()
    # Fault: hashes of two keys in one data set, where a worker does not see the same folder.
    (tmp_path / "patient_id.key").write_text(64 * "0")
    with pytest.raises(DataError, match="holds another key"):
        pickle.loads(sent).setup()
    (tmp_path / "patient_id.key").unlink()
    with pytest.raises(DataError, match="patient_id"):
        pickle.loads(sent).setup()
    assert not (tmp_path / "patient_id.key").exists()


def rebuilt_after_kill(built: tuple[Path, Path, Any], data_dir: Path, seconds: float) -> bool:
    """Kills a build after some seconds, lets another one finish; whether it was killed in time."""
    manual_dir, undisturbed, _ = built
    with_same_key(data_dir, undisturbed)
    process = start_build(data_dir, manual_dir)
    try:
        process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    killed = process.returncode == -signal.SIGKILL
    output, _ = (second := start_build(data_dir, manual_dir)).communicate()
    assert second.returncode == 0, output
    assert records_of(data_dir) == records_of(undisturbed)
    return killed


def test_a_killed_build_goes_on(built, tmp_path):
    """Fault: a chunk half written taken for whole, or all done again."""
    manual_dir, undisturbed, _ = built
    data_dir = with_same_key(tmp_path / "data", undisturbed)
    process = start_build(data_dir, manual_dir)
    chunks = data_dir / "downloads" / "converted"
    while process.poll() is None and not any(chunks.glob("*/*.chunk")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in chunks.glob("*/*.chunk")}
    assert done
    assert not records_of(data_dir)
    second, written_again = start_build(data_dir, manual_dir), False
    while second.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            written_again |= any(path.stat().st_mtime_ns != t for path, t in done.items())
        time.sleep(0.005)
    output, _ = second.communicate()
    assert second.returncode == 0, output
    assert not written_again
    assert records_of(data_dir) == records_of(undisturbed)
    assert not list(chunks.glob("*/*"))


@pytest.mark.slow
def test_twenty_kills_change_nothing(built, tmp_path):
    """Fault: a moment at which a kill leaves something that the next build trusts."""
    # The second build is as fast as the later ones, which find files in the system's memory.
    for name in ("first", "second"):
        start = time.monotonic()
        start_build(tmp_path / name, built[0]).communicate()
    duration = time.monotonic() - start
    random, killed = np.random.default_rng(0), 0
    # On a machine with other work some moments fall behind the build's end and do not count.
    for attempt in range(60):
        moment = random.uniform(0.2 * duration, duration)
        killed += rebuilt_after_kill(built, tmp_path / str(attempt), moment)
        if killed == 20:
            return
    pytest.fail(f"{killed} of 60 moments fell into a build")


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Returns a file with bits flipped, cut short, or with other lengths and sizes in it."""
    changed = bytearray(content)
    match rng.randrange(5):
        case 0:
            for _ in range(rng.randrange(1, 20)):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        case 1:
            del changed[rng.randrange(len(changed)) :]
        case 2:
            # A header's own lengths and sizes lie in the first part.
            start = rng.randrange(min(len(changed), 900) - 4)
            changed[start : start + 4] = rng.choice(
                [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"\x00\x01\x00\x00"]
            )
        case 3:
            start = rng.randrange(len(changed))
            del changed[start : start + rng.randrange(1, 200)]
        case 4:
            start = rng.randrange(len(changed))
            changed[start:start] = rng.randbytes(rng.randrange(1, 200))
    return bytes(changed)


def test_two_thousand_mutated_files_are_all_in_the_report(tmp_path):
    """Fault: a damaged file that crashes, stops or bloats the build, or is lost."""
    manual_dir = write_archive(tmp_path / "archive", 1000)
    rng = random.Random(0)
    paths = sorted((manual_dir / "images").iterdir()) + sorted((manual_dir / "masks").iterdir())
    for number, path in enumerate(paths):
        content = path.read_bytes()
        # Some stay whole, for a build needs images.
        path.write_bytes(content if number % 20 == 0 else mutate(content, rng))
    config = LungsConfig(source="folder", image_size=32, on_error="skip", max_bad_share=1.0)
    builder = prepare(config, tmp_path / "data", manual_dir)
    report = report_of(builder)
    assert len(report["files"]) == sum(report["counts"].values()) == len(paths) == 2000
    assert report["counts"]["bad"] > 1000
    assert verify(builder.data_path) == []


def test_skip_fails_when_too_much_is_bad(tmp_path):
    """Fault: an archive whose mount broke down makes a tiny data set without complaint."""
    manual_dir = write_archive(tmp_path / "archive", 60)
    for path in sorted((manual_dir / "images").iterdir())[:10]:
        path.write_bytes(b"<!doctype html><title>404</title>")
    config = LungsConfig(source="folder", image_size=32, on_error="skip")
    with pytest.raises(DataError, match=r"10 of 60 images are bad.*case0000\.png: is a web page"):
        prepare(config, tmp_path / "data", manual_dir)
    assert not records_of(tmp_path / "data")
    (report,) = (tmp_path / "data" / "downloads" / "reports").glob(f"*/{REPORT}")
    assert json.loads(report.read_text())["counts"]["bad"] == 20


def test_masks_of_no_lung_at_all_are_refused(tmp_path):
    """Fault: masks exported empty train a network that finds nothing, with a perfect Dice."""
    manual_dir = write_archive(tmp_path / "archive", 12)
    first, *others = sorted((manual_dir / "masks").iterdir())
    for path in others:
        path.write_bytes(png_bytes(np.zeros(png_size(path.read_bytes()), np.uint8)))
    prepare(CONFIG, tmp_path / "data", manual_dir)
    first.write_bytes(png_bytes(np.zeros(png_size(first.read_bytes()), np.uint8)))
    with pytest.raises(DataError, match=r"none of the 12 images has lung in its mask; mark lung"):
        prepare(CONFIG, tmp_path / "data", manual_dir)


@pytest.mark.parametrize(("on_error", "said"), [("fail", "case0002"), ("skip", "1 of 60 images")])
def test_a_fault_that_has_passed_is_not_remembered(tmp_path, on_error: str, said: str):
    """Fault: a file called bad for good, because a disk or a machine failed it once."""
    manual_dir = write_archive(tmp_path / "archive", 60)
    target = manual_dir / "images" / "case0002.png"
    content, times = target.read_bytes(), target.stat()
    target.write_bytes(bytes(len(content)))
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    config = dataclasses.replace(CONFIG, on_error=on_error, max_bad_share=0.0)
    with pytest.raises(DataError, match=said):
        prepare(config, tmp_path / "data", manual_dir)
    target.write_bytes(content)
    # Neither size nor time tells that it is another file now.
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    builder = prepare(config, tmp_path / "data", manual_dir)
    assert report_of(builder)["counts"] == {"taken": 120}


def test_a_dangling_link_is_one_bad_file(tmp_path):
    """Fault: one file that is not there ends a build that was to skip what is bad."""
    manual_dir = write_archive(tmp_path / "archive", 60)
    target = manual_dir / "images" / "case0002.png"
    target.unlink()
    target.symlink_to(manual_dir / "nowhere.png")
    config = dataclasses.replace(CONFIG, on_error="skip")
    builder = prepare(config, tmp_path / "data", manual_dir)
    assert [e["file"] for e in report_of(builder)["files"] if e["status"] == "bad"] == [
        *("images/case0002.png", "masks/case0002_mask.png")
    ]
    # The readable report names the one that is at fault.
    _, _, bad = (Path(builder.data_path) / SUMMARY).read_text().partition("bad file")
    assert "case0002.png" in bad
    assert "case0002_mask.png" not in bad


def test_two_builds_at_once_do_not_harm_each_other(built, tmp_path):
    """Fault: the first to finish removes what the second one reads."""
    data_dir = with_same_key(tmp_path / "data", built[1])
    processes = [start_build(data_dir, built[0], policy) for policy in ("fail", "fail", "skip")]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert records_of(data_dir) == records_of(built[1])


def test_what_is_no_frontal_chest_is_left_out_by_its_header_alone(tmp_path):
    """Fault: a lateral view trained on in silence, or one that ends the build of an archive.

    Or the reverse: a chest that illness has made unlike others lost to training, and to the test.
    """
    manual_dir = write_archive(tmp_path / "archive", 60)
    image, _ = chest(64, 64, 0)
    lateral = dicom_bytes(image, {"ViewPosition": "LL"})
    (manual_dir / "images" / "case0001.dcm").write_bytes(lateral)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    (manual_dir / "images" / "case0000.png").write_bytes(png_bytes(noise))
    builder = prepare(CONFIG, tmp_path / "data", manual_dir)
    report = report_of(builder)
    left_out = {e["file"]: e["reason"] for e in report["files"] if e["status"] == "left out"}
    assert set(left_out) == {"images/case0001.dcm", "masks/case0001_mask.png"}
    assert "view LL" in left_out["images/case0001.dcm"]
    assert sum(info.num_examples for info in builder.info.splits.values()) == 59
    noted = {
        e["file"] for e in report["files"] if "does not look like a frontal" in str(e["notes"])
    }
    assert noted == {"images/case0000.png", "masks/case0000_mask.png"}


CANARIES = {
    "PatientName": "Canary^Nightingale",
    "PatientID": "MRN-CANARY-77",
    "PatientBirthDate": "19010203",
    "StudyDate": "20191231",
    "AcquisitionDateTime": "20191230112233",
    "InstitutionName": "Canary General Hospital",
    "ReferringPhysicianName": "Dr^Canarybird",
    "StudyInstanceUID": "1.2.826.0.1.777777.1",
    "SeriesDescription": "/canary/archive/path",
    "ImageComments": "canary comment",
    "OperatorsName": "Canary^Operator",
    "AccessionNumber": "CANARY123",
    "StationName": "CANARYSTATION",
    "BodyPartExamined": "CHEST",
}


def test_nothing_of_a_header_gets_out(tmp_path):
    """Fault: a name, an identifier, a date or a path in a record, a report, a message or a name."""
    manual_dir = write_archive(tmp_path / "canary folder", 60, **CANARIES)
    images = manual_dir / "images"
    # Faults of every kind, for messages are where headers leak.
    content = (images / "case0001.dcm").read_bytes()
    (images / "case0001.dcm").write_bytes(content[: len(content) // 2])
    (images / "case0003.dcm").write_bytes(content.replace(b"US\x02\x00", b"US\x03\x00"))
    image, _ = chest(64, 64, 0)
    broken: tuple[tuple[str, dict[str, Any]], ...] = (
        ("case0005", {"ViewPosition": "CANARY VIEW"}),
        ("case0007", {"BodyPartExamined": "CANARYBONE"}),
        ("case0009", {"PatientOrientation": ["CANARY", "H"]}),
        ("case0011", {"NumberOfFrames": 3}),
        ("case0013", {"PhotometricInterpretation": "CANARY"}),
        ("case0015", {"Rows": 0}),
    )
    for name, attributes in broken:
        content = dicom_bytes(image, CANARIES | attributes)
        (images / f"{name}.dcm").write_bytes(content)
    process = start_build(tmp_path / "data", manual_dir, "skip")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    written = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    texts = [output.encode()]
    texts += [os.fsencode(path.relative_to(tmp_path)) for path in written]
    texts += [path.read_bytes() for path in written]
    builder = prepare(
        LungsConfig(source="folder", image_size=32, on_error="skip", max_bad_share=0.9),
        tmp_path / "data",
        manual_dir,
    )
    for split in builder.info.splits:
        for record in builder.as_data_source(split):
            texts += [value for value in record.values() if isinstance(value, bytes)]
    report = (builder.data_path / SUMMARY).read_text()
    assert "bad" in report
    searched = [value.encode() for value in CANARIES.values() if value != "CHEST"]
    for text in texts:
        assert b"canary" not in text.lower()
        for value in searched:
            assert value not in text


def test_the_command_builds_and_says_where(built, tmp_path, capsys):
    """Fault: a command that builds something else than training would read, or hides a fault."""
    manual_dir, _, builder = built
    command = [
        "build",
        f"--config={REPOSITORY / 'configs/unet.py'}",
        "--config.data.source=folder",
        "--config.data.image_size=32",
        f"--config.data.data_dir={tmp_path}",
    ]
    assert main([*command, f"--config.data.manual_dir={manual_dir}"]) == 0
    # The same inputs have the same name, wherever they are built.
    assert f"/{builder.data_path.parent.name}/" in capsys.readouterr().err.splitlines()[-1]
    assert main([*command, f"--config.data.manual_dir={tmp_path / 'absent'}"]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert main([*command, "--workdir=x"]) == 1
    assert "workdir" in capsys.readouterr().err
    # Fault: a list of calls, after minutes of reading.
    assert main([*command, f"--config.data.manual_dir={manual_dir}", "--beam=--runner=Dirct"]) == 1
    assert "Error: --beam: Unexpected pipeline runner: Dirct" in capsys.readouterr().err
    # Fault: an option that Beam leaves out, so that one worker does the work of eight.
    misspelt = "--beam=--direct_num_worker=8"
    assert main([*command, f"--config.data.manual_dir={manual_dir}", misspelt]) == 1
    assert "--beam: has unknown options: direct_num_worker" in capsys.readouterr().err
