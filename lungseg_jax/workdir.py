"""The folder of a run and the configuration it belongs to."""

import contextlib
import dataclasses
import datetime
import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
from etils import epath

from lungseg_jax import config as config_lib
from lungseg_jax import terminal
from lungseg_jax.config import Config
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.paths import (
    SPLITS,
    VALIDATION,
    check_has_end,
    is_in_bucket,
    make_folder,
    read_file,
    write_whole,
)
from lungseg_jax.runtime.alone import alone_in
from lungseg_jax.runtime.hosts import check_folder_is_shared, in_any_process
from tfds_builder.splits import read_split_file

# Keys that may differ between a run and its resumption: they change weights by rounding at most.
_FREE_KEYS = frozenset(
    {
        "parallel",
        "distributed",
        "space_shards",
        "shard_optimizer",
        "keep_checkpoints",
        "data.data_dir",
        "data.manual_dir",
        # Another share does not change which images were taken.
        "data.max_bad_share",
        "data.resident",
        # Records are named by what a split file holds.
        "data.splits",
        "evaluation.batch_size",
        # It changes which checkpoints there are, and so which one is the best.
        "evaluation.every",
        "evaluation.tolerance_mm",
        "evaluation.tolerance_px",
        "model.remat",
        "profile",
        "benchmark.data",
        "benchmark.steps",
        "benchmark.warmup_steps",
    }
)

# Those of them that change figures all the same: by rounding, or by which checkpoint is measured.
_NOTED_KEYS = ("parallel", "space_shards", "shard_optimizer", "model.remat", "evaluation.every")

# Keys in which, besides the free ones, the seeds or the folds of one recipe differ.
_REPEAT_KEYS = frozenset({"seed", "fold"})


def default_workdir(config_path: str) -> epath.Path:
    """Returns `runs/<config name>-<time>`, to the microsecond: runs may be started together."""
    now = datetime.datetime.now()
    return epath.Path("runs") / f"{epath.Path(config_path).stem}-{now:%Y%m%d-%H%M%S-%f}"


def check_free(workdir: epath.Path, config: Config) -> None:
    """Checks that a folder, if it exists, is one and holds no run of another configuration.

    Raises:
      ConfigError: it is a file, or holds such a run or a validation.
    """
    if workdir.is_file():
        raise ConfigError(workdir, "is a file", "give a folder as --workdir")
    if (workdir / VALIDATION).exists():
        fault = "holds figures of lungseg_jax.validate or measure"
        raise ConfigError(workdir, fault, "give another --workdir")
    # A bucket has no folder without a file in it. Figures remain a run's own when its checkpoints
    # were deleted.
    has_figures = (workdir / "metrics.json").exists()
    claimed = (is_in_bucket(workdir) or has_figures) and (workdir / "config.json").exists()
    if claimed or (workdir / "checkpoints").exists():
        check_same_config(workdir, config)


@contextlib.contextmanager
def alone_in_run(workdir: epath.Path) -> Iterator[None]:
    """Keeps other jobs out of the folder of a run: each would take the other's files for its own.

    The folder is made if need be. In a bucket, which has no locks, nothing is kept out.

    Raises:
      DataError: another job is in it; raised in every process of this one.
      ConfigError: the processes do not share it; raised in every one.
    """
    remedy = "wait for its end, or give another --workdir"
    refused = None
    with contextlib.ExitStack() as until_done:
        # Of a job's processes, the first one writes.
        if jax.process_index() == 0 and not is_in_bucket(workdir):
            try:
                make_folder(workdir)
                until_done.enter_context(alone_in(workdir, remedy))
            except (DataError, OSError) as error:
                refused = error
        if in_any_process(refused is not None):
            fault = "is in use by another job, or cannot be written to (the first host says which)"
            raise refused or DataError(workdir, fault, remedy)
        # A bucket is the same one for all.
        if not is_in_bucket(workdir):
            check_folder_is_shared(workdir)
        yield


def claim(workdir: epath.Path, config: Config) -> None:
    """Makes a free folder the run's own."""
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        write_whole(workdir / "config.json", config_lib.to_json(config).encode())


def check_still_there(workdir: epath.Path) -> None:
    """Checks that a run's folder has not been removed, or replaced, while the run goes on.

    Raises:
      DataError: it no longer holds the run.
    """
    if not (workdir / "config.json").exists():
        fault = "no longer holds this run: its config.json is gone"
        # With its disk, the run comes back.
        remedy = "bring the disk back, then resume or, if the file was removed, train again"
        raise DataError(workdir, fault, remedy)


def record_start(
    workdir: epath.Path,
    config: Config,
    environment: dict[str, Any],
    *,
    images: str | None,
    builder: str,
    dtype: str,
    step: int,
    mode: Literal["train", "eval"] = "train",
    begun_with: str | None = None,
) -> None:
    """Adds this start's code, images, versions and devices to `environment.json`.

    Any of it may change the bits of what follows, and may differ after a resumption; a change of
    the compute type is reported.

    Args:
      workdir: the run's folder.
      config: the run's configuration.
      environment: see `environment.environment`.
      images: see `Records.images_digest`.
      builder: version of the builder that made the records.
      dtype: what the network computes in.
      step: the state's step.
      mode: what is done.
      begun_with: checksum of the weights that the run started from, written as `arrays`.
    """
    if jax.process_index() > 0:
        return
    starts = read_starts(workdir)
    if starts and starts[-1].get("dtype", dtype) != dtype:
        terminal.say(f"Computing in {dtype}; until now the run used {starts[-1]['dtype']}")
    begun = {} if begun_with is None else {"start_from": config.start_from, "arrays": begun_with}
    flat = _flat(dataclasses.asdict(config))
    on = {"num_devices": jax.device_count()} | {key: flat[key] for key in _NOTED_KEYS}
    made_from = {"images": images, "builder": builder}
    about = {"mode": mode, "step": step, **begun, **made_from, "dtype": dtype}
    starts.append(about | on | environment)
    text = json.dumps(starts, indent=2) + "\n"
    write_whole(workdir / "environment.json", text.encode())


