"""What a release holds, and that it works where there is no checkout."""

import configparser
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lungseg_jax.__main__ import COMMANDS
from lungseg_jax.runtime.environment import digest_of_source
from tests.images import chest, png_bytes
from tests.small import REPOSITORY

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / ".git").exists() or shutil.which("git") is None,
    reason="what belongs into a release is known from a git checkout only",
)

PACKAGES = ("lungseg_jax/", "tfds_builder/")

# Modules that a newcomer would call.
NO_COMMANDS = ("lungseg_jax.train", "lungseg_jax.evaluate", "lungseg_jax.benchmark")

# Of the installed setuptools, so that nothing is fetched.
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


def build(kind: str, source: Path, output: Path) -> Path:
    """Builds in a folder; returns the file."""
    printed = subprocess.run(
        [sys.executable, "-c", BUILD, kind, output],
        cwd=source,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return output / printed.splitlines()[-1]


def tracked_files() -> set[str]:
    """Files of the repository; those that are removed but still tracked are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return {name for name in listed.split("\0") if name and (REPOSITORY / name).exists()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The unpacked source distribution of a copy, in which nothing untracked lies about."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in tracked_files():
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / "copy" / name)
    with tarfile.open(build("build_sdist", folder / "copy", folder)) as archive:
        # Python 3.11 knows filters from 3.11.4 on; what was built here needs none.
        filters = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **filters)
    (unpacked,) = (path for path in folder.glob("lungseg_jax-*") if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The unpacked wheel, built from the source distribution as installers do."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(build("build_wheel", sdist, folder)) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_source_distribution_has_every_tracked_file(sdist):
    """Fault: tests without their helpers, no experiments, no examples."""
    assert tracked_files() - files_in(sdist) == set()


def test_the_wheel_has_the_packages_and_nothing_else(wheel):
    """Fault: weights or templates left out; tests or configs in everybody's site-packages."""
    held = files_in(wheel)
    metadata = {name for name in held if ".dist-info/" in name}
    assert held - metadata == {name for name in tracked_files() if name.startswith(PACKAGES)}
    licences = {Path(name).name for name in metadata if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


def test_the_wheel_segments_far_from_the_repository(wheel, tmp_path):
    """Fault: a file of the repository that prediction needs and a user does not have."""
    (tmp_path / "chest.png").write_bytes(png_bytes(chest(256, 240, 0)[0]))
    environment = os.environ | {
        "PYTHONPATH": str(wheel),
        "XLA_FLAGS": "",
        # Another test looks at all that the wheel holds.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    program = "import lungseg_jax, tfds_builder; print(lungseg_jax.__file__, tfds_builder.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert found.split() == [str(wheel / package / "__init__.py") for package in PACKAGES]
    subprocess.run(
        [sys.executable, "-m", "lungseg_jax.predict", "chest.png", "--output=out"],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    assert (tmp_path / "out" / "chest_mask.png").exists()


def test_the_versions_that_are_given_satisfy_what_is_required():
    """Fault: a library that is required in a newer version, or at all, and not in the list."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    required = setup["options"]["install_requires"].splitlines()
    requirements = [Requirement(line) for line in required if line and not line.startswith("#")]
    assert len(requirements) > 15
    for requirement in requirements:
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_every_command_is_listed():
    """Fault: a command that only who reads the source finds, or a listed one that is none."""
    packages = ("lungseg_jax", "tfds_builder")
    commands = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for package in packages
        for path in (REPOSITORY / package).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    }
    # One lists the others; one is started by a Sandbox only.
    others = {"lungseg_jax.__main__", "lungseg_jax.runtime.sandbox_worker", *NO_COMMANDS}
    assert commands - others == {*COMMANDS}


@pytest.mark.parametrize("module", NO_COMMANDS)
def test_a_module_that_sounds_like_a_command_names_the_command(module):
    """Fault: a job that calls it ends as if it had trained."""
    ended = subprocess.run(
        [sys.executable, "-m", module], check=False, stderr=subprocess.PIPE, text=True
    )
    assert ended.returncode == 1
    assert f"{module} is no command: python -m lungseg_jax.main" in ended.stderr


def test_a_folder_of_the_packages_name_is_not_the_package(tmp_path):
    """Fault: above a copy called lungseg_jax, that folder imported in place of the package."""
    (tmp_path / "lungseg_jax").mkdir()
    program = f"from {digest_of_source.__module__} import *; print(digest_of_source())"
    digest, commands = (
        subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for arguments in (["-c", program], ["-m", "lungseg_jax"])
    )
    assert digest.strip() == digest_of_source()
    assert COMMANDS[0] in commands
    shown = subprocess.run(
        [sys.executable, "-OO", "-m", "lungseg_jax"], cwd=REPOSITORY, check=True,
        stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    assert all(f"python -m {command}\n" in shown for command in COMMANDS)
    assert shown.startswith(f"lungseg_jax {importlib.metadata.version('lungseg_jax')}\n")
