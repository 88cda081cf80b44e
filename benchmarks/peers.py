"""Training step and inference on a CPU, ours and PyTorch's in turn.

  python -m benchmarks.peers [CASE…]

Without a case all are run, in under ten minutes on two cores. Each case replaces its own entry of
`benchmarks/results/peers_cpu.json`, with hardware, versions and every turn. A ratio is the rate of
ours over that of PyTorch's fastest variant in the same turn: `float32` compares what computes in
that type, `bfloat16` the fastest of ours, of any type, with PyTorch's fastest under autocast.
"""

import json
import os
import sys
from typing import Any, Literal

from benchmarks.main_job import RESULTS, hardware
from benchmarks.programs import WORK, Program
from benchmarks.race import compare, race

RESULT = RESULTS / "peers_cpu.json"

# At least five pairs; each turn takes about a second.
TURNS = 7

LIMIT_SECONDS = 120

DTYPES: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")

# Name: (task, width, image size, batch size, calls a turn).
CASES = {
    "train": ("train", 16, 256, 4, 4),
    "inference-16-1": ("inference", 16, 512, 1, 6),
    "inference-16-4": ("inference", 16, 512, 4, 2),
    "inference-32-1": ("inference", 32, 512, 1, 3),
    "inference-32-4": ("inference", 32, 512, 4, 1),
}


def programs(case: str) -> list[Program]:
    """Returns the programs of a case: ours in both types, PyTorch's variants in both."""
    task, width, image_size, batch_size, _ = CASES[case]
    size: Any = {
        "task": task, "width": width, "image_size": image_size, "batch_size": batch_size,
    }  # fmt: skip
    ours = [Program(library="lungseg_jax", dtype=dtype, **size) for dtype in DTYPES]
    theirs = [
        Program(library="pytorch", dtype=dtype, mode=mode, **size)
        for dtype in DTYPES
        for mode in ("eager", "compile")
    ]
    return ours + theirs


def measure(case: str) -> dict[str, Any]:
    """Runs a case; returns its entry of the result file."""
    task, width, image_size, batch_size, calls = CASES[case]
    print(f"{case}: {task}, width {width}, {image_size} x {image_size}, batch {batch_size}")
    result = race(programs(case), turns=TURNS, calls=calls, limit_seconds=LIMIT_SECONDS)
    ratios = {
        "float32": compare(result, ["float32"], ["float32"]),
        "bfloat16": compare(result, DTYPES, ["bfloat16"]),
    }
    for dtype, ratio in ratios.items():
        if ratio:
            print(f"  {dtype}: {ratio['ours']} over {ratio['theirs']}: {ratio['median']:.2f}")
    return {
        "hardware": hardware(),
        "work": WORK[task],
        "calls_per_turn": calls,
        "programs": result,
        "ratios": ratios,
    }


def main(*names: str) -> None:
    """Runs cases and puts them into the result file."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for name in names or CASES:
        entry = measure(name)
        cases = json.loads(RESULT.read_text())["cases"] if RESULT.exists() else {}
        cases[name] = entry
        result = {"cases": {name: cases[name] for name in CASES if name in cases}}
        RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
