"""Training that starts from existing weights."""

import dataclasses
import json
import shutil
import typing
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from etils import epath

from lungseg_jax.config import Config, DataConfig, SourceName
from lungseg_jax.errors import CheckpointError, ConfigError
from lungseg_jax.find_weights import (
    find_weights,
    ids_trained_on,
    say_if_seen,
    variables_to_start_from,
)
from lungseg_jax.log import Log
from lungseg_jax.network import make_forward, make_model, split_model
from lungseg_jax.parallel import all_devices
from lungseg_jax.state import TrainState
from lungseg_jax.step import prepare_step
from lungseg_jax.train import loop, started
from lungseg_jax.weights import Calibration, Weights, checksum, save_weights
from lungseg_jax.workdir import claim, read_starts
from tests.small import assert_trees_equal, small_config, small_config_with_data
from tests.untrained import untrained_weights


@pytest.fixture
def saved(tmp_path) -> Weights:
    """Weights of another seed, in `other.safetensors`."""
    save_weights(tmp_path / "other.safetensors", untrained_weights(Calibration(), seed=7))
    return find_weights(str(tmp_path / "other.safetensors"))


def begin(config: Config, workdir: Path) -> TrainState:
    """Begins a run or takes it up, and returns its state there."""
    with started(config, all_devices("mesh"), epath.Path(workdir)) as run:
        return run.state


def train_until(config: Config, workdir: Path, until: int):
    """Starts or resumes a run up to a step; returns its state at the beginning and at the end."""
    with started(config, all_devices(config.parallel), epath.Path(workdir)) as run:
        first = jax.device_get(run.state)
        with Log(epath.Path(workdir), first_step=1) as log:
            loop(run, log, lambda step: step == until)
    return first, jax.device_get(run.state)


@pytest.mark.parametrize("kind", ["pmap", pytest.param("mesh", marks=pytest.mark.slow)])
def test_a_run_starts_from_the_weights_and_resumes_without_them(tmp_path, saved, kind):
    """Fault: weights not taken, or averaged with random ones; a run bound to a file for ever."""
    path = tmp_path / "other.safetensors"
    config = small_config_with_data(tmp_path, parallel=kind, start_from=str(path))
    first, _ = train_until(config, tmp_path / "run", 3)
    assert_trees_equal((first.parameters, first.batch_stats), saved.variables)
    assert_trees_equal(first.ema, saved.variables)
    assert int(first.step) == 0
    random = dataclasses.replace(config, start_from="")
    other, _ = train_until(random, tmp_path / "random", 1)
    leaf, expected = (jax.tree.leaves(state.parameters)[-1] for state in (other, first))
    assert np.abs(leaf - expected).max() > 0
    # What makes steps of it is not taken over.
    assert_trees_equal(first.optimizer, other.optimizer)
    _, expected = train_until(config, tmp_path / "whole", 5)
    path.unlink()
    resumed, found = train_until(config, tmp_path / "run", 5)
    assert int(resumed.step) == 3
    assert_trees_equal(found, expected)


def test_weights_outlive_the_optimizer_they_were_trained_by(tmp_path, monkeypatch):
    """Fault: intact weights that no command takes, or a run called damaged, by a new optimizer."""
    config = small_config_with_data(tmp_path, parallel="mesh")
    with monkeypatch.context() as patch:
        patch.setattr("lungseg_jax.step.make_optimizer", lambda _: optax.sgd(1e-3, momentum=0.9))
        _, last = train_until(config, tmp_path / "run", 2)
    found = find_weights(str(tmp_path / "run"))
    assert_trees_equal(found.variables, last.ema)
    assert found.config == config
    # Fault: a run whose own folder has the name of a checkpoint's, taken for one of another run.
    (tmp_path / "checkpoints").mkdir()
    alike = (tmp_path / "run").rename(tmp_path / "checkpoints" / "20261204")
    assert_trees_equal(find_weights(str(alike)).variables, last.ema)
    alike.rename(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"checkpoints: holds no run; give \S+/run, which does"):
        find_weights(str(tmp_path / "run" / "checkpoints"))
    start_from = dataclasses.replace(config, start_from=str(tmp_path / "run"))
    assert_trees_equal(variables_to_start_from(start_from), last.ema)
    before = sorted((tmp_path / "run" / "checkpoints").rglob("*"))
    with pytest.raises(CheckpointError, match="another optimizer or network; use the code"):
        begin(config, tmp_path / "run")
    assert sorted((tmp_path / "run" / "checkpoints").rglob("*")) == before


@pytest.mark.parametrize("left", ["5.orbax-checkpoint-tmp/state", "5/metrics/metrics"])
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_from_them_again(
    tmp_path, saved, left: str
):
    """Fault: random weights without a word, for what a kill has left looks like a checkpoint."""
    path = tmp_path / "other.safetensors"
    config = small_config_with_data(tmp_path, parallel="mesh", start_from=str(path))
    workdir = epath.Path(tmp_path / "run")
    claim(workdir, config)
    (workdir / "checkpoints" / left).parent.mkdir(parents=True)
    (workdir / "checkpoints" / left).touch()
    state = begin(config, workdir)
    assert_trees_equal(jax.device_get(state.parameters), saved.variables[0])
    (begun,) = read_starts(workdir)
    assert begun["arrays"] == checksum(saved.variables)


