"""The folder of a run and the configuration it belongs to."""

import dataclasses
import datetime
import json
from typing import Any

import jax
from etils import epath

from lungseg_jax import config as config_lib
from lungseg_jax.config import Config
from lungseg_jax.errors import ConfigError

# What may differ between a run and its resumption: none of it changes what is computed.
_FREE_KEYS = frozenset(
    {
        "parallel",
        "distributed",
        "space_shards",
        "shard_optimizer",
        "keep_checkpoints",
        "data.data_dir",
        "data.manual_dir",
        "data.resident",
        # Records are named by what a file of splits holds.
        "data.splits",
        "evaluation.batch_size",
        "profile",
        "benchmark.data",
        "benchmark.steps",
        "benchmark.warmup_steps",
    }
)


def default_workdir(config_path: str) -> epath.Path:
    """Returns `runs/<config name>-<time>`, to the microsecond: runs may be started together."""
    now = datetime.datetime.now()
    return epath.Path("runs") / f"{epath.Path(config_path).stem}-{now:%Y%m%d-%H%M%S-%f}"


def claim(workdir: epath.Path, config: Config) -> None:
    """Makes the folder a run of this configuration, or checks that it already is one.

    Raises:
      ConfigError: it belongs to a run of another configuration.
    """
    if (workdir / "checkpoints").exists():
        check_same_config(workdir, config)
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        # Renamed into place: a kill must not leave half a file that a resumption cannot read.
        written = workdir / "config.json.new"
        written.write_text(config_lib.to_json(config))
        written.replace(workdir / "config.json")


def read_config(workdir: epath.Path) -> Config:
    """Returns the configuration of the run in a folder.

    Raises:
      ConfigError: the folder holds no run, or one of another version.
    """
    path = workdir / "config.json"
    try:
        return config_lib.from_json(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(workdir, "holds no run", "give the --workdir of a trained run") from error
    except ConfigError as error:
        raise ConfigError(path, str(error), "use the version that trained it") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(path, "is not readable as JSON", "use another folder") from error


def check_same_config(workdir: epath.Path, config: Config) -> None:
    """Checks that the run in a folder was configured as `config` wherever it matters.

    Raises:
      ConfigError: the folder holds no run, or one of another configuration.
    """
    path = workdir / "config.json"
    try:
        # A run from before a key existed has what is now the key's default.
        saved = _flat(dataclasses.asdict(Config())) | _flat(dict(json.loads(path.read_text())))
    except FileNotFoundError as error:
        raise ConfigError(workdir, "holds no run", "give the --workdir of a trained run") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(path, "is not readable as JSON", "use another --workdir") from error
    given = _flat(dataclasses.asdict(config))
    for key in sorted(given.keys() - _FREE_KEYS):
        if saved[key] != given[key]:
            raise ConfigError(
                key,
                f"is {given[key]!r}, but the run in {workdir} has {saved[key]!r}",
                f"pass --config.{key}={saved[key]} or another --workdir",
            )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
