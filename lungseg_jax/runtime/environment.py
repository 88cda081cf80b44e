"""What a result was computed with: code, libraries, hardware."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from lungseg_jax.runtime.cores import usable_cores

LIBRARIES = ("jax", "jaxlib", "flax", "optax")

# Libraries that keep records and checkpoints.
STORES = ("array-record", "grain", "orbax-checkpoint", "tensorflow-datasets")

# Libraries by which files become images and masks.
READERS = (
    "highdicom", "imagecodecs", "numpy", "opencv-python-headless", "pillow", "pydicom",
    "python-gdcm", "scipy",
)  # fmt: skip

# Variables that change bits, which documents ask for.
SETTINGS = ("XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION")

_CHECKOUT = Path(__file__).parents[2]

# A file system that hangs must not keep a run from training.
_GIT_SECONDS = 10


# Variables by which git takes another repository than that of the folder.
_NAMES_A_REPOSITORY = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR",
    "GIT_NAMESPACE", "GIT_PREFIX",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Returns date, code, Python's and libraries' versions, settings and hardware, for JSON.

    The code is named by its revision, and by a checksum that tells copies without git, or with
    changes, apart.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "source": digest_of_source(),
        "python": platform.python_version(),
        "versions": _versions(*LIBRARIES, *STORES, *READERS),
        "settings": {name: os.environ[name] for name in SETTINGS if os.environ.get(name)},
        "hardware": hardware(),
    }


def revision(checkout: Path = _CHECKOUT) -> str | None:
    """Returns the commit of a checkout, followed by `-dirty` where tracked files were changed.

    `None` where the folder is no checkout, or git is missing or refuses it.
    """
    # Git itself would look in the folders above: an installed package may lie in another checkout.
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude=*"]
    # Which a git hook sets, for another repository.
    inherited = {key: value for key, value in os.environ.items() if key not in _NAMES_A_REPOSITORY}
    try:
        found = subprocess.run(  # noqa: S603
            command, env=inherited, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def digest_of_program(packages: Path = _CHECKOUT) -> str:
    """Returns a checksum of what turns files into masks, except for the weights.

    That is `digest_of_source`, and the versions of the libraries that read images and compute.
    """
    versions = _versions(*LIBRARIES, *READERS)
    return hashlib.sha256(f"{digest_of_source(packages)}{versions}".encode()).hexdigest()


def digest_of_source(packages: Path = _CHECKOUT) -> str:
    """Returns a checksum of the source and the tables of this package and of `tfds_builder`."""
    digest = hashlib.sha256()
    for package in ("lungseg_jax", "tfds_builder"):
        for path in sorted((packages / package).rglob("*.*")):
            if path.suffix in (".py", ".npy"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _versions(*libraries: str) -> dict[str, str]:
    """Returns the versions of those libraries that are installed."""
    found = {}
    for name in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def hardware() -> str:
    """Returns the accelerators of all processes, or the processor and this process's cores."""
    # Here, so that code that imports this module can still choose JAX's platform.
    import jax

    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    return f"{usable_cores()} cores of {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
