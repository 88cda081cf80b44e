"""The command line: every fault a user can mend ends in one line and a non-zero exit code."""

import json
from pathlib import Path

import pytest

from lungseg_jax.command_line import parse
from lungseg_jax.data.records import open_records
from lungseg_jax.main import main
from tests.small import write_small_data


def fail(capfd, *arguments: str) -> str:
    """Runs the command line, and returns its one line of error."""
    assert main(["lungseg_jax", *arguments]) == 1
    error = capfd.readouterr().err
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, error
    return lines[0]


@pytest.fixture
def kaggle(tmp_path) -> list[str]:
    write_small_data(tmp_path / "archive", count=20)
    return [
        "--config=configs/unet.py",
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=kaggle",
        f"--config.data.manual_dir={tmp_path / 'archive'}",
        f"--config.data.data_dir={tmp_path / 'records'}",
        "--config.data.image_size=32",
        "--config.model.depth=2",
    ]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.num_step=3", "unknown key 'num_step', perhaps 'num_steps';"),
        # Fault: no word of the group that a key is in.
        ("--config.learning_rate=1", "unknown key 'learning_rate', perhaps 'optimizer.learning_r"),
        ("--config.model.widht=3", "widht"),
        # Fault: the words of Python's own parsers.
        ("--config.num_steps=many", "flag --config.num_steps=many: not a whole number;"),
        ("--config.seed=1.5", "flag --config.seed=1.5: not a whole number;"),
        ("--config.optimizer.learning_rate=x: y", "learning_rate=x: y: not a number;"),
        ("--config.model.remat=maybe", "flag --config.model.remat=maybe: not true or false;"),
        ("--config.batch_size=0", "batch_size: is 0; give at least 1"),
        ("--config.parallel=threads", "pmap, mesh"),
        ("--config.batch_size=12", "12 images do not divide over 8 devices"),
        ("--mode=trian", "trian"),
        ("--workdri=x", "workdri"),
        ("extra", "unknown argument 'extra'"),
        ("--config=configs/none.py", "none.py"),
    ],
)
def test_bad_argument(capfd, kaggle, argument, words):
    """Fault: a traceback, or a key that is silently ignored."""
    given = [argument, *kaggle[1:]] if argument.startswith("--config=") else [*kaggle, argument]
    assert words in fail(capfd, *given)


def test_phantoms_are_called_so(capfd, monkeypatch, tmp_path):
    """Fault: figures of generated images taken for those of real ones."""
    monkeypatch.setattr("lungseg_jax.train.train_and_evaluate", lambda *_: None)
    main(["lungseg_jax", "--config=configs/unet.py", f"--workdir={tmp_path / 'run'}"])
    assert "Using generated phantoms" in capfd.readouterr().err


def test_manual_dir_that_does_not_exist(capfd, kaggle, tmp_path):
    """Fault: an error that does not say which folder."""
    line = fail(capfd, *kaggle, f"--config.data.manual_dir={tmp_path / 'none'}")
    assert str(tmp_path / "none") in line
    assert "data.manual_dir" in line


def test_manual_dir_with_other_things_says_what_was_sought_and_found(capfd, kaggle, tmp_path):
    """Fault: "no data" where the folder is one level off."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("")
    line = fail(capfd, *kaggle, f"--config.data.manual_dir={tmp_path / 'other'}")
    assert "CXR_png/ and masks/" in line
    assert "found notes.txt" in line


def damage(tmp_path: Path, folder: str, content: bytes) -> str:
    path = sorted((tmp_path / "archive" / folder).iterdir())[7]
    path.write_bytes(content)
    return path.name


@pytest.mark.parametrize("folder", ["CXR_png", "masks"])
def test_corrupt_png_is_named(capfd, kaggle, tmp_path, folder):
    """Fault: a decoder's message without the file's name, or half a data set left behind."""
    sound = sorted((tmp_path / "archive" / folder).iterdir())[7].read_bytes()
    name = damage(tmp_path, folder, sound[: len(sound) // 2])
    for _ in range(2):
        assert name in fail(capfd, *kaggle)
    assert not list((tmp_path / "records").rglob("dataset_info.json"))


def test_web_page_named_png_is_called_one(capfd, kaggle, tmp_path):
    """Fault: "not a DICOM" for an archive's login page."""
    name = damage(tmp_path, "CXR_png", b"<!DOCTYPE html><html></html>")
    line = fail(capfd, *kaggle)
    assert name in line
    assert "web page" in line