def test_wrong_or_absent_weights_are_refused_before_anything_is_built(tmp_path, saved):
    """Fault: an error of shapes from within JAX, or one after hours of converting."""
    path = str(tmp_path / "other.safetensors")
    wider = small_config_with_data(tmp_path, model__width=8, start_from=path)
    shutil.rmtree(tmp_path / "records")
    message = r"^start_from: .*other.safetensors belongs to another network; set model.width=4$"
    with pytest.raises(ConfigError, match=message):
        begin(wider, tmp_path / "run")
    absent = dataclasses.replace(wider, start_from=str(tmp_path / "absent.safetensors"))
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        begin(absent, tmp_path / "run")
    assert not (tmp_path / "records").exists()
    sided = small_config(data__labels="left_right", model__activation="silu", start_from=path)
    with pytest.raises(ConfigError, match=r"; set model.activation=relu$"):
        variables_to_start_from(sided)
    # Types and what is kept in memory are no part of a network.
    alike = small_config(model__dtype="bfloat16", model__remat=True, start_from=path)
    found = variables_to_start_from(alike)
    assert found is not None
    assert_trees_equal(found, saved.variables)


def test_a_run_can_start_from_the_packaged_weights():
    """Fault: the word taken for a folder; weights that the default network cannot begin with."""
    config = Config(start_from="packaged")
    found = variables_to_start_from(config)
    assert found is not None
    assert_trees_equal(found, find_weights("packaged").variables)


@pytest.mark.parametrize("source", typing.get_args(SourceName))
def test_images_that_the_packaged_weights_have_seen_are_named(source, capsys):
    """Fault: test figures on images that were trained on, published as if they were new."""
    variables_to_start_from(Config(start_from="packaged", data=DataConfig(source=source)))
    seen = source in ("kaggle", "montgomery", "shenzhen")
    assert ("metrics will be too high" in capsys.readouterr().err) == seen
    # Copies, too, whatever they are read as.
    say_if_seen("packaged", Config(), source, ["p1", "MCUCXR_0001_0"])
    assert "metrics will be too high" in capsys.readouterr().err


def test_each_class_begins_as_lung(tmp_path, saved, capsys):
    """Fault: what a network knows of lungs lost where sides are learnt, or classes mixed up."""
    path = str(tmp_path / "other.safetensors")
    config = small_config_with_data(
        tmp_path, data__labels="left_right", augment__flip=False, parallel="mesh", start_from=path
    )
    found = variables_to_start_from(config)
    assert found is not None
    parameters, batch_stats = found
    assert_trees_equal(batch_stats, saved.variables[1])
    rest = {name: layer for name, layer in parameters.items() if name != "head"}
    assert_trees_equal(rest, {name: saved.variables[0][name] for name in rest})
    assert "other labels: each class begins as lung" in capsys.readouterr().err
    images = jax.random.bits(jax.random.key(0), (2, 32, 32, 1), "uint16")
    of_lungs = jax.jit(make_forward(saved.config))(saved.variables, images)
    of_sides = jax.jit(make_forward(config))(found, images)
    np.testing.assert_allclose(of_sides, np.repeat(of_lungs, 2, axis=-1), atol=1e-6)
    state, _ = prepare_step(config, all_devices("mesh"), found)
    assert_trees_equal(jax.device_get(state.parameters), parameters)


def test_classes_of_sides_say_nothing_of_both_lungs(tmp_path, capsys):
    """Fault: the right lung's layer taken for that of both."""
    config = small_config(data__labels="left_right", augment__flip=False, start_from="")
    _, parameters, batch_stats = split_model(make_model(config))
    sided = tmp_path / "sided.safetensors"
    save_weights(sided, Weights(config, jax.device_get((parameters, batch_stats)), Calibration()))
    lungs = small_config(seed=3, start_from=str(sided))
    found = variables_to_start_from(lungs)
    assert found is not None
    _, initial, _ = split_model(make_model(lungs))
    assert_trees_equal(found[0]["head"], initial["head"])
    assert_trees_equal(found[0]["encoder"], find_weights(str(sided)).variables[0]["encoder"])
    assert "other labels: its last layer begins anew" in capsys.readouterr().err


def test_a_run_names_its_splits_and_warns_of_test_images_that_were_trained_on(tmp_path, capsys):
    """Fault: splits of an earlier run; a fine-tuned network tested on what it was trained on."""
    config = small_config_with_data(tmp_path, parallel="mesh")
    stale = tmp_path / "first" / "splits.json"
    stale.parent.mkdir()
    stale.write_text('{"train": ["a"], "val": ["b"], "test": ["c"]}')
    train_until(config, tmp_path / "first", 5)
    splits = json.loads(stale.read_text())
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 21, "val": 3, "test": 6}
    assert ids_trained_on(str(tmp_path / "first")) == {*splits["train"], *splits["val"]}
    tuned = dataclasses.replace(config, start_from=str(tmp_path / "first"))
    capsys.readouterr()
    for seed, seen in ((config.seed, False), (config.seed + 1, True)):
        begin(dataclasses.replace(tuned, seed=seed), tmp_path / f"{seed}")
        said = capsys.readouterr().err
        assert (f"test images have ids of images that {tuned.start_from} was" in said) == seen
    # Fault: a run that ends because a report for people is damaged.
    for report in tmp_path.rglob("build_report.json"):
        report.write_text("{")
    begin(config, tmp_path / "last")
    assert "No splits.json: " in capsys.readouterr().err
    assert not (tmp_path / "last" / "splits.json").exists()


@pytest.mark.parametrize("start_from", ["gs://bucket/run", "/gs/bucket/run"])
def test_a_run_from_elsewhere_does_not_go_online(tmp_path, monkeypatch, start_from: str):
    """Fault: a bucket that its author named is looked up with the login of who validates it."""
    claim(epath.Path(tmp_path), small_config(start_from=start_from))
    splits = {"train": ["a"], "val": ["b"], "test": ["c"]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))

    def look_up(*_: object) -> None:
        raise AssertionError("a bucket was looked up")

    monkeypatch.setattr("lungseg_jax.paths._open_bucket", look_up)
    assert ids_trained_on(str(tmp_path)) == {"a", "b"}
