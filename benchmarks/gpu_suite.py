"""Measures everything on a GPU with one command, in less than eight minutes.

  python -m benchmarks.gpu_suite [-- ARGUMENTS OF lungseg_jax.main]

Needs jax, flax, optax and torch for the GPU, and no records. Arguments after `--` name records, as
in `--config=configs/kaggle.py --config.data.manual_dir=FOLDER`: the input stall is then measured
with them. Writes `benchmarks/results/gpu_<device>.json`; without a GPU it goes through all parts
at tiny sizes and keeps nothing.

Each part is a process with a time limit: what fails or takes too long is recorded as such, and the
next part follows. Parts come in order of importance; those for which no time is left are recorded
as left out.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from benchmarks.command import call_with_arguments
from benchmarks.programs import WORK, Program
from benchmarks.race import ROOT, compare, race, say
from benchmarks.result_files import write_result
from lungseg_jax.config import ModelConfig
from lungseg_jax.performance.flops import training_flops

# Time of the whole command; a part that starts late gets what is left.
BUDGET_SECONDS = 470.0

# A part is not begun if less time is left.
MINIMUM_SECONDS = 15.0

TURNS = 5


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes at which the suite measures.

    Attributes:
      width: channels of the first level.
      depth: number of times the resolution is halved.
      image_size: side of the images.
      batch_size: images per training step.
      inference_batch_sizes: images per forward pass.
      calls: steps per turn in the measurement of augmentation.
      matrix_size: side of the matrices whose product gives PyTorch's peak.
    """

    width: int
    depth: int
    image_size: int
    batch_size: int
    inference_batch_sizes: tuple[int, ...]
    calls: int
    matrix_size: int


# A batch of 32 fills the device; the libraries take minutes to choose kernels for another one.
GPU_SIZES = Sizes(64, 4, 512, 32, (32, 1), 10, 8192)
TINY_SIZES = Sizes(4, 1, 16, 2, (1,), 2, 256)


def main(*arguments: str) -> None:
    """Measures everything and writes the result file."""
    if arguments[:1] == ("--part",):
        print(json.dumps(PARTS[arguments[1]](*map(json.loads, arguments[2:]))))
        return
    if arguments[:1] not in ((), ("--",)):
        sys.exit(f"not after --: {arguments[0]}\n{__doc__}")
    with tempfile.TemporaryDirectory() as caches:
        # Compilation is timed with empty caches; what is compiled again later comes from them.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{caches}/jax"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{caches}/torch"
        print(json.dumps(Suite().measure(arguments[1:]), indent=2))


