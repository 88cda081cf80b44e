"""Scripts of `benchmarks/`: how they are called."""

import runpy
import sys
from pathlib import Path

import pytest

from tests.small import REPOSITORY

# One answers to lines of a race; the others are parts of scripts.
NOT_CALLED = {
    "__init__", "command", "document_style", "model_forms", "programs", "race", "result_files",
    "torch_unet",
}  # fmt: skip
SCRIPTS = sorted(
    path.stem for path in (REPOSITORY / "benchmarks").glob("*.py") if path.stem not in NOT_CALLED
)


def call(script: str, *words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *words])
        runpy.run_path(str(REPOSITORY / "benchmarks" / f"{script}.py"), run_name="__main__")


def results() -> dict[Path, int]:
    """The files that measurements and plots go to, and when each was written."""
    files = [*REPOSITORY.glob("benchmarks/results/*"), *REPOSITORY.glob("docs/*")]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_shows_how_and_does_nothing(script, capsys):
    """Fault: ten minutes of measurements, or result files overwritten, by who asks for help."""
    before = results()
    call(script, "--help")
    assert f"python -m benchmarks.{script}" in capsys.readouterr().out
    assert results() == before


def test_a_users_error_is_one_line():
    """Fault: a traceback for a folder that is not there."""
    with pytest.raises(SystemExit, match=r"^Error: absent: No such file or directory; check path"):
        call("dicom_table", "absent")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("accuracy", ["pooled"]), ("repeats", ["pooled", "runs/a"]), ("input_stall", []),
        ("main_job", []), ("dicom_table", []), ("build_rate", ["folder", "--memroy"]),
        ("peers", ["train"]), ("readme_tables", ["README.md"]), ("forms", ["folder", "plain-9:3"]),
        ("tpu", ["v5e:2x2:blocks-of-3:256:32"]), ("scaling", ["v9:2x2"]), ("scaling", ["v5e:2"]),
        ("gpu_suite", ["--config=configs/unet.py"]),
    ],
)  # fmt: skip
def test_words_that_misfit_are_told(script, words):
    """Fault: a traceback, or another measurement than the one that was meant."""
    with pytest.raises(SystemExit) as ended:
        call(script, *words)
    assert isinstance(ended.value.code, str)
