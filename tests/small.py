"""Small runs that several test modules share."""

import atexit
import contextlib
import dataclasses
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree

from lungseg_jax.config import Config, default_config, resolve
from lungseg_jax.data.samples import Samples
from lungseg_jax.packing import Packed, Places
from lungseg_jax.parallel import Parallel
from lungseg_jax.state import TrainState
from lungseg_jax.step import prepare_step
from tests.images import chest, png_bytes

REPOSITORY = Path(__file__).parent.parent

# Where tests run in the background, a shell has SIGINT ignored, which children inherit.
LISTENING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def python(*arguments: str, path: str) -> subprocess.CompletedProcess:
    """Runs Python in the repository, listening to SIGINT, and returns how it ended."""
    return subprocess.run(
        [sys.executable, "-c", LISTENING, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


# A run that compiles in seconds.
SMALL = {
    "batch_size": 8,
    "num_steps": 20,
    "data.image_size": 32,
    "data.num_phantoms": 20,
    "model.width": 4,
    "model.depth": 2,
    "model.block_size": 1,
    "evaluation.every": 10,
    "evaluation.batch_size": 8,
}


def small_config(**changes: object) -> Config:
    """`SMALL` with changes; keys with `__` for the dots of `data.source`."""
    config = default_config()
    config.update_from_flattened_dict(
        SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    )
    return resolve(config)


def small_samples(count: int = 8, size: int = 32) -> Samples:
    """Images whose share of foreground grows from a tenth to nine tenths along the batch."""
    rng = np.random.default_rng(0)
    share = np.linspace(0.1, 0.9, count)[:, None, None, None]
    mask = (np.arange(size)[None, :, None, None] < share * size).astype(np.uint8)
    mask = np.broadcast_to(mask, (count, size, size, 1)).copy()
    image = 20000 + 25000 * mask.astype(np.uint16) + rng.integers(0, 9000, mask.shape)
    return Samples(image.astype(np.uint16), mask)


def run_steps(
    config: Config, parallel: Parallel, steps: int, *, resident: bool = False
) -> tuple[TrainState, list[dict[str, np.ndarray]]]:
    """Returns the state after some steps on one batch, and the figures of each.

    Each step takes over the memory of the state before it, and gives back places that are the same
    object where it is packed: a call compares what is only equal.
    """
    state, step = prepare_step(config, parallel)
    samples = small_samples(config.batch_size, config.data.image_size)
    numbers = np.arange(config.batch_size, dtype=np.int32)
    batch = {"position": numbers, "slot": numbers}
    store = parallel.replicate(samples) if resident else None
    if not resident:
        batch |= {"image": samples.image, "mask": samples.mask}
    history = []
    for _ in range(steps):
        before, (state, metrics) = state, step(state, store, parallel.shard(batch))
        assert all(x.is_deleted() for x in jax.tree.leaves(before)), "two states in memory"
        assert all(now is was for now, was in zip(_places(state), _places(before), strict=True))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def _places(state: TrainState) -> list[Places]:
    parts = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Packed))
    return [part.places for part in parts if isinstance(part, Packed)]


@contextlib.contextmanager
def compilations_counted() -> Iterator[Callable[[], int]]:
    """Yields the number of programs XLA has compiled since."""
    seen: list[str] = []

    def listen(event: str, _: float, **__: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield lambda: len(seen)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def assert_trees_close(left: PyTree, right: PyTree, **tolerance: float) -> None:
    """Compares leaf by leaf and names the leaf that differs."""
    pairs = zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True)
    for (path, x), y in pairs:
        np.testing.assert_allclose(x, y, err_msg=jax.tree_util.keystr(path), **tolerance)


def assert_trees_equal(left: PyTree, right: PyTree) -> None:
    """Compares bit for bit and names the leaf that differs."""
    pairs = zip(jax.tree.leaves_with_path(left), jax.tree.leaves(right), strict=True)
    for (path, x), y in pairs:
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def write_small_data(root: Path, count: int = 30, size: int = 32) -> Path:
    """Writes a data set in Kaggle's layout whose splits are 21, 3 and 6 images."""
    for name in ("CXR_png", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        stem = f"MCUCXR_{number:04d}_0"
        image, mask = chest(size + number % 3, size, number)
        (root / "CXR_png" / f"{stem}.png").write_bytes(png_bytes(image))
        (root / "masks" / f"{stem}.png").write_bytes(png_bytes(mask))
    return root


def small_config_with_data(root: Path, **changes: object) -> Config:
    """Puts a small data set and its records below `root` and returns a run on them.

    Both are copies, of a folder that no test is told: a test may change them, and changes nothing
    for others.
    """
    shutil.copytree(_small_data_with_records(), root, dirs_exist_ok=True)
    return _on_small_data(root, **changes)


@functools.cache
def _small_data_with_records() -> Path:
    """Makes what `small_config_with_data` copies, once in a process, for it takes seconds."""
    # What reads records is slow to import, and most tests do without it.
    from lungseg_jax.data.records import open_records

    folder = tempfile.TemporaryDirectory(prefix="small-data-")
    atexit.register(folder.cleanup)
    root = Path(folder.name)
    write_small_data(root / "archive")
    open_records(_on_small_data(root))
    return root


def _on_small_data(root: Path, **changes: object) -> Config:
    return small_config(
        data__source="kaggle",
        data__manual_dir=str(root / "archive"),
        data__data_dir=str(root / "records"),
        **changes,
    )


def without_augmentation(config: Config) -> Config:
    """Returns the configuration with every random change switched off."""
    off = {field.name: 0.0 for field in dataclasses.fields(config.augment)} | {"flip": False}
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, **off))


def cut(path: Path) -> None:
    """Halves every file of a checkpoint's state."""
    for file in path.rglob("*"):
        if file.is_file() and file.parent.name in ("d", "state"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
