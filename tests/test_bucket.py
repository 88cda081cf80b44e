"""Runs in a bucket: real processes, on what behaves as Google Cloud Storage."""

import re
import signal
import sys
from pathlib import Path

import pytest

from lungseg_jax.export import main as export
from tests.bucket import Bucket, serve_bucket
from tests.small import write_small_data
from tests.test_run import command, run, run_until

FIGURES = ("metrics.json", "eval/test.csv", "eval/val.csv", "overlays/worst.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_small_data(root / "archive")
    return root


@pytest.fixture(scope="module")
def on_disk(data) -> Path:
    """A run that nothing interrupts."""
    result = run(command(data, data / "run"))
    assert result.returncode == 0, result.stderr
    return data / "run"


@pytest.fixture(scope="module")
def bucket():
    with serve_bucket() as served:
        yield served


@pytest.fixture(scope="module")
def killed_and_resumed(data, bucket) -> str:
    """What the second of two processes said, of which the first was killed after a checkpoint."""
    arguments = command(data, f"{bucket.address}/run")
    saved = "run/checkpoints/10/commit_success.txt"
    run_until(arguments, lambda: saved in bucket.names(saved), signal.SIGKILL, **bucket.environment)
    assert not bucket.names("run/metrics.json"), "the run was over before it was killed"
    result = run(arguments, **bucket.environment)
    assert result.returncode == 0, result.stderr
    return result.stderr


def assert_same_figures(bucket: Bucket, on_disk: Path) -> None:
    for name in FIGURES:
        assert bucket.read(f"run/{name}") == (on_disk / name).read_bytes(), name


@pytest.mark.slow
def test_a_killed_run_resumes_as_on_disk(bucket, killed_and_resumed, on_disk):
    """Fault: what Orbax, TensorBoard or reports leave on disk, or look for there."""
    assert re.search(r"Resuming after step [1-3]0 of 40", killed_and_resumed)
    assert_same_figures(bucket, on_disk)
    assert any(name.startswith("run/events.out.tfevents") for name in bucket.names("run/"))


@pytest.mark.slow
@pytest.mark.usefixtures("killed_and_resumed")
def test_a_damaged_checkpoint_is_set_aside(data, bucket, on_disk):
    """Fault: a folder that cannot be renamed, because in a bucket there is none."""
    states = [name for name in bucket.names("run/checkpoints/40/state/") if "/d/" in name]
    assert states
    for name in states:
        content = bucket.read(name)
        bucket.objects.blob(name).upload_from_string(content[: len(content) // 2])
    bucket.objects.blob("run/metrics.json").delete()
    result = run(command(data, f"{bucket.address}/run"), **bucket.environment)
    assert result.returncode == 0, result.stderr
    assert "Resuming after step 30 of 40" in result.stderr
    assert bucket.names("run/damaged-0-40/state/")
    assert_same_figures(bucket, on_disk)


@pytest.mark.slow
@pytest.mark.usefixtures("killed_and_resumed")
def test_weights_are_exported_as_from_disk(bucket, on_disk, tmp_path):
    """Fault: a run in a bucket that nothing but its own training can read."""
    expected, found = tmp_path / "expected.safetensors", tmp_path / "found.safetensors"
    assert export(["export", f"--checkpoint={on_disk}", f"--output={expected}"]) == 0
    arguments = [f"--checkpoint={bucket.address}/run", f"--output={found}"]
    result = run([sys.executable, "-m", "lungseg_jax.export", *arguments], **bucket.environment)
    assert result.returncode == 0, result.stderr
    assert found.read_bytes() == expected.read_bytes()


def test_a_bucket_that_is_not_there_is_named(data, bucket, tmp_path):
    """Fault: an hour of building records before the first file cannot be written."""
    records = tmp_path / "records"
    arguments = command(data, "gs://nobody-has-this/run", f"--config.data.data_dir={records}")
    result = run(arguments, **bucket.environment)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: gs://nobody-has-this/run: its bucket cannot be looked up")
    assert not records.exists()


def test_a_process_sees_what_others_write(bucket):
    """Fault: listings and sizes that gcsfs keeps, by which hosts would miss or cut files."""
    program = """
import sys
from google.auth.credentials import AnonymousCredentials
from lungseg_jax.paths import run_folder
from google.cloud import storage
folder = run_folder(sys.argv[1])
(folder / "mine").write_text("1")
assert [path.name for path in folder.iterdir()] == ["mine"]
other = storage.Client("tests", AnonymousCredentials()).bucket("runs")
other.blob("shared/mine").upload_from_string("longer")
other.blob("shared/checkpoints/10/theirs").upload_from_string("2")
assert {path.name for path in folder.iterdir()} == {"mine", "checkpoints"}
assert (folder / "mine").read_text() == "longer"
assert (folder / "checkpoints").exists()
"""
    run_program(program, bucket, "shared")


def test_a_folder_is_claimed_before_its_first_checkpoint(bucket):
    """Fault: two runs in one folder, because a bucket has no folder without a file in it."""
    program = """
import sys
from lungseg_jax.errors import ConfigError
from lungseg_jax.paths import run_folder
from lungseg_jax.workdir import check_free, claim
from tests.small import small_config
folder = run_folder(sys.argv[1])
check_free(folder, small_config())
claim(folder, small_config())
check_free(folder, small_config())
try:
    check_free(folder, small_config(seed=1))
except ConfigError as error:
    assert error.subject == "seed", error
else:
    raise AssertionError("taken twice")
"""
    run_program(program, bucket, "claimed")


def run_program(program: str, bucket: Bucket, folder: str) -> None:
    result = run(
        [sys.executable, "-c", program, f"{bucket.address}/{folder}"], **bucket.environment
    )
    assert result.returncode == 0, result.stderr
