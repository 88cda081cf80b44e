"""The loop's bookkeeping; whole runs are in test_run.py."""

import contextlib
import dataclasses
import functools
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import SessionLog
from tqdm import tqdm

from lungseg_jax import train
from lungseg_jax.checkpoint import Checkpoints
from lungseg_jax.config import Config
from lungseg_jax.data.records import open_records
from lungseg_jax.errors import CheckpointError, DataError, DivergedError
from lungseg_jax.evaluate import Evaluator, evaluate
from lungseg_jax.export import calibrated_weights_of_run
from lungseg_jax.find_weights import find_weights
from lungseg_jax.log import HISTORY, Log
from lungseg_jax.metrics import ImageMetrics, measure_masks, summarize
from lungseg_jax.parallel import all_devices
from lungseg_jax.pending import Pending
from lungseg_jax.runtime.alone import LOCK, alone_in
from lungseg_jax.step import prepare_step
from lungseg_jax.train import Training, train_and_evaluate, validate
from lungseg_jax.workdir import read_config
from tests.events import events_in
from tests.small import assert_trees_equal, small_config_with_data


def with_a_step(log: Log) -> Pending:
    """What a validation gets: the figures of a step that is done."""
    pending = Pending(Config(), log, tqdm(disable=True), functools.partial(train._diverged, None))
    named = {"loss": 0.5, "dice": 0.25, "gradient_norm": 1.0, "parameter_norm": 1.0}
    pending.add(9, np.arange(16), {key: jnp.float32(value) for key, value in named.items()})
    pending.drain()
    return pending


def test_divergence_ends_a_run_and_names_the_images(tmp_path):
    """Fault: weights of NaN, trained on until the last step and kept as the best."""
    config = small_config_with_data(
        tmp_path, num_steps=4, optimizer__learning_rate=1e30, optimizer__warmup_steps=1
    )
    with pytest.raises(DivergedError, match=r"step [234]: loss .* on the batch of MCUCXR_\d+_0, "):
        train_and_evaluate(config, tmp_path / "run")


def test_divergence_names_some_images_and_the_checkpoint_that_was_being_saved():
    """Fault: hundreds of ids in one line, or "none was saved" while one is on its way to disk."""
    done = []
    run = object.__new__(Training)
    run.records = {"train": SimpleNamespace(metadata=lambda i: SimpleNamespace(example_id=f"p{i}"))}
    run.checkpoints = SimpleNamespace(
        wait=lambda: done.append(6),
        latest_step=lambda: max(done, default=None),
        directory=Path("c"),
    )
    figures = {"loss": np.nan, "gradient_norm": 1.0, "parameter_norm": 1.0}
    said = str(train._diverged(run, 7, np.arange(20), figures))
    assert said.startswith(
        "step 7: loss nan, gradient_norm 1.0, parameter_norm 1.0 on the batch of p0, "
    )
    assert ", p15 and 4 more; last good checkpoint: c/6;" in said


def test_distances_of_files_of_one_size_are_told_in_pixels():
    """Fault: pixels of several sizes averaged, or percent called pixels."""
    figures = {"hd95_px": 3.0, "hd95_percent": 1.5}
    assert train._hd95(figures | {"longer_side_px": 512}) == "3.00 px"
    assert train._hd95(figures | {"longer_side_px": None}) == "1.50 % of side"


def test_exchanged_sides_make_no_best_checkpoint(tmp_path, capsys):
    """Fault: a checkpoint kept, and shown, as the best that takes right for left."""
    both = np.zeros((8, 8, 2), bool)
    both[2:6, 1:3, 0] = both[2:6, 5:7, 1] = True
    run = object.__new__(Training)
    run.records, run.state = {"val": None}, SimpleNamespace(ema=None)
    for predicted, dice in ((both, 1.0), (both[..., ::-1], 0.0)):
        figures: Any = measure_masks(
            predicted, both, spacing_mm=None, tolerance_px=2.0, tolerance_mm=2.0
        )
        rows = [ImageMetrics("a", "", **figures)]
        assert rows[0].dice == 1
        run.evaluator = SimpleNamespace(measure=lambda *_, rows=rows: rows, overlays=lambda *_: {})
        with Log(epath.Path(tmp_path), first_step=1) as log:
            assert validate(run, log, 10, with_a_step(log)) == dice
        said = capsys.readouterr().err
        history = (tmp_path / HISTORY).read_text().splitlines()
        column = history[0].split(",").index("val_mean_dice_of_sides")
        assert float(history[-1].split(",")[column]) == dice
        assert f"Dice {dice:.4f} (the mean of right, {dice:.4f}, and left, {dice:.4f})" in said


