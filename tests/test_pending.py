"""Figures of steps under way."""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tqdm import tqdm

from lungseg_jax import pending as pending_module
from lungseg_jax import terminal
from lungseg_jax.config import Config
from lungseg_jax.errors import DivergedError
from lungseg_jax.log import Log
from lungseg_jax.parallel import MAX_PENDING
from lungseg_jax.pending import Pending


def unexpected(*_: object) -> NoReturn:
    """Of figures that are finite."""
    raise AssertionError


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "parameter_norm"])
def test_each_figure_that_is_not_finite_ends_the_run(tmp_path, name):
    """Fault: weights that overflowed are trained on, as long as loss and gradient are finite."""
    named = {"loss": 0.5, "dice": 0.25, "gradient_norm": 1.0, "parameter_norm": 1.0, name: np.inf}

    def diverged(step: int, positions: np.ndarray, metrics: Mapping[str, Any]) -> DivergedError:
        return DivergedError(f"step {step}", f"{name} {metrics[name]} on {positions}", "stop")

    with Log(epath.Path(tmp_path), first_step=1) as log:
        pending = Pending(Config(batch_size=2), log, tqdm(disable=True), diverged)
        pending.add(7, np.arange(2), {key: jnp.float32(value) for key, value in named.items()})
        with pytest.raises(DivergedError, match=rf"step 7.*{name} inf on \[0 1\];"):
            pending.drain()


@pytest.mark.parametrize("seconds", [0.0, np.inf])
def test_steps_in_flight_are_bounded_and_the_newest_is_not_waited_for(monkeypatch, seconds: float):
    """Fault: XLA's CPU devices end the process; a device that idles while figures are fetched."""
    monkeypatch.setattr(pending_module, "FETCH_SECONDS", seconds)
    logged = []
    log = object.__new__(Log)
    log.scalars = lambda *arguments: logged.append(arguments[1:])
    pending = Pending(Config(batch_size=2), log, tqdm(disable=True), unexpected)
    for step in range(1, 101):
        figures = {"loss": step, "dice": 0.25, "gradient_norm": 1.0, "parameter_norm": 1.0}
        pending.add(step, np.arange(2), {key: jnp.float32(x) for key, x in figures.items()})
        fetched = [figures["loss"] for _, figures in logged if "loss" in figures]
        assert fetched == list(range(1, len(fetched) + 1))
        assert len(fetched) < step
        assert step - len(fetched) < MAX_PENDING
    pending.drain()
    assert [step for step, figures in logged if "loss" in figures] == list(range(1, 101))


def test_rates_and_means_are_of_the_steps_since_the_last_validation(monkeypatch):
    """Fault: steps of before in the mean, a validation's time in the rate, a fetch for a step."""
    clock = [0.0]
    monkeypatch.setattr("lungseg_jax.pending.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(pending_module, "FETCH_SECONDS", np.inf)
    rates = []
    log = object.__new__(Log)
    log.scalars = lambda _, __, figures: rates.append(figures.get("images_per_second"))
    pending = Pending(Config(batch_size=4), log, tqdm(disable=True), unexpected)

    def fetch_after(seconds: float, steps: range, loss: float) -> None:
        figures = {"loss": loss, "dice": 0.25, "gradient_norm": 1.0, "parameter_norm": 1.0}
        for step in steps:
            pending.add(step, np.arange(4), {key: jnp.float32(x) for key, x in figures.items()})
        clock[0] += seconds
        pending.drain()

    fetch_after(1.0, range(1, 6), loss=3.0)
    fetch_after(2.0, range(6, 11), loss=1.0)
    assert pending.summary().endswith(", 10.0 images/s")
    assert pending.means()["loss"] == pytest.approx(2)
    clock[0] += 100
    pending.restart()
    fetch_after(2.0, range(11, 15), loss=5.0)
    assert pending.summary().endswith(", 8.0 images/s")
    assert pending.means() == pytest.approx({"loss": 5, "dice": 0.25})
    assert [rate for rate in rates if rate] == pytest.approx([20, 10, 8])


def test_the_reported_rate_includes_waiting_for_input(tmp_path, monkeypatch, capsys):
    """Fault: the last step's rate on the device, where a run's batches come slower than that."""
    clock = [0.0]

    def monotonic() -> float:
        clock[0] += 1e-6
        return clock[0]

    monkeypatch.setattr("lungseg_jax.pending.time.monotonic", monotonic)
    named = {"loss": 0.5, "dice": 0.25, "gradient_norm": 1.0, "parameter_norm": 1.0}
    figures = {name: jnp.float32(value) for name, value in named.items()}
    with (
        Log(epath.Path(tmp_path), first_step=1) as log,
        terminal.progress("train", 200, "step") as bar,
    ):
        pending = Pending(Config(batch_size=16), log, bar, unexpected)
        # Compiling, which is no step's rate.
        clock[0] += 60.0
        for step in range(20):
            # A batch that is waited for; the device takes no time.
            clock[0] += 0.8
            pending.add(step, np.arange(16), figures)
        pending.drain()
        # 19 steps since the first was done, when the second's batch was there: 18 were waited for.
        assert pending.summary() == f"loss 0.5000, Dice 0.2500, {19 * 16 / (18 * 0.8):.1f} images/s"
        # A validation takes no part.
        clock[0] += 100.0
        pending.restart()
        # Fault: hours without a word in a log file, where there is no progress bar.
        assert re.match(r"train: \d+ of 200 steps, loss 0.5000, Dice", capsys.readouterr().err)
        clock[0] += 0.4
        pending.add(20, np.arange(16), figures)
        pending.drain()
        assert pending.summary().endswith(", 40.0 images/s")
