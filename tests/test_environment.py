"""What a result was computed with: the commit that ran, and whether it was changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lungseg_jax.runtime.environment import (
    digest_of_program,
    digest_of_source,
    environment,
    revision,
)

REPOSITORY = Path(__file__).parent.parent


def git(folder, *arguments):
    identity = ("-c", "user.name=Nobody", "-c", "user.email=nobody@localhost")
    command = ["git", "-C", str(folder), *identity, *arguments]
    # Neither the repository of a hook that runs the tests, nor anybody's settings.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    ended = subprocess.run(command, check=True, capture_output=True, text=True, env=kept | plain)
    return ended.stdout.strip()


def test_the_commit_and_whether_it_was_changed(tmp_path):
    """Fault: another commit, or a changed checkout named as if it were clean."""
    git(tmp_path, "init", "--quiet")
    source = tmp_path / "source.py"
    source.write_text("first\n")
    git(tmp_path, "add", "source.py")
    git(tmp_path, "commit", "--quiet", "--message=first")
    # A tag is no commit: it may be moved.
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    found = revision(tmp_path)
    assert found
    assert len(found) >= 7
    assert commit.startswith(found)
    (tmp_path / "untracked").write_text("a run's folder")
    assert revision(tmp_path) == found
    source.write_text("second\n")
    assert revision(tmp_path) == f"{found}-dirty"


def test_the_commit_is_the_checkouts_where_a_git_hook_calls(tmp_path, monkeypatch):
    """Fault: a run started by a hook of another repository named by that one's commit."""
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
        git(tmp_path / name, "init", "--quiet")
        git(tmp_path / name, "commit", "--quiet", "--allow-empty", f"--message={name}")
    commit = git(tmp_path / "own", "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    # Fault: what makes git trust a checkout of another user's, as in containers, lost with it.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.abbrev")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "20")
    assert revision(tmp_path / "own") == commit[:20]


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="no git checkout")
def test_the_commit_is_that_of_the_code_that_runs():
    """Fault: runs without a commit, because git is asked elsewhere than where the package is."""
    assert revision() == revision(REPOSITORY) is not None


def test_an_installed_package_is_not_the_checkout_above_it(tmp_path):
    """Fault: the commit of whatever repository a virtual environment happens to lie in."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=first")
    assert revision(tmp_path)
    packages = tmp_path / "packages"
    packages.mkdir()
    assert revision(packages) is None


def test_no_git_is_no_error(tmp_path, monkeypatch):
    """Fault: training that ends in an error on a machine without git, or on a foreign checkout."""
    (tmp_path / ".git").write_text("not a repository")
    assert revision(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision(tmp_path) is None


def test_environment_is_json_and_does_not_import_jax():
    """Fault: the platform chosen by an import; figures that no result file can hold."""
    found = environment()
    assert json.loads(json.dumps(found)) == found
    # Those that read files and measure masks, too.
    assert {"jax", "numpy", "opencv-python-headless", "pydicom", "grain"} <= set(found["versions"])
    # A copy without git has no revision.
    assert found["source"] == digest_of_source()
    program = "import sys, lungseg_jax.runtime.environment; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_program_is_its_source_and_its_tables(tmp_path):
    """Fault: masks that were made by another rule, or another table, kept as done."""
    for name in ("lungseg_jax/a.py", "lungseg_jax/imaging/b.npy", "tfds_builder/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("0")
    (tmp_path / "lungseg_jax" / "notes.txt").write_text("0")
    before = digest_of_program(tmp_path)
    (tmp_path / "lungseg_jax" / "notes.txt").write_text("1")
    assert digest_of_program(tmp_path) == before
    for path in (*tmp_path.rglob("*.py"), *tmp_path.rglob("*.npy")):
        path.write_text("1")
        assert digest_of_program(tmp_path) != before
        path.write_text("0")


def test_settings_that_change_bits_are_told(monkeypatch):
    """Fault: two runs that differ by a flag of the compiler, and by nothing that they record."""
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    assert environment()["settings"] == {"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"}
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest")
    monkeypatch.setenv("XLA_FLAGS", "")
    assert environment()["settings"] == {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
