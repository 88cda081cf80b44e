"""Whole runs as a user starts them: real processes, stopped and killed for real."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from lungseg_jax.checkpoint import Checkpoints
from lungseg_jax.data.records import open_records
from lungseg_jax.evaluate import Evaluator
from lungseg_jax.export import calibrate, predictions
from lungseg_jax.export import main as export
from lungseg_jax.find_weights import find_weights
from lungseg_jax.imaging.geometry import fit_to_square, from_square
from lungseg_jax.log import HISTORY
from lungseg_jax.parallel import all_devices
from lungseg_jax.prediction.postprocessing import smooth
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.step import prepare_step
from lungseg_jax.weights import load_weights
from lungseg_jax.workdir import read_config, read_starts
from tests.events import events_in
from tests.images import chest, png_bytes
from tests.small import LISTENING, REPOSITORY, assert_trees_equal, small_config, write_small_data
from tfds_builder.splits import read_split_file

STEPS = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_small_data(root / "archive")
    return root


def command(data: Path, workdir: Path | str, *more: str) -> list[str]:
    settings = {
        "batch_size": 8,
        "num_steps": STEPS,
        "data.source": "kaggle",
        "data.manual_dir": data / "archive",
        "data.data_dir": data / "records",
        "data.image_size": 32,
        "model.width": 4,
        "model.depth": 2,
        "model.block_size": 1,
        "evaluation.every": 10,
        "evaluation.batch_size": 8,
    }
    keys = [f"--config.{key}={value}" for key, value in settings.items()]
    main = [sys.executable, "-m", "lungseg_jax.main", "--config=configs/unet.py"]
    return [*main, f"--workdir={workdir}", *keys, *more]


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False,
        env=os.environ | environment,
    )  # fmt: skip


def run_until(
    arguments: list[str], reached: Callable[[], bool], signal_number: int, **environment: str
) -> str:
    """Sends the signal as soon as `reached`, and returns what the process printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENING, *arguments[1:]],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | environment,
    )  # fmt: skip
    deadline = time.monotonic() + 600
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal_number)
    if signal_number == signal.SIGTERM:
        # As systemd does to what a session started.
        process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=100)
    # Whoever waits for the run must see that it is not done.
    assert (
        process.returncode
        == {
            signal.SIGKILL: -9,
            signal.SIGTERM: 143,
            signal.SIGINT: 130,
        }[signal_number]
    ), output
    return output


def losses(workdir: Path) -> dict[int, float]:
    """The loss of each step in the run's event files."""
    return {
        event.step: value.simple_value
        for event in events_in(workdir)
        for value in event.summary.value
        if value.tag == "train/loss"
    }


def newest_state(workdir: Path):
    """The newest checkpoint's state and iterator."""
    config = small_config(model__width=4)
    parallel = all_devices("mesh")
    state, _ = prepare_step(config, parallel)
    restored = Checkpoints(workdir / "checkpoints", 2, parallel).restore_latest(state)
    assert restored is not None
    return restored


# In each Python process of a command: writes down what leaves for the network.
LISTENER = """
import sys
def heard(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"):
        with open({file!r}, "a") as file:
            file.write(f"{{event}} {{arguments[1:]}}\\n")
sys.addaudithook(heard)
"""


@pytest.fixture(scope="module")
def listener(tmp_path_factory) -> Path:
    """A folder for `PYTHONPATH`; what is heard goes to `heard` in it."""
    folder = tmp_path_factory.mktemp("listener")
    (folder / "sitecustomize.py").write_text(LISTENER.format(file=str(folder / "heard")))
    return folder


