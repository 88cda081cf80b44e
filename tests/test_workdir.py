"""The folder of a run: on which devices it is taken up again does not matter."""

import dataclasses
import shutil
from pathlib import Path

import jax
import pytest
from etils import epath

from lungseg_jax.config import Config
from lungseg_jax.errors import ConfigError
from lungseg_jax.log import Log
from lungseg_jax.parallel import all_devices
from lungseg_jax.state import TrainState
from lungseg_jax.train import loop, start
from lungseg_jax.workdir import check_same_config, claim, read_starts
from tests.small import assert_trees_close, small_config_with_data

# Differences between orders of summation, through two steps of an optimizer.
ROUNDING = {"rtol": 2e-4, "atol": 5e-5}


def train_on(config: Config, workdir: epath.Path, until: int) -> TrainState:
    """Takes the run in a folder up, on to a step, and returns its state there."""
    parallel = all_devices(
        config.parallel, config.space_shards, shard_optimizer=config.shard_optimizer
    )
    run = start(config, parallel, workdir)
    with Log(workdir) as log:
        assert not loop(run, log, lambda step: step == until)
    run.checkpoints.close()
    return jax.device_get(run.state)


def test_a_run_spread_over_devices_goes_on_without(tmp_path, capfd):
    """Fault: a run of many devices refused on one, or taken up with another optimizer's state."""
    tmp_path = epath.Path(tmp_path)
    whole = small_config_with_data(Path(tmp_path), parallel="mesh")
    spread = dataclasses.replace(whole, space_shards=2, shard_optimizer=True)
    train_on(spread, tmp_path / "run", until=3)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    expected = train_on(spread, tmp_path / "run", until=5)
    capfd.readouterr()
    found = train_on(whole, tmp_path / "again", until=5)
    assert "Resuming after step 3" in capfd.readouterr().err
    assert_trees_close(found, expected, **ROUNDING)
    # Fault: a resumption that hides with what the first part was computed.
    assert [start["step"] for start in read_starts(tmp_path / "again")] == [0, 3]


def test_what_changes_no_weights_may_change(tmp_path):
    """Fault: a run refused for how its file of splits is named; a free key that is not."""
    workdir = epath.Path(tmp_path)
    claim(workdir, Config())
    data = dataclasses.replace(Config().data, splits="./splits.json")
    check_same_config(workdir, dataclasses.replace(Config(), data=data))
    with pytest.raises(ConfigError, match="seed: is 1, but the run"):
        check_same_config(workdir, dataclasses.replace(Config(), seed=1))
