"""Weights by name: from the package, a file, or a run."""

import dataclasses
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree

from lungseg_jax import terminal
from lungseg_jax.config import Config, DataConfig, ModelConfig, SourceName
from lungseg_jax.data.labels import num_classes
from lungseg_jax.errors import ConfigError, UserError
from lungseg_jax.network import Variables, abstract_variables, make_model, split_model
from lungseg_jax.parallel import all_devices
from lungseg_jax.paths import is_in_bucket, run_folder
from lungseg_jax.weights import SUFFIX, Calibration, Weights, load_weights, packaged_weights
from lungseg_jax.workdir import read_config, read_splits

PACKAGED = "packaged"

# Sources of the images that the weights in the package were trained on, and what these are called.
SEEN_BY_PACKAGED = ("kaggle", "montgomery", "shenzhen")
_SEEN_IDS = re.compile(r"(MCUCXR|CHNCXR)_\d{4}_[01]")


def find_weights(name: epath.PathLike) -> Weights:
    """Returns weights; a run's are those of its best checkpoint, and not calibrated.

    Args:
      name: `packaged`, a file of `lungseg_jax.export`, the folder of a run, or that of one of its
        checkpoints, `RUN/checkpoints/STEP`.

    Raises:
      ConfigError: there is no such folder, or it holds no run.
      CheckpointError: the file, or every checkpoint of the run, cannot be read; or there is no such
        file.
    """
    if name == PACKAGED:
        return load_weights(packaged_weights())
    path = run_folder(name)
    if path.suffix == SUFFIX:
        return load_weights(path)
    if not path.exists():
        remedy = f"give {PACKAGED}, a file of lungseg_jax.export, or the folder of a run"
        raise ConfigError(name, "no such file or folder", remedy)
    return restore_weights(path)[0]