def test_a_validation_without_any_dice_ranks_last(tmp_path, capsys):
    """Fault: NaN as the Dice by which the best is chosen: it is neither more nor less than any."""
    none = np.zeros((8, 8, 1), bool)
    figures: Any = measure_masks(none, none, spacing_mm=None, tolerance_px=2.0, tolerance_mm=2.0)
    row = ImageMetrics("a", "", **figures)
    run = object.__new__(Training)
    run.records, run.state = {"val": None}, SimpleNamespace(ema=None)
    run.evaluator = SimpleNamespace(measure=lambda *_: [row], overlays=lambda *_: {})
    with Log(epath.Path(tmp_path), first_step=1) as log:
        assert validate(run, log, 10, with_a_step(log)) == 0
    assert "validation Dice nan" in capsys.readouterr().err


def test_the_image_logged_is_the_averaged_models_median(tmp_path):
    """Fault: the worst image shown as the usual one, or what the weights before averaging find."""
    reference = np.zeros((8, 8, 1), bool)
    reference[2:6, 2:6] = True
    rows = []
    for name, height in (("best", 6), ("worst", 3), ("median", 4)):
        predicted = reference.copy()
        predicted[height:] = False
        figures: Any = measure_masks(
            predicted, reference, spacing_mm=None, tolerance_px=2.0, tolerance_mm=2.0
        )
        rows.append(ImageMetrics(name, "", **figures))
    asked = []
    run = object.__new__(Training)
    run.records, run.state = {"val": None}, SimpleNamespace(ema="average", parameters="last")

    def overlays(variables, _, positions) -> dict:
        asked.append((variables, list(positions)))
        return {}

    run.evaluator = SimpleNamespace(measure=lambda *_: rows, overlays=overlays)
    with Log(epath.Path(tmp_path), first_step=1) as log:
        validate(run, log, 10, with_a_step(log))
    assert asked == [("average", [2])]


def test_a_stop_during_a_validation_trains_no_further(tmp_path, monkeypatch):
    """Fault: a step and a second checkpoint in the seconds that a preempted machine has left."""
    config = small_config_with_data(tmp_path, num_steps=6, evaluation__every=2)
    asked = []

    def validate_and_ask(*arguments) -> float:
        asked.append(True)
        return validate(*arguments)

    monkeypatch.setattr(train, "validate", validate_and_ask)
    monkeypatch.setattr(
        train, "stop_after_step", lambda: contextlib.nullcontext(lambda _: bool(asked))
    )
    assert train_and_evaluate(config, tmp_path / "run") is None
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert [name for name in saved if name.isdigit()] == ["2"]


def test_a_folder_that_is_removed_ends_the_run(tmp_path, monkeypatch):
    """Fault: days of training into a folder that no command takes for a run."""
    config = small_config_with_data(tmp_path, num_steps=6, evaluation__every=2)

    def validate_and_remove(*arguments) -> float:
        shutil.rmtree(tmp_path / "run")
        return validate(*arguments)

    monkeypatch.setattr(train, "validate", validate_and_remove)
    with pytest.raises(DataError, match="run: no longer holds this run"):
        train_and_evaluate(config, tmp_path / "run")


