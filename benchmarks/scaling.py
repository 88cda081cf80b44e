"""How far data parallelism scales, on paper: from the compiled step to the efficiency of pods.

  python -m benchmarks.scaling [TOPOLOGY …]     (default: all of TOPOLOGIES)

Compiles the step of `configs/tpu.py` for each topology with the TPU compiler, at a fixed batch per
device, and writes `results/scaling.json`; topologies that it already holds and that are not named
are kept. No TPU is run: everything is predicted.

Efficiency of N devices = T / (T + C). T is the compiler's time for a device's step, which does not
include collectives; C is the time of the step's collectives. The compiled modules run them
synchronously, so none of C is hidden. An all-reduce of S bytes over the N chips of a torus takes

    2 S (N - 1) / N / W  +  2 h x 1 µs

- W: one-way bandwidth of the links that a ring can use: two of a chip's links along each axis that
  closes, one along an axis that does not. A chip's bandwidth (`performance.hardware`) is divided
  equally over its ports (v4 6, v5e and v6e 4). Axes close at 16 chips on v5e and v6e, at multiples
  of 4 on v4 (docs.cloud.google.com/tpu/docs/v5e, v6e, v4).
- h: hops to the farthest chip, half of a closed axis and all but one of an open one, added up over
  the axes; about 1 µs each ("How to Scale Your Model", jax-ml.github.io/scaling-book/sharding,
  which has a tenth less for the links than Google's documentation: with its figures efficiencies
  are .3 to .6 percent points lower).

Nodes of eight H200: reduce-scatter and all-gather of S within the node over NVLink (450 GB/s one
way), and between nodes an all-reduce of S / 8 over each GPU's own 400 Gb/s adapter (50 GB/s), as in
NVIDIA's DGX H200. Such a step is shorter than a TPU's, so its efficiency is lower while its rate is
higher: compare rates. A small all-reduce costs 20 µs within a node and 30 µs more between nodes
(assumed, of the order of NCCL's). T is the network's work at 40 % of the dense bfloat16 peak
(assumed: no GPU compiler was asked). The bytes are those of the TPU module of the same size.
"""

import dataclasses
import math
import re
import sys
import tempfile
from typing import Any

from benchmarks.command import call_with_arguments
from benchmarks.result_files import earlier_result, write_result
from configs import tpu
from lungseg_jax.compile_ahead import compile_ahead
from lungseg_jax.config import Config, resolve
from lungseg_jax.performance.flops import training_flops
from lungseg_jax.performance.hardware import ACCELERATORS, Accelerator, accelerator
from lungseg_jax.runtime.environment import revision

TOPOLOGIES = {
    "v4": ("v4:2x2x2", "v4:2x2x4", "v4:4x4x4", "v4:4x8x8"),
    "v5e": ("v5e:2x4", "v5e:4x4", "v5e:8x8", "v5e:16x16"),
    "v6e": ("v6e:2x4", "v6e:4x4", "v6e:8x8", "v6e:16x16"),
}
# Links of a chip, and the length of which a closed axis of chips is a multiple.
PORTS = {"v4": 6, "v5e": 4, "v6e": 4}
CLOSES = {"v4": 4, "v5e": 16, "v6e": 16}
HOP_SECONDS = 1e-6

GPUS_PER_NODE = 8
ADAPTER_BANDWIDTH = 50e9
NODE_LATENCY, NETWORK_LATENCY = 20e-6, 30e-6
GPU_UTILISATION = 0.4

KEPT = (
    "device", "num_devices", "batch_size", "versions", "compile_seconds", "fits",
    "memory", "collectives", "train_step", "without_estimate",
)  # fmt: skip


def main(*names: str) -> None:
    """Compiles for the topologies and predicts their efficiencies."""
    kinds = "|".join(PORTS)
    if unknown := [name for name in names if not re.fullmatch(rf"({kinds}):\d+(x\d+)+", name)]:
        sys.exit(f"not KIND:SIDExSIDE… of {', '.join(PORTS)}: {', '.join(unknown)}")
    config = resolve(tpu.get_config())
    per_device = config.batch_size // tpu.NUM_DEVICES
    # Once, because writing the file modifies the checkout.
    commit = revision()
    for name in names or [name for group in TOPOLOGIES.values() for name in group]:
        result = compile_for(config, name, per_device)
        kept = {key: result[key] for key in KEPT} | {"revision": commit}
        compiled = earlier_result("scaling").get("compiled", {}) | {name: kept}
        compiled = dict(sorted(compiled.items(), key=_by_size))
        write_result("scaling", _result(config, per_device, compiled))


