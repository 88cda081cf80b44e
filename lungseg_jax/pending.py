"""Steps that were sent to the device: their figures are fetched late, and watched."""

import collections
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lungseg_jax.config import Config
from lungseg_jax.errors import DivergedError
from lungseg_jax.log import Log
from lungseg_jax.metrics import NAN
from lungseg_jax.parallel import MAX_PENDING
from lungseg_jax.state import Metrics

# Interval at which figures are fetched from the device, unless too many steps are pending: often
# enough for a person, rarely enough that the device never waits.
FETCH_SECONDS = 0.5

# Metrics of training that the console shows and that `history.csv` has the means of.
SHOWN = ("loss", "dice")

MUST_BE_FINITE = ("loss", "gradient_norm", "parameter_norm")

# Of a step, the positions of its batch in the training records, and its figures.
Diverged = Callable[[int, np.ndarray, Metrics], DivergedError]


class Pending:
    """Steps that were sent to the device but whose figures are not fetched yet.

    Fetching only figures that are at least one step old keeps the device busy.

    Args:
      config: the run's configuration.
      log: receives the figures.
      bar: the progress bar.
      diverged: makes the error that is raised if a figure of a step is not finite.
    """

    def __init__(self, config: Config, log: Log, bar: Any, diverged: Diverged) -> None:
        self._config, self._log, self._bar, self._diverged = config, log, bar, diverged
        self._steps: collections.deque[tuple[int, np.ndarray, Metrics]] = collections.deque()
        self._fetched_at = time.monotonic()
        self._figures: dict[str, Any] = {}
        # For the rate since the last validation. Before the first one, the clock starts at the
        # first fetch, so that compilation is left out.
        self._counts_from: float | None = None
        self._counted = 0
        self._sums = dict.fromkeys(SHOWN, 0.0)
        self._summed = 0

    def add(self, step: int, positions: np.ndarray, metrics: Metrics) -> None:
        """Remembers a step, and fetches older ones when it is time."""
        self._steps.append((step, positions, metrics))
        if time.monotonic() - self._fetched_at > FETCH_SECONDS:
            self._fetch(leave=1)
        elif len(self._steps) >= MAX_PENDING:
            self._fetch(leave=MAX_PENDING // 2)

    def drain(self) -> None:
        """Fetches the figures of all steps.

        Raises:
          DivergedError: one of `MUST_BE_FINITE` was not finite.
        """
        self._fetch(leave=0)

    def restart(self) -> None:
        """Begins anew with the means; leaves the time since the last fetch out of the rates."""
        self._fetched_at = self._counts_from = time.monotonic()
        self._counted = self._summed = 0
        self._sums = dict.fromkeys(SHOWN, 0.0)

    def means(self) -> dict[str, float]:
        """Returns the mean loss and Dice of the steps fetched since `restart`; NaN of none."""
        return {name: x / self._summed if self._summed else NAN for name, x in self._sums.items()}

    def summary(self) -> str:
        """Returns the last fetched step's loss and Dice, and the rate since the last validation."""
        text = f"loss {self._figures['loss']:.4f}, Dice {self._figures['dice']:.4f}"
        if self._counted and self._counts_from:
            seconds = self._fetched_at - self._counts_from
            text += f", {self._counted * self._config.batch_size / seconds:.1f} images/s"
        return text

    def _fetch(self, leave: int) -> None:
        due = [self._steps.popleft() for _ in range(len(self._steps) - leave)]
        if not due:
            return
        for (step, positions, _), figures in zip(
            due, jax.device_get([metrics for _, _, metrics in due]), strict=True
        ):
            if not np.isfinite([figures[name] for name in MUST_BE_FINITE]).all():
                raise self._diverged(step, positions, figures)
            self._log.scalars("train", step, {key: float(x) for key, x in figures.items()})
            self._sums = {name: x + float(figures[name]) for name, x in self._sums.items()}
            self._summed += 1
        now = time.monotonic()
        rate = len(due) * self._config.batch_size / (now - self._fetched_at)
        self._log.scalars("train", step, {"images_per_second": rate})
        self._fetched_at, self._figures = now, figures
        if self._counts_from is None:
            self._counts_from = now
        else:
            self._counted += len(due)
        self._bar.set_postfix_str(self.summary(), refresh=False)
        self._bar.update(len(due))