def test_figures_are_of_the_best_checkpoint_and_say_so(tmp_path, monkeypatch, capfd):
    """Fault: the last checkpoint evaluated, or the weights before averaging validated.

    Validation Dice falls, so that the best is not the last.
    """
    config = small_config_with_data(tmp_path, num_steps=6, evaluation__every=2, keep_checkpoints=1)
    told = []

    def falling(run, log, step, pending) -> float:
        expected = run.evaluator.measure(run.state.ema, run.records["val"])
        raw = (run.state.parameters, run.state.batch_stats)
        told.append((validate(run, log, step, pending), summarize(expected)["dice"]))
        assert summarize(run.evaluator.measure(raw, run.records["val"]))["dice"] != told[-1][1]
        return 1 - step / 10

    monkeypatch.setattr(train, "validate", falling)
    summary = train_and_evaluate(config, tmp_path / "run")
    assert summary is not None
    assert [found for found, _ in told] == [expected for _, expected in told]
    # Fault: a disk filled by more checkpoints than were asked for, or the best one deleted.
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {name for name in kept if name.isdigit()} == {"2", "6"}
    parallel = all_devices(config.parallel)
    evaluator, records = Evaluator(config, parallel), open_records(config)
    template, _ = prepare_step(config, parallel)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", None, parallel)
    last = checkpoints.restore_latest(template)
    assert last is not None
    assert int(last[0].step) == 6
    variables = find_weights(str(tmp_path / "run")).variables
    rows = evaluator.measure(parallel.replicate(variables), records["test"])
    assert summary["test"]["dice"] == pytest.approx(summarize(rows)["dice"], abs=1e-6)
    of_last = summarize(evaluator.measure(last[0].ema, records["test"]))["dice"]
    assert summary["test"]["dice"] != pytest.approx(of_last, abs=1e-6)
    capfd.readouterr()
    again = evaluate(config, tmp_path / "run")
    assert again == summary
    assert summary["test"]["checkpoint_is_best"]
    assert not evaluate(config, tmp_path / "run", 6)["test"]["checkpoint_is_best"]
    # Fault: a run said to be unfinished because its best checkpoint is not its last.
    said = capfd.readouterr().err
    assert "Evaluating the checkpoint of step 2 of 6" in said
    assert "not finished" not in said
    assert again["test"]["checkpoint_step"] == again["val"]["checkpoint_step"] == 2
    assert again["test"]["tolerance_px"] == config.evaluation.tolerance_px
    variables = find_weights(str(tmp_path / "run" / "checkpoints" / "6")).variables
    assert_trees_equal(variables, jax.device_get(last[0].ema))
    exported = calibrated_weights_of_run(tmp_path / "run" / "checkpoints" / "6")
    assert_trees_equal(exported.variables, variables)
    newest = evaluate(config, tmp_path / "run", step=6)
    assert newest["test"]["checkpoint_step"] == 6
    assert newest["test"]["dice"] == pytest.approx(of_last, abs=1e-6)
    with pytest.raises(CheckpointError, match=r"checkpoints/3: does not exist; give 2, 6"):
        evaluate(config, tmp_path / "run", step=3)
    images = {value.tag for event in events_in(tmp_path / "run") for value in event.summary.value}
    assert {"val/median", "val/cross_entropy"} <= images


def test_a_second_job_in_the_folder_is_refused(tmp_path):
    """Fault: a job that takes the checkpoint another is writing for a damaged one."""
    config = small_config_with_data(tmp_path, num_steps=2, evaluation__every=2)
    workdir = tmp_path / "run"
    train_and_evaluate(config, workdir)
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with alone_in(workdir, ""):
        for job in (train_and_evaluate, evaluate):
            with pytest.raises(DataError, match=r"run: is in use by process \d+ on .*; wait"):
                job(config, workdir)
    lock = workdir / LOCK
    after = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert after | {lock: b""} == before | {lock: b""}


def test_an_interrupted_evaluation_leaves_the_figures_and_what_they_are_of(tmp_path, monkeypatch):
    """Fault: a table at one tolerance that is said to be at another, and compared as such."""
    config = small_config_with_data(tmp_path, num_steps=2, evaluation__every=2)
    workdir = tmp_path / "run"
    train_and_evaluate(config, workdir)
    strict = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, tolerance_px=0.5)
    )
    files = ("config.json", "metrics.json", "environment.json", "eval/test.csv", "eval/val.csv")
    before = [(workdir / name).read_bytes() for name in files]
    measure = Evaluator.measure

    def measure_validation_alone(evaluator, variables, records):
        if records.split == "test":
            raise KeyboardInterrupt
        return measure(evaluator, variables, records)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "measure", measure_validation_alone)
        with pytest.raises(KeyboardInterrupt):
            evaluate(strict, workdir)
    assert [(workdir / name).read_bytes() for name in files] == before
    assert evaluate(strict, workdir)["test"]["tolerance_px"] == 0.5
    assert read_config(epath.Path(workdir)).evaluation.tolerance_px == 0.5


def test_a_resumed_run_keeps_the_validation_that_it_begins_after(tmp_path):
    """Fault: the validation of the last checkpoint hidden, although it is not done again."""
    config = small_config_with_data(tmp_path, num_steps=2, evaluation__every=2)
    workdir, starts = tmp_path / "run", []
    for _ in range(2):
        train_and_evaluate(config, workdir)
        sessions = [x for x in events_in(workdir) if x.session_log.status == SessionLog.START]
        starts.append(sessions[-1].step)
    # From there on TensorBoard hides what was logged before.
    assert starts == [1, 3]
