"""Races: programs in separate processes that take turns and are compared turn by turn.

Each process keeps its compiled program warm and sleeps while others run, so that neither thread
pools nor allocators interfere. On a machine that slows down, consecutive turns meet the same
conditions; their ratio is steadier than either time. Other work on the machine hits programs
differently (threads that wait for each other suffer most), so a turn in which others used more than
`MOST_OF_OTHERS` of the cores is repeated.
"""

import contextlib
import dataclasses
import json
import math
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.programs import Program
from lungseg_jax.runtime.huge_pages import huge_page_variables

ROOT = Path(__file__).parent.parent

# JAX takes memory only as needed, because other processes share the GPU.
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

# Share of the cores' time that others may use in a turn, how often it is repeated otherwise (then
# the quietest counts), and the pause before it.
MOST_OF_OTHERS = 0.05
REPEATS = 5
PAUSE_SECONDS = 2.0

# What a result says about a program, besides its name.
DESCRIPTION = (
    "library", "task", "width", "depth", "block_size", "image_size", "batch_size", "dtype",
    "huge_pages", "space_shards",
)  # fmt: skip


class ProgramError(Exception):
    """A program that failed or took too long; the message ends with its last words."""


class Runner:
    """A program in its own process.

    Args:
      program: what to run.

    Attributes:
      program: the program that was given.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            [
                sys.executable, "-m", "benchmarks.programs",
                json.dumps(dataclasses.asdict(program)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env=os.environ | ENVIRONMENT | (huge_page_variables() if program.huge_pages else {}),
        )  # fmt: skip

    def wait_until_ready(self, limit_seconds: float) -> dict[str, Any]:
        """Returns what the program says about itself once it is warm.

        Raises:
          ProgramError: it ended, or was not ready in time and was killed.
        """
        return self._answer(limit_seconds)

    def turn(self, limit_seconds: float) -> dict[str, float]:
        """Returns what `benchmarks.programs.turn` says of a turn.

        Raises:
          ProgramError: it ended, or was not done in time and was killed.
        """
        assert self._process.stdin is not None
        # A process that has ended cannot read this; `_answer` tells why it ended.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._answer(limit_seconds)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _answer(self, limit_seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], limit_seconds)
        line = self._process.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        if not ready:
            self._process.kill()
        self._process.wait()
        said = f"over {limit_seconds:.3g} s" if not ready else self._last_words()
        raise ProgramError(f"{self.program.name}: {said}")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][-300:] if lines else f"exit code {self._process.returncode}"


def race(
    programs: Sequence[Program],
    *,
    turns: int,
    limit_seconds: float,
    deadline: float = math.inf,
) -> dict[str, dict[str, Any]]:
    """Runs programs in turn; returns, by name, the images per second of each turn, or the error.

    Args:
      programs: programs with different names.
      turns: how often each program has its turn.
      limit_seconds: time for a program to get ready, and for each turn.
      deadline: end of the race, in `time.monotonic()`; programs not done by then have failed.
    """

    def limit() -> float:
        return max(0.1, min(limit_seconds, deadline - time.monotonic()))

    runners, result = {}, {}
    try:
        for program in programs:
            runner = Runner(program)
            runners[program.name] = runner
            try:
                ready = runner.wait_until_ready(limit())
            except ProgramError as error:
                result[program.name] = {"error": str(error)}
                say(f"  {error}")
                continue
            result[program.name] = ready | {"images_per_second": [], "others_share": []}
            say(f"  {program.name}: ready in {ready['setup_seconds']:.0f} s")
        for turn in range(turns):
            for program in programs:
                figures = result[program.name]
                if "error" in figures:
                    continue
                try:
                    found = _quiet_turn(runners[program.name], limit)
                except ProgramError as error:
                    figures["error"] = str(error)
                    continue
                for name, figure in found.items():
                    figures[name].append(figure)
            say(f"  turn {turn + 1} of {turns}: {_latest(result)}")
    finally:
        for runner in runners.values():
            runner.close()
    for program in programs:
        figures = result[program.name]
        figures |= {name: getattr(program, name) for name in DESCRIPTION}
        if "error" not in figures:
            figures["median"] = statistics.median(figures["images_per_second"])
    return result


def _quiet_turn(runner: Runner, limit: Callable[[], float]) -> dict[str, float]:
    """Returns what a turn says in which others left the machine alone, or left most of it."""
    start = time.monotonic()
    found = [runner.turn(limit())]
    seconds = time.monotonic() - start
    while (
        found[-1]["others_share"] > MOST_OF_OTHERS
        and len(found) <= REPEATS
        # Who takes too long is ended, and so loses the turns that it had.
        and limit() > PAUSE_SECONDS + 3 * seconds
    ):
        time.sleep(PAUSE_SECONDS)
        found.append(runner.turn(limit()))
    return min(found, key=lambda one: one["others_share"])


def compare(
    result: dict[str, dict[str, Any]],
    our_dtypes: Sequence[str],
    their_dtypes: Sequence[str],
    library: str = "lungseg_jax",
) -> dict[str, Any] | None:
    """Returns the rate of our fastest program over that of PyTorch's fastest, turn by turn.

    Args:
      result: what `race` returned.
      our_dtypes: compute types of our programs that take part.
      their_dtypes: compute types of PyTorch's programs that take part.
      library: library that runs our network.

    Returns:
      The two names, the ratios and their median; `None` if no program of a side finished.
    """
    ours = _fastest(result, library, our_dtypes)
    theirs = _fastest(result, "pytorch", their_dtypes)
    if ours is None or theirs is None:
        return None
    rates = zip(*(result[name]["images_per_second"] for name in (ours, theirs)), strict=True)
    ratios = [our_rate / their_rate for our_rate, their_rate in rates]
    return {
        "ours": ours,
        "theirs": theirs,
        "by_turn": ratios,
        "median": statistics.median(ratios),
    }


def say(line: str) -> None:
    """Prints progress with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _fastest(result: dict[str, dict[str, Any]], library: str, dtypes: Sequence[str]) -> str | None:
    finished = {
        name: figures["median"]
        for name, figures in result.items()
        if figures["library"] == library and figures["dtype"] in dtypes and "median" in figures
    }
    return max(finished, key=lambda name: finished[name]) if finished else None


def _latest(result: dict[str, dict[str, Any]]) -> str:
    rates = {
        name: figures["images_per_second"][-1]
        for name, figures in result.items()
        if "error" not in figures
    }
    return ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items()) + " images/s"
