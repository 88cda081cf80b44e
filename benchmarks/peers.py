"""Races training step and inference on a CPU: ours, our network in OpenVINO, and PyTorch's.

  python -m benchmarks.peers [CASE…]

Without a case, those of `CASES` are run, in about half an hour on two cores. Each case replaces its
own entry in `benchmarks/results/peers_cpu.json`, with commit, versions, hardware and every turn. A
ratio is our rate over that of PyTorch's fastest variant in the same turn: eager, compiled or, for
inference, compiled with frozen weights, with or without the huge pages that our code requests by
itself. Cases that end in `bfloat16` compare PyTorch's autocast with our fastest program, of either
data type. OpenVINO, a library for inference on CPUs, runs the graph of `lungseg_jax.export_onnx` in
PyTorch's data type; its ratios are listed separately. Two devices share the rows of a single image
(`space_shards`). Prediction on files does not do this, because its small network would not gain by
it.
"""

import os
import sys
from typing import Any, Literal

from benchmarks.command import call_with_arguments
from benchmarks.programs import TURN_SECONDS, WORK, Program
from benchmarks.race import compare, race, say
from benchmarks.result_files import earlier_result, write_result
from lungseg_jax.runtime.cores import usable_cores
from lungseg_jax.runtime.environment import environment

TURNS = 5

LIMIT_SECONDS = 120.0

DTYPES: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")

# Name: (task, width, image size, batch size).
SIZES: dict[str, tuple[Literal["train", "inference"], int, int, int]] = {
    "train": ("train", 16, 256, 4),
    "inference-16-1": ("inference", 16, 512, 1),
    "inference-16-4": ("inference", 16, 512, 4),
    "inference-32-1": ("inference", 32, 512, 1),
    "inference-32-4": ("inference", 32, 512, 4),
}

# What runs if no case is named. Without instructions for bfloat16 PyTorch takes ten times as long
# as in float32: its larger batches would add ten minutes and show nothing new.
CASES = [
    *(f"{name}-float32" for name in SIZES),
    *(f"{name}-bfloat16" for name in ("train", "inference-16-1", "inference-32-1")),
]


def programs(case: str) -> list[Program]:
    """Returns a case's programs: PyTorch's variants in its type, ours in that type and float32."""
    name, _, dtype = case.rpartition("-")
    task, width, image_size, batch_size = SIZES[name]
    size: Any = {
        "task": task, "width": width, "image_size": image_size, "batch_size": batch_size,
    }  # fmt: skip
    # A single image keeps only one core busy, unless two share its rows.
    space_shards = min(2, usable_cores()) if batch_size == 1 else 1
    ours = [
        Program(
            library="lungseg_jax",
            dtype=our_dtype,
            huge_pages=True,
            space_shards=space_shards,
            **size,
        )
        for our_dtype in DTYPES
        if our_dtype in ("float32", dtype)
    ]
    size |= {"dtype": dtype}
    others: list[dict[str, Any]] = [
        {"library": "pytorch", "mode": "eager"},
        {"library": "pytorch", "mode": "compile"},
    ]
    if task == "inference":
        others.insert(0, {"library": "openvino"})
        others.append({"library": "pytorch", "mode": "freeze"})
    return ours + [
        Program(huge_pages=huge_pages, **other, **size)
        for other in others
        for huge_pages in (False, True)
    ]


def measure(case: str, machine: dict[str, Any]) -> dict[str, Any]:
    """Runs a case; returns its entry of the result file."""
    say(case)
    racers = programs(case)
    result = race(racers, turns=TURNS, limit_seconds=LIMIT_SECONDS)
    dtype = racers[-1].dtype
    ratio = compare(result, DTYPES, [dtype])
    exported = compare(result, [dtype], [dtype], library="openvino")
    for found in filter(None, (ratio, exported)):
        say(f"  {found['ours']} over {found['theirs']}: {found['median']:.2f}")
    return {
        **machine,
        "turn_seconds": TURN_SECONDS,
        "work": WORK[racers[0].task],
        "programs": result,
        "ratios": {dtype: ratio},
        "exported_ratios": {dtype: exported},
    }


def main(*names: str) -> None:
    """Runs cases and writes them to the result file."""
    known = [f"{name}-{dtype}" for name in SIZES for dtype in DTYPES]
    if unknown := set(names) - set(known):
        sys.exit(f"no case {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Now, because the result file is about to change.
    machine = environment()
    for name in names or CASES:
        entry = measure(name, machine)
        cases = earlier_result("peers_cpu").get("cases", {}) | {name: entry}
        ordered = {name: cases[name] for name in sorted(cases, key=_order)}
        write_result("peers_cpu", {"cases": ordered})


def _order(case: str) -> tuple[int, int]:
    name, _, dtype = case.rpartition("-")
    return DTYPES.index(dtype), list(SIZES).index(name)  # type: ignore[arg-type]


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