@pytest.fixture(scope="module")
def finished(data, listener, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    result = run(command(data, workdir), PYTHONPATH=f"{listener}:{REPOSITORY}")
    assert result.returncode == 0, result.stderr
    return workdir


def test_nothing_is_sent_anywhere(finished, listener, tmp_path):
    """Fault: a library that asks for updates, or reports that a hospital's images are read."""
    environment = {"PYTHONPATH": f"{listener}:{REPOSITORY}"}
    (tmp_path / "0.png").write_bytes(png_bytes(chest(120, 110, 0)[0]))
    segment = [sys.executable, "-m", "lungseg_jax.predict", str(tmp_path / "0.png")]
    given = [f"--checkpoint={finished}", f"--output={tmp_path / 'out'}"]
    result = run([*segment, *given], **environment)
    assert result.returncode == 0, result.stderr
    assert not (listener / "heard").exists(), (listener / "heard").read_text()
    call = "import socket; socket.create_connection(('127.0.0.1', 9))"
    run([sys.executable, "-c", call], **environment)
    assert "socket.connect" in (listener / "heard").read_text(), "nothing would be heard"


def test_finished_run_leaves_what_the_readme_says(finished):
    """Fault: a report that is missing a part or disagrees with itself."""
    metrics = json.loads((finished / "metrics.json").read_text())
    with (finished / "eval" / "test.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert metrics["test"]["num_examples"] == len(rows) == 6
    assert len({row["id"] for row in rows}) == 6
    mean = math.fsum(float(row["dice"]) for row in rows) / len(rows)
    assert metrics["test"]["dice"] == pytest.approx(mean)
    assert {path.name for path in (finished / "overlays").iterdir()} == {
        "best.png", "median.png", "worst.png", "worst_02.png",
    }  # fmt: skip
    worst = sorted(rows, key=lambda row: float(row["dice"]))[:2]
    named = metrics["test"]["overlays"]
    assert [named["worst"], named["worst_02"]] == [row["id"] for row in worst]
    assert json.loads((finished / "config.json").read_text())["num_steps"] == STEPS
    assert sorted(losses(finished)) == list(range(1, STEPS + 1))
    with (finished / HISTORY).open() as table:
        history = list(csv.DictReader(table))
    assert [int(row["step"]) for row in history] == list(range(10, STEPS + 1, 10))
    for before, row in zip(range(0, STEPS, 10), history, strict=True):
        mean = math.fsum(losses(finished)[before + i] for i in range(1, 11)) / 10
        assert float(row["train_loss"]) == pytest.approx(mean)
    assert max(float(row["val_dice"]) for row in history) == metrics["val"]["dice"]
    assert float(history[-1]["val_cross_entropy"]) > 0
    splits = read_split_file(finished / "splits.json")
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 21, "val": 3, "test": 6}
    assert set(splits["test"]) == {row["id"] for row in rows}


# `test_killed_run_resumes_bit_for_bit` compares another run of that seed, with `finished` too.
@pytest.mark.slow
def test_same_seed_gives_the_same_bits(data, finished, tmp_path):
    """Fault: an order, a random key or a reduction that differs between runs."""
    result = run(command(data, tmp_path / "again"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "again" / "metrics.json").read_bytes() == (
        finished / "metrics.json"
    ).read_bytes()
    assert losses(tmp_path / "again") == losses(finished)


def test_eval_mode_gives_the_same_figures(finished):
    """Fault: evaluation of another checkpoint or of unaveraged parameters."""
    before = (finished / "metrics.json").read_bytes()
    (finished / "metrics.json").unlink()
    main = [sys.executable, "-m", "lungseg_jax.main"]
    result = run([*main, "--mode=eval", f"--workdir={finished}"])
    assert result.returncode == 0, result.stderr
    assert (finished / "metrics.json").read_bytes() == before
    assert [start["mode"] for start in read_starts(epath.Path(finished))] == ["train", "eval"]


def test_export_of_a_run_whose_images_moved_or_changed(finished, data, tmp_path, capsys):
    """Fault: a threshold of images that the network was trained on; a moved run left for lost."""
    moved = tmp_path / "moved"
    # Copies have times of their own.
    shutil.copytree(data / "archive", moved, copy_function=shutil.copyfile)
    arguments = ["export", f"--checkpoint={finished}", f"--output={tmp_path / 'net.safetensors'}"]
    arguments += [f"--config.data.manual_dir={moved}", f"--config.data.data_dir={tmp_path}"]
    assert export(arguments) == 0
    # Fault: other test images than those that were measured, as long as validation has the same.
    for split in ("test", "val"):
        image = min(read_split_file(finished / "splits.json")[split])
        next(moved.rglob(f"masks/{image}*")).unlink()
        capsys.readouterr()
        assert export(arguments) == 1
        assert f"its {split} split had other images" in capsys.readouterr().err


def test_exported_weights_predict_as_the_run_did(finished, tmp_path):
    """Fault: weights before averaging, of another step, or files read in another way."""
    path = tmp_path / "net.safetensors"
    assert export(["export", f"--checkpoint={finished}", f"--output={path}"]) == 0
    weights = load_weights(path)
    assert 0.3 <= weights.calibration.threshold <= 0.7
    of_run = find_weights(str(finished))
    assert weights.config.model == of_run.config.model
    # Fault: a threshold chosen on the images that it is judged by.
    validation = open_records(of_run.config)["val"]
    assert astuple(weights.calibration) == pytest.approx(astuple(calibrate(of_run, validation)))
    records = open_records(of_run.config)["test"]
    parallel = all_devices("mesh")
    measured = Evaluator(of_run.config, parallel).measure(
        parallel.replicate(of_run.variables), records
    )
    with (finished / "eval" / "test.csv").open() as file:
        reported = {row["id"]: float(row["dice"]) for row in csv.DictReader(file)}
    assert {row.id: row.dice for row in measured} == pytest.approx(reported, abs=1e-6)
    exported = [found for _, found, _ in predictions(weights, records)]
    for (_, found, reference), again in zip(predictions(of_run, records), exported, strict=True):
        np.testing.assert_allclose(again, found, atol=3e-3)
        assert reference.any()
    # What prediction on files runs is the same network, one image at a time or several.
    segmenter = Segmenter(weights)
    squares = list(records.samples(range(3)).image)
    together = segmenter.predict(squares)
    for square, found in zip(squares, together, strict=True):
        (alone,) = segmenter.predict([square])
        np.testing.assert_allclose(alone.square, found.square, atol=1e-5)
    fit = fit_to_square(*exported[0].shape, squares[0].shape[0])
    smoothed = smooth(together[0].square)[..., 0]
    np.testing.assert_allclose(from_square(smoothed, fit), exported[0], atol=1e-4)


def test_killed_run_resumes_bit_for_bit(data, finished, tmp_path):
    """Fault: state, batch order or random numbers lost between checkpoint and resume."""
    workdir = tmp_path / "killed"
    first = workdir / "checkpoints" / "10"
    run_until(command(data, workdir), first.exists, signal.SIGKILL)
    assert not (workdir / "metrics.json").exists(), "the run was over before it was killed"
    result = run(command(data, workdir))
    assert result.returncode == 0, result.stderr
    assert re.search(r"Resuming after step [1-3]0 of 40", result.stderr)
    whole, resumed = newest_state(finished), newest_state(workdir)
    assert int(resumed[0].step) == STEPS
    assert_trees_equal(resumed[0], whole[0])
    assert resumed[1] == whole[1]
    expected = losses(finished)
    found = losses(workdir)
    assert set(range(31, STEPS + 1)) <= set(found)
    assert all(loss == expected[step] for step, loss in found.items())
    for name in ("metrics.json", HISTORY):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes()


def test_an_interrupt_leaves_the_checkpoint_that_is_being_saved(data, tmp_path):
    """Fault: the first validation's checkpoint lost, and tracebacks of threads at Python's end.

    Right after a validation's line is when people interrupt.
    """
    checkpoints = tmp_path / "interrupted" / "checkpoints"
    output = run_until(
        command(data, checkpoints.parent),
        lambda: checkpoints.exists() and any("tmp" in path.name for path in checkpoints.iterdir()),
        signal.SIGINT,
    )
    assert "Interrupted" in output
    assert "Traceback" not in output
    assert (checkpoints / "10").exists()
    assert not any("tmp" in path.name for path in checkpoints.iterdir())


def test_terminated_run_saves_and_resumes_elsewhere(data, finished, tmp_path):
    """Fault: a preempted run that is lost, or bound to its devices and its kind of parallelism."""
    workdir = tmp_path / "terminated"
    first = workdir / "checkpoints" / "10"
    output = run_until(command(data, workdir), first.exists, signal.SIGTERM)
    assert f"the same command with --workdir={workdir} resumes" in output
    assert not (workdir / "metrics.json").exists()
    result = run(
        command(data, workdir, "--config.parallel=mesh"),
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    assert result.returncode == 0, result.stderr
    resumed = re.search(r"Resuming after step (\d+) of 40", result.stderr)
    assert resumed
    expected, found = losses(finished), losses(workdir)
    assert set(found) == set(expected)
    for step, loss in found.items():
        if step <= int(resumed[1]):
            assert loss == expected[step]
        else:
            # Sums in another order, through up to thirty updates.
            assert loss == pytest.approx(expected[step], rel=0.02)


def test_right_and_left_lung_are_learned_apart(data, tmp_path):
    """Fault: sides exchanged between records, loss and figures; images flipped all the same.

    In parts, so that the sums of two classes pass through accumulation.
    """
    workdir = tmp_path / "run"
    changes = {
        "data.source": "phantom",
        "data.manual_dir": "",
        "data.num_phantoms": 10,
        "data.labels": "left_right",
        "model.width": 8,
        "accumulation_steps": 2,
        "num_steps": 60,
        "evaluation.every": 60,
        "optimizer.learning_rate": 0.01,
        "optimizer.ema_decay": 0.9,
    }
    result = run(
        command(data, workdir, *(f"--config.{key}={value}" for key, value in changes.items())),
        XLA_FLAGS="--xla_force_host_platform_device_count=1",
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads((workdir / "metrics.json").read_text())["test"]
    with (workdir / "eval" / "test.csv").open() as table:
        rows = list(csv.DictReader(table))
    for side in ("dice_right", "dice_left"):
        assert metrics[side] > 0.6
        mean = math.fsum(float(row[side]) for row in rows) / len(rows)
        assert metrics[side] == pytest.approx(mean)
    # Phantoms state a spacing of rows and columns alike.
    config = read_config(epath.Path(workdir))
    spacing = {
        example.example_id: example.spacing_mm
        for example in map(open_records(config)["test"].example, range(len(rows)))
    }
    for row in rows:
        stated = spacing[row["id"]]
        assert stated is not None
        row_mm, column_mm = stated
        assert row_mm == column_mm != 1
        for figure in ("hd95", "assd"):
            assert float(row[f"{figure}_mm"]) == pytest.approx(row_mm * float(row[f"{figure}_px"]))


def test_divergence_names_step_images_and_checkpoint(data, tmp_path):
    """Fault: a run that trains on with NaN, or saves it over the last good state."""
    result = run(
        command(data, tmp_path / "run", "--config.optimizer.learning_rate=1e30",
                "--config.optimizer.warmup_steps=14")
    )  # fmt: skip
    assert result.returncode == 1
    line = result.stderr.strip().splitlines()[-1]
    assert re.match(r"Error: step \d+: loss .* MCUCXR_\d+_0, ", line)
    assert "last good checkpoint: none was saved" in line
    assert "Traceback" not in result.stderr