def restore_weights(folder: epath.Path) -> tuple[Weights, dict[str, Any]]:
    """Returns the weights of a checkpoint, not calibrated, and its `data_state`.

    Args:
      folder: that of a run, whose best checkpoint is read, or of one of its checkpoints.

    Raises:
      ConfigError: the folder holds no run.
      CheckpointError: it holds no checkpoint that can be read.
    """
    # Here, because Orbax takes a second to import.
    from lungseg_jax.checkpoint import Checkpoints

    workdir, step = run_and_step(folder)
    config = read_config(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints", None, all_devices("mesh"))
    saved = checkpoints.restore_weights(abstract_variables(config), step)
    checkpoints.close()
    terminal.say(f"{workdir}: weights of step {saved.step} of {config.num_steps}")
    return Weights(config, jax.device_get(saved.variables), Calibration()), saved.data_state


def run_and_step(folder: epath.Path) -> tuple[epath.Path, int | None]:
    """Returns a run's folder, and the step of the checkpoint that the path names, if it does."""
    is_run = (folder / "config.json").exists()
    if folder.parent.name == "checkpoints" and folder.name.isdecimal() and not is_run:
        return folder.parent.parent, int(folder.name)
    return folder, None


def variables_to_start_from(config: Config) -> Variables | None:
    """Returns what a run starts from by its key `start_from`; `None` for random initial weights.

    Of a network with other labels, all but the layer that tells the classes apart is taken over.

    Raises:
      ConfigError: the weights are of another network.
      CheckpointError: they cannot be read.
    """
    if not config.start_from:
        return None
    weights = find_weights(config.start_from)
    say_if_seen(config.start_from, weights.config, config.data.source)
    if differences := _differences(config, weights.config):
        raise ConfigError(
            "start_from",
            f"{config.start_from} belongs to another network",
            f"set {', '.join(differences)}",
        )
    side, trained = config.data.image_size, weights.config.data.image_size
    if side != trained:
        terminal.say(
            f"{config.start_from} was trained with data.image_size={trained}, this run has {side}: "
            "it must learn another scale first"
        )
    if config.data.labels == weights.config.data.labels:
        return weights.variables
    parameters, batch_stats = weights.variables
    return {**parameters, "head": _head_for_other_labels(config, weights)}, batch_stats


def _head_for_other_labels(config: Config, weights: Weights) -> PyTree:
    """Returns the last layer that a network with the configured labels starts with."""
    if weights.config.data.labels == "lungs":
        terminal.say(f"{config.start_from} has other labels: each class begins as lung")
        classes = num_classes(config.data.labels)
        # Classes are the fastest axis of the last layer's channels; see `depth_to_space`.
        return jax.tree.map(lambda x: np.repeat(x, classes, axis=-1), weights.variables[0]["head"])
    terminal.say(f"{config.start_from} has other labels: its last layer begins anew")
    _, initial, _ = split_model(make_model(config))
    return jax.device_get(initial["head"])


def say_if_seen(
    name: str, trained: Config, source: SourceName, example_ids: Iterable[str] = ()
) -> None:
    """Warns if weights, or those they started from, were trained on the images to be measured.

    Args:
      name: the weights' name.
      trained: the configuration they were trained with.
      source: the images' source.
      example_ids: the images' ids, where they are known: those of copies tell, too.
    """
    if PACKAGED not in (name, trained.start_from):
        return
    if source in SEEN_BY_PACKAGED or any(map(_SEEN_IDS.search, example_ids)):
        terminal.say(
            "The weights in the package were trained on images of Montgomery and Shenzhen: "
            "on these, metrics will be too high"
        )


def say_if_trained_on(
    name: str, trained: DataConfig, data: DataConfig, example_ids: Collection[str]
) -> None:
    """Warns if a run's own images, most of which it was trained on, are to be measured.

    Args:
      name: what was given as --checkpoint.
      trained: the data that it was trained on.
      data: the data to be measured.
      example_ids: the ids of the images to be measured.
    """
    remedy = (
        "figures will be too high; --config.data.splits=RUN/splits.json measures the run's test "
        "images alone"
    )
    seen = ids_trained_on(name)
    if common := len(seen.intersection(example_ids)):
        terminal.say(
            f"{name}: {common} of {len(example_ids)} images have ids of images that it was trained "
            f"or selected on; if they are the same, {remedy}"
        )
    if seen:
        return
    # A run of an earlier version. Files of weights name no images, which may identify patients.
    folders = {Path(one.manual_dir).expanduser().resolve() for one in (trained, data)}
    held_out = bool(data.splits) and data.splits == trained.splits
    if name != PACKAGED and trained.manual_dir and len(folders) == 1 and not held_out:
        terminal.say(f"{name} was trained on images of this folder: {remedy}")


def ids_trained_on(name: str) -> set[str]:
    """Returns the ids of the images that weights were trained or selected on, as far as is known.

    Those of a run and of the runs that it started from; none of files.

    Args:
      name: the weights' name.
    """
    seen: set[str] = set()
    visited: set[str] = set()
    while name and name != PACKAGED and name not in visited:
        visited.add(name)
        try:
            workdir, _ = run_and_step(run_folder(name))
            splits = read_splits(workdir)
            seen |= {*splits["train"], *splits["val"]}
            name = read_config(workdir).start_from
            # A run from elsewhere does not make this machine go online with its user's login.
            if is_in_bucket(epath.Path(name)) and not is_in_bucket(workdir):
                break
        except UserError:
            # A file, a run of an earlier version, or one that was removed since.
            break
    return seen


def _differences(config: Config, other: Config) -> list[str]:
    """Returns, as KEY=VALUE, the keys that give the configured network the other one's form.

    Labels are not among them, because they change the last layer alone.
    """
    keys = [field.name for field in dataclasses.fields(ModelConfig)]
    pairs = {
        f"model.{key}": (getattr(config.model, key), getattr(other.model, key)) for key in keys
    }
    # The compute type, and which activations are kept, are no part of the weights.
    del pairs["model.dtype"], pairs["model.remat"]
    return [f"{key}={theirs}" for key, (ours, theirs) in pairs.items() if ours != theirs]