def test_mask_without_image(capfd, kaggle, tmp_path):
    """Fault: labelled examples that vanish."""
    path = sorted((tmp_path / "archive" / "CXR_png").iterdir())[3]
    path.unlink()
    line = fail(capfd, *kaggle)
    assert path.stem in line
    assert "mask without its image" in line


def test_split_file_with_unknown_id(capfd, kaggle, tmp_path):
    """Fault: an override that is ignored."""
    splits = {"train": ["MCUCXR_0001_0"], "val": ["MCUCXR_0002_0"], "test": ["X"]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    line = fail(capfd, *kaggle, f"--config.data.splits={tmp_path / 'splits.json'}")
    assert "'X'" in line


def test_workdir_of_another_configuration_names_the_key(capfd, kaggle, tmp_path):
    """Fault: a resumed run that mixes two configurations."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    saved = {
        "data": {"source": "kaggle", "image_size": 32},
        "model": {"width": 99, "depth": 2},
    }
    (tmp_path / "run" / "config.json").write_text(json.dumps(saved))
    line = fail(capfd, *kaggle)
    assert "model.width: is 16, but the run in" in line
    assert "pass --config.model.width=99 or another --workdir" in line


def test_eval_of_a_folder_without_a_run(capfd, kaggle):
    """Fault: random weights evaluated."""
    assert "no such folder" in fail(capfd, *kaggle, "--mode=eval")


def test_failed_first_start_does_not_claim_the_folder(capfd, kaggle, tmp_path):
    """Fault: a corrected command refused because of the one that failed."""
    fail(capfd, *kaggle, f"--config.data.manual_dir={tmp_path / 'none'}", "--config.seed=3")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def get_config(: pass", "SyntaxError"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("def get_config(): raise IndexError('too few')", "IndexError: too few"),
        ("def get_config(): return None", "--config"),
    ],
)
def test_broken_config_file(capfd, tmp_path, content, words):
    """Fault: a traceback through a library for a slip in the user's own file."""
    (tmp_path / "mine.py").write_text(content)
    assert words in fail(capfd, f"--config={tmp_path / 'mine.py'}")


def test_workdir_that_is_a_file(capfd, kaggle, tmp_path):
    """Fault: a traceback from deep inside the run."""
    (tmp_path / "file").write_text("")
    said = fail(capfd, *kaggle, f"--workdir={tmp_path / 'file'}")
    assert said.endswith("file: is a file; give a folder as --workdir")
    assert not (tmp_path / "records").exists()


def test_damaged_records_say_how_to_rebuild(capfd, kaggle, tmp_path):
    """Fault: a decoder's TypeError for a record file that was cut short."""
    config = parse(["lungseg_jax", *kaggle]).config
    open_records(config)
    shard = next((tmp_path / "records").rglob("*train.array_record*"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    line = fail(capfd, *kaggle)
    assert str(shard.parent) in line
    assert "built again" in line


def test_help(capfd):
    """Fault: no way to learn the flags from the program."""
    for flag in ("--help", "-h"):
        assert main(["lungseg_jax", flag]) == 0
        assert "--workdir=DIR" in capfd.readouterr().out


def test_config_file_that_does_not_exist(capfd, tmp_path, monkeypatch):
    """Fault: another fault named, where no key is given beside the file."""
    absent = "--config=configs/unett.py"
    assert "configs/unett.py: no such file; see configs/" in fail(capfd, absent)
    # Fault: sent to a folder that is not there.
    monkeypatch.chdir(tmp_path)
    assert "no such file; run in the repository's folder" in fail(capfd, absent)