def compile_for(config: Config, topology: str, per_device: int) -> dict[str, Any]:
    """Returns `compile.json` of the configured step with `per_device` images per device."""
    count = math.prod(parse_topology(topology)[1])
    config = dataclasses.replace(config, batch_size=per_device * count)
    with tempfile.TemporaryDirectory() as workdir:
        return compile_ahead(config, workdir, topology)


def parse_topology(topology: str) -> tuple[str, tuple[int, ...]]:
    """Returns the kind and the number of chips along each axis."""
    kind, _, sides = topology.partition(":")
    return kind, tuple(int(side) for side in sides.split("x"))


def torus_seconds(topology: str, chip: Accelerator, size: int) -> float:
    """Returns the time of one all-reduce; see the module's docstring."""
    kind, sides = parse_topology(topology)
    sides = [side for side in sides if side > 1]
    closed = [side % CLOSES[kind] == 0 for side in sides]
    links = sum(2 if is_closed else 1 for is_closed in closed)
    bandwidth = 1e9 * chip.link_bandwidth / PORTS[kind] * links
    hops = sum(
        side // 2 if is_closed else side - 1 for side, is_closed in zip(sides, closed, strict=True)
    )
    count = math.prod(sides)
    return 2 * size * (count - 1) / count / bandwidth + 2 * hops * HOP_SECONDS


def nodes_seconds(count: int, size: int) -> float:
    """Returns the time of one all-reduce over nodes of eight GPUs; see the module's docstring."""
    nodes = count // GPUS_PER_NODE
    nvlink = 1e9 * ACCELERATORS["NVIDIA H200"].link_bandwidth
    inside = 2 * size * (GPUS_PER_NODE - 1) / GPUS_PER_NODE / nvlink + NODE_LATENCY
    if nodes == 1:
        return inside
    part = size / GPUS_PER_NODE
    return inside + 2 * part * (nodes - 1) / nodes / ADAPTER_BANDWIDTH + NETWORK_LATENCY


def predict(topology: str, compiled: dict[str, Any], config: Config) -> dict[str, Any]:
    """Returns the predicted efficiency of a topology, and of the same number of GPUs."""
    chip = accelerator(compiled["device"])
    assert chip is not None
    count, per_device = compiled["num_devices"], compiled["batch_size"] // compiled["num_devices"]
    step = compiled["train_step"]["milliseconds"] / 1e3
    reduced = compiled["collectives"]["all-reduce"]
    gradients = torus_seconds(topology, chip, reduced["largest"])
    # All others reduce a few numbers each: batch statistics, the loss and the metrics.
    small = (reduced["count"] - 1) * torus_seconds(topology, chip, 0)
    side = config.data.image_size
    work = per_device * training_flops(config.model, side, side)
    gpu_step = work / (GPU_UTILISATION * 1e12 * ACCELERATORS["NVIDIA H200"].tflops)
    gpu_communication = nodes_seconds(count, reduced["largest"])
    gpu_communication += (reduced["count"] - 1) * nodes_seconds(count, 0)
    return {
        "step_ms": 1e3 * step,
        "gradient_all_reduce_ms": 1e3 * gradients,
        "small_all_reduces_ms": 1e3 * small,
        "efficiency": step / (step + gradients + small),
        "images_per_second": compiled["batch_size"] / (step + gradients + small),
        "h200_efficiency": gpu_step / (gpu_step + gpu_communication),
        "h200_images_per_second": compiled["batch_size"] / (gpu_step + gpu_communication),
    }


def _by_size(item: tuple[str, dict[str, Any]]) -> tuple[str, int]:
    return parse_topology(item[0])[0], item[1]["num_devices"]


def _result(config: Config, per_device: int, compiled: dict[str, Any]) -> dict[str, Any]:
    return {
        "hardware": "predicted by the TPU compiler and by arithmetic; no TPU or GPU was run",
        "image_size": config.data.image_size,
        "images_per_device": per_device,
        "model": dataclasses.asdict(config.model),
        "compiled": compiled,
        "predicted": {name: predict(name, found, config) for name, found in compiled.items()},
    }


if __name__ == "__main__":
    call_with_arguments(main, __doc__)
