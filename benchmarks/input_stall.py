"""How long steps wait for their images, kept on the device or streamed from records.

  python -m benchmarks.input_stall --config=FILE [--config.KEY=VALUE …]

Runs benchmark mode with either input, in turn, and writes its figures for the step, the input and
both together to `benchmarks/results/input_stall.json`, under the names of hardware and experiment.
Takes about nine minutes for `configs/kaggle.py` on two cores.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import call_with_arguments
from benchmarks.result_files import earlier_result, write_result
from lungseg_jax.runtime.environment import environment

# An input that is occasionally slow shows up in one of them.
TURNS = 3

INPUTS = {"resident": "true", "streamed": "false"}

KEPT = ("batch_size", "image_size", "dtype")


def main(config: str, *keys: str) -> None:
    """Measures and writes the figures to the result file."""
    own_environment = environment()
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in INPUTS}
    benchmark: dict[str, Any] = {}
    for _ in range(TURNS):
        for name, resident in INPUTS.items():
            benchmark = _benchmark(config, *keys, f"--config.data.resident={resident}")
            turns[name].append(_figures(benchmark))
    experiment = Path(config.partition("=")[2]).stem
    case = own_environment | {name: benchmark[name] for name in KEPT} | turns
    found = earlier_result("input_stall") | {f"{own_environment['hardware']}: {experiment}": case}
    write_result("input_stall", dict(sorted(found.items())))
    print(json.dumps(case, indent=2))


def _benchmark(*arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as workdir:
        command = ["-m", "lungseg_jax.main", "--mode=benchmark", f"--workdir={workdir}", *arguments]
        subprocess.run([sys.executable, *command], check=True)  # noqa: S603
        return json.loads((Path(workdir) / "benchmark.json").read_text())


def _figures(benchmark: dict[str, Any]) -> dict[str, float]:
    rates = {name: benchmark[name]["images_per_second"] for name in ("input", "end_to_end")}
    step = benchmark["train_step"]["pipelined"]["images_per_second"]
    stall = {name: benchmark["end_to_end"][name] for name in ("input_stall", "input_stall_error")}
    return {"step": step, **rates, **stall}


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