class Suite:
    """Runs the parts in order, within the time budget."""

    def __init__(self) -> None:
        self._end = time.monotonic() + BUDGET_SECONDS
        self._sizes = TINY_SIZES
        self._result: dict[str, Any] = {}
        self._cases: dict[str, Any] = {}
        self._result_name = ""

    def measure(self, main_arguments: Sequence[str]) -> dict[str, Any]:
        """Returns the content of the result file; `main_arguments` name records, if any."""
        device = self._part("device", 60)
        if "error" in device:
            raise SystemExit(f"No device: {device['error']}")
        if device.get("platform") == "gpu":
            self._sizes = GPU_SIZES
            self._result_name = f"gpu_{device['name'].lower().replace(' ', '_')}"
        sizes = dataclasses.asdict(self._sizes)
        self._keep("device", device)
        self._keep("sizes", sizes)
        peaks = self._part("peaks", 60, sizes)
        self._keep("peaks", peaks)
        self._race(
            self._program("lungseg_jax", "train"),
            self._program("pytorch", "train"),
            self._program("pytorch", "train", mode="eager"),
        )
        _add_utilisation(self._cases.get("train", {}).get("programs", {}), peaks)
        self._keep("augmentation", self._part("augmentation", 120, sizes))
        # The largest first, because benchmark mode measures a single image, too.
        large, *small = self._sizes.inference_batch_sizes
        self._race(*self._inference_programs(large))
        synthetic = ["--config=configs/unet.py", "--config.benchmark.data=synthetic"]
        self._keep("benchmark_mode", self._benchmark_mode(synthetic))
        for size in small:
            self._race(*self._inference_programs(size))
        if main_arguments:
            for resident in ("true", "false"):
                arguments = [*main_arguments, f"--config.data.resident={resident}"]
                self._keep(f"records_resident_{resident}", self._benchmark_mode(arguments))
        # Last, and not in the race above: it takes minutes to get ready, if it does at all.
        self._race(self._program("pytorch", "train", mode="max-autotune"))
        self._keep("seconds", round(BUDGET_SECONDS - self._left()))
        return self._result

    def _keep(self, name: str, figures: Any) -> None:
        """Adds to the result and writes it, so that nothing is lost if the command is ended."""
        self._result[name] = figures
        if self._result_name:
            write_result(self._result_name, self._result)

    def _inference_programs(self, batch_size: int) -> list[Program]:
        # Without CUDA graphs, kernel launches limit PyTorch when images come one by one.
        fastest = "reduce-overhead" if batch_size == 1 else "compile"
        return [
            self._program("lungseg_jax", "inference", batch_size),
            self._program("pytorch", "inference", batch_size, "freeze"),
            self._program("pytorch", "inference", batch_size, fastest),
        ]

    def _race(self, *programs: Program) -> None:
        """Races programs; adds a case in the form of `benchmarks.peers`."""
        first = programs[0]
        name = "train" if first.task == "train" else f"inference-{first.batch_size}"
        if first.mode == "max-autotune":
            name += "-max-autotune"
        if self._left() < MINIMUM_SECONDS:
            self._keep("left_out", [*self._result.get("left_out", []), name])
            return
        result = race(programs, turns=TURNS, limit_seconds=150.0, deadline=self._end)
        self._cases[name] = {
            "hardware": self._result["device"]["name"],
            "work": WORK[first.task],
            "programs": result,
            "ratios": {"bfloat16": compare(result, ["bfloat16"], ["bfloat16"])},
        }
        self._keep("cases", self._cases)

    def _program(
        self,
        library: Literal["lungseg_jax", "pytorch"],
        task: Literal["train", "inference"],
        batch_size: int | None = None,
        mode: Literal["eager", "compile", "freeze", "reduce-overhead", "max-autotune"] = "compile",
    ) -> Program:
        return Program(
            library=library,
            task=task,
            width=self._sizes.width,
            depth=self._sizes.depth,
            image_size=self._sizes.image_size,
            batch_size=batch_size or self._sizes.batch_size,
            dtype="bfloat16",
            mode=mode,
        )

    def _part(self, name: str, limit_seconds: float, *arguments: Any) -> dict[str, Any]:
        """Runs a part of `PARTS` in a process and returns its result, or the error."""
        command = ["-m", "benchmarks.gpu_suite", "--part", name, *map(json.dumps, arguments)]
        output, error = self._run(command, limit_seconds)
        result = {"error": error} if error else json.loads(output.splitlines()[-1])
        say(f"{name}: {result}")
        return result

    def _benchmark_mode(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Returns what the package's benchmark mode says about the whole step, stage by stage."""
        keys = {
            "batch_size": self._sizes.batch_size,
            "data.image_size": self._sizes.image_size,
            "evaluation.batch_size": max(self._sizes.inference_batch_sizes),
            "model.block_size": 1,
            "model.depth": self._sizes.depth,
            "model.dtype": "bfloat16",
            "model.width": self._sizes.width,
        }
        settings = [f"--config.{key}={value}" for key, value in keys.items()]
        with tempfile.TemporaryDirectory() as workdir:
            command = ["-m", "lungseg_jax.main", "--mode=benchmark", f"--workdir={workdir}"]
            _, error = self._run([*command, *arguments, *settings], 150)
            path = Path(workdir) / "benchmark.json"
            result = {"error": error} if error else json.loads(path.read_text())
        say(f"benchmark mode: {result}")
        return result

    def _run(self, command: Sequence[str], limit_seconds: float) -> tuple[str, str]:
        """Returns what a Python process wrote, and its error or an empty string."""
        if self._left() < MINIMUM_SECONDS:
            return "", "no time left"
        limit = self._limit(limit_seconds)
        try:
            done = subprocess.run(  # noqa: S603
                [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return "", f"over {limit:.0f} s"
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            return "", said[-1][-300:] if said else f"exit code {done.returncode}"
        return done.stdout, ""

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _limit(self, seconds: float) -> float:
        return max(1.0, min(seconds, self._left()))


def measure_device() -> dict[str, Any]:
    """Returns the device's name, and commit and versions of what runs on it."""
    import importlib.metadata
    from importlib.util import find_spec

    import jax

    from lungseg_jax.performance.hardware import accelerator
    from lungseg_jax.runtime.environment import revision

    device = jax.devices()[0]
    known = accelerator(device.device_kind)
    packages = ("jax", "jaxlib", "flax", "optax", "torch", "triton")
    return {
        "name": device.device_kind,
        "platform": device.platform,
        "count": jax.device_count(),
        "stated": dataclasses.asdict(known) if known else None,
        "revision": revision(),
        "versions": {
            name: importlib.metadata.version(name) for name in packages if find_spec(name)
        },
    }


def measure_peaks(sizes: dict[str, Any]) -> dict[str, Any]:
    """Returns the best rates of a bfloat16 matrix product in each library, and of memory."""
    import jax
    import jax.numpy as jnp
    import torch

    from lungseg_jax.performance.roofline import CALLS, ROUNDS, measure_bandwidth, measure_matmul

    n = sizes["matrix_size"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(n, n, dtype=torch.bfloat16, device=device) for _ in "ab")

    def seconds_of_products() -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            _ = left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / CALLS

    seconds_of_products()
    tflops = {
        "jax": measure_matmul(jax.devices()[:1], jnp.bfloat16),
        "torch": 2 * n**3 / 1e12 / min(seconds_of_products() for _ in range(ROUNDS)),
    }
    return {
        "matmul_tflops": tflops,
        "peak_tflops": max(tflops.values()),
        "bandwidth": measure_bandwidth(jax.devices()[:1]),
    }


def measure_augmentation(sizes: dict[str, Any]) -> dict[str, Any]:
    """Returns the times of a step with and without augmentation, in turn, and its share."""
    import statistics

    import jax
    import jax.numpy as jnp

    from benchmarks.programs import our_training_step, synthetic_batch
    from lungseg_jax.augment import augment

    batch_size = sizes["batch_size"]
    program = Program(
        library="lungseg_jax", task="train", width=sizes["width"], depth=sizes["depth"],
        image_size=sizes["image_size"], batch_size=batch_size, dtype="bfloat16",
    )  # fmt: skip
    config = program.config
    state, step = our_training_step(config)
    batch = jax.device_put(synthetic_batch(batch_size, sizes["image_size"]))
    slots = jnp.arange(batch_size, dtype=jnp.int32)

    # Images are arguments: what a program closes over is a constant that XLA may fold.
    def changed(key: jax.Array, image: jax.Array, mask: jax.Array) -> Any:
        return augment(key, slots, image, mask, config.augment)

    def with_changes(state: Any, key: jax.Array, image: jax.Array, mask: jax.Array) -> Any:
        return step(state, *changed(key, image, mask))

    plain = jax.jit(step, donate_argnums=0)
    whole = jax.jit(with_changes, donate_argnums=0)
    alone = jax.jit(changed)
    states = {"plain": state, "whole": jax.tree.map(jnp.copy, state)}

    def run(name: str, key: jax.Array) -> Any:
        if name == "alone":
            return alone(key, *batch)
        if name == "plain":
            states[name], loss = plain(states[name], *batch)
        else:
            states[name], loss = whole(states[name], key, *batch)
        return loss

    seconds: dict[str, list[float]] = {"plain": [], "whole": [], "alone": []}
    for turn in range(-1, TURNS):
        for name, taken in seconds.items():
            jax.block_until_ready(run(name, jax.random.key(turn + 1)))
            start = time.perf_counter()
            for i in range(sizes["calls"]):
                result = run(name, jax.random.key(i))
            jax.block_until_ready(result)
            if turn >= 0:
                taken.append((time.perf_counter() - start) / sizes["calls"])
    shares = [1 - a / b for a, b in zip(seconds["plain"], seconds["whole"], strict=True)]
    return {
        "seconds": seconds,
        "share_of_step": {"by_turn": shares, "median": statistics.median(shares)},
        "alone_over_step": statistics.median(seconds["alone"])
        / statistics.median(seconds["whole"]),
    }


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "device": measure_device,
    "peaks": measure_peaks,
    "augmentation": measure_augmentation,
}


def _add_utilisation(programs: dict[str, dict[str, Any]], peaks: dict[str, Any]) -> None:
    """Adds TFLOP/s of training steps and their share of the measured peak."""
    for figures in programs.values():
        if "median" in figures and "peak_tflops" in peaks:
            model = ModelConfig(**{key: figures[key] for key in ("width", "depth", "block_size")})
            size = figures["image_size"]
            figures["tflops"] = training_flops(model, size, size) / 1e12 * figures["median"]
            figures["mfu_of_measured_peak"] = figures["tflops"] / peaks["peak_tflops"]


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