def read_starts(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns what `record_start` wrote about a run, in order; nothing if that cannot be read."""
    try:
        starts = json.loads(read_file(workdir / "environment.json"))
    except (OSError, ValueError, RecursionError):
        # It is for people: no run depends on it.
        return []
    return (
        [start for start in starts if isinstance(start, dict)] if isinstance(starts, list) else []
    )


def read_config(workdir: epath.Path) -> Config:
    """Returns the configuration of the run in a folder.

    Raises:
      ConfigError: the folder holds no run, or one of another version.
    """
    path = workdir / "config.json"
    try:
        return config_lib.from_json(read_file(path))
    except FileNotFoundError as error:
        remedy = "give the folder of a trained run"
        if workdir.name == "checkpoints" and (workdir.parent / path.name).exists():
            remedy = f"give {workdir.parent}, which does, or one of its checkpoints"
        raise ConfigError(workdir, _fault_without_run(workdir), remedy) from error
    except NotADirectoryError as error:
        fault = "is a file, but neither a run's folder nor .safetensors"
        raise ConfigError(workdir, fault, "give the folder of a trained run") from error
    except ConfigError as error:
        raise ConfigError(path, str(error), "use the version that wrote it") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, "is not readable as JSON", "use another folder") from error


def read_splits(workdir: epath.Path) -> dict[str, list]:
    """Returns the ids of each split of the run in a folder.

    Raises:
      ConfigError: they are not known.
    """
    path = workdir / SPLITS
    try:
        check_has_end(path)
    except OSError as error:
        raise ConfigError(path, str(error.strerror), "use another folder") from error
    return read_split_file(path)


def check_same_config(workdir: epath.Path, config: Config) -> None:
    """Checks that the run in a folder was configured as `config` wherever it matters.

    Raises:
      ConfigError: the folder holds no run, or one of another configuration.
    """
    path = workdir / "config.json"
    try:
        saved = _saved(path)
    except FileNotFoundError as error:
        if (workdir / "checkpoints").exists():
            fault, remedy = f"has checkpoints, but no {path.name}", "give another --workdir"
        else:
            fault, remedy = _fault_without_run(workdir), "give the --workdir of a trained run"
        raise ConfigError(workdir, fault, remedy) from error
    given = _flat(dataclasses.asdict(config))
    others = [key for key in sorted(given.keys() - _FREE_KEYS) if saved[key] != given[key]]
    # Another file may say the same; with none instead of one, other records would be built.
    if bool(saved["data.splits"]) != bool(given["data.splits"]):
        others.append("data.splits")
    if others:
        key, *more = others
        fault = f"is {given[key]!r}, but the run in {workdir} has {saved[key]!r}"
        if more:
            fault += f"; {', '.join(more)} {'differ' if more[1:] else 'differs'} too"
        flags = shlex.join(f"--config.{key}={saved[key]}" for key in others)
        raise ConfigError(key, fault, f"pass {flags} or another --workdir")


def recipe_differences(workdirs: Sequence[epath.Path]) -> dict[str, list[Any]]:
    """Returns the keys in which runs differ by more than seed and fold, with each run's value.

    Each may start from a run of its own. Nothing if a folder holds no configuration, as those of
    `lungseg_jax.validate` and `measure`.

    Raises:
      ConfigError: a configuration cannot be read.
    """
    try:
        configs = [_saved(workdir / "config.json") for workdir in workdirs]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    values = {
        key: [config[key] for config in configs]
        for key in sorted(set.intersection(*(set(config) for config in configs)))
    }
    values["start_from"] = [_kind_of_start(name) for name in values["start_from"]]
    repeated = (_FREE_KEYS - {"evaluation.every"}) | _REPEAT_KEYS
    return {
        key: found
        for key, found in values.items()
        if key not in repeated and any(value != found[0] for value in found)
    }


def measured_by(folder: epath.Path) -> str:
    """Returns the command that wrote a folder's metrics: `main`, `validate` or `measure`."""
    path = folder / VALIDATION
    if not path.exists():
        return "main"
    try:
        return str(json.loads(read_file(path))["command"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        # An earlier version wrote it, or it is damaged.
        return "validate"


def _kind_of_start(name: str) -> str:
    return name if name in ("", "packaged") else "other weights"


def _saved(path: epath.Path) -> dict[str, Any]:
    """Returns the keys in a file of a configuration, flat.

    Raises:
      FileNotFoundError: there is none.
      ConfigError: it cannot be read.
    """
    # A run from before a key existed has what is now the key's default.
    defaults = dataclasses.asdict(Config())
    try:
        keys = config_lib.read_keys(read_file(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, "is not readable as JSON", "use another folder") from error
    for key, value in keys.items():
        if isinstance(defaults.get(key), dict) and not isinstance(value, dict):
            raise ConfigError(path, f"has {value!r} as {key}", "use another folder")
    return _flat(defaults) | _flat(keys)


def _fault_without_run(workdir: epath.Path) -> str:
    return "holds no run" if workdir.exists() else "no such folder"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
