"""The training step compiled for TPUs that are not there, and what the compiler predicts for it.

libtpu holds the whole TPU compiler, which needs no TPU. It compiles the very step that training
runs, for a topology given by name. The results are exact where they are the program's own
(memory, collectives, layouts) and predictions where they come from the compiler's cost model
(cycles). No TPU runs: every time is labelled as predicted.
"""

import collections
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from lungseg_jax import terminal
from lungseg_jax.config import Config
from lungseg_jax.data.labels import num_classes
from lungseg_jax.device_counts import check_devices
from lungseg_jax.errors import ConfigError
from lungseg_jax.optim import make_optimizer
from lungseg_jax.parallel import Parallel
from lungseg_jax.paths import run_folder, write_whole
from lungseg_jax.performance import hlo
from lungseg_jax.performance.flops import training_flops
from lungseg_jax.performance.hardware import accelerator, devices_per_chip
from lungseg_jax.runtime.environment import revision
from lungseg_jax.state import abstract_state, state_layout
from lungseg_jax.step import make_train_step

DEAREST = 20
TOPOLOGY_EXAMPLES = "such as v4:2x2x1, v5e:2x2, v5e:16x16, v5p:2x2x1, v6e:2x2, tpu7x:2x2x1"

# So that libtpu queries no metadata server, locks no TPU, and does not complain that there is none.
_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}

# Instructions that move no data of their own.
_BOOKKEEPING = frozenset(
    {
        "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
        "while", "conditional", "call", "partition-id", "replica-id",
    }
)  # fmt: skip
# The compiler gives up in one of two places, each with a message of its own.
_OUT_OF_MEMORY = re.compile(
    r"(?:Used |\()([\d.]+)([GMK])(?: of |\) exceeds available HBM \()([\d.]+)([GMK])"
)
_GIB = 2**30
_UNITS = {"K": 2**10, "M": 2**20, "G": _GIB}


def compile_ahead(config: Config, workdir: epath.PathLike, topology: str) -> dict[str, Any]:
    """Compiles the training step, writes `compile.json` and returns its content.

    The predicted time of a step is the sum of the compiler's `estimated_cycles` over the schedule
    (see `performance.hlo.schedule`), divided by the clock. It leaves out what has no estimate:
    collectives, gathers, and copies that run beside other work; they are counted by kind.

    Args:
      config: the run's configuration; `model.dtype=auto` means bfloat16, as it does on a TPU.
      workdir: where `compile.json` is written.
      topology: topology of TPU devices, such as `v5e:2x2`, `v4:2x2x1`, `v6e:16x16`.

    Raises:
      ConfigError: no libtpu, an unknown topology, or a batch that does not divide over it.
    """
    workdir = run_folder(workdir)
    devices = topology_devices(topology)
    check_devices(config, len(devices), len({device.process_index for device in devices}))
    parallel = Parallel(config.parallel, devices, config.space_shards, config.shard_optimizer)
    if config.model.dtype == "auto":
        model = dataclasses.replace(config.model, dtype="bfloat16")
        config = dataclasses.replace(config, model=model)
    terminal.say(f"Compiling for {topology}; this takes minutes")
    start = time.perf_counter()
    lowered = lower_step(config, parallel)
    try:
        with _without_cache():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = _memory_asked(str(error))
        if used is None:
            raise
        findings: dict[str, Any] = {"fits": False, "memory": used}
    else:
        findings = _findings(compiled, config, parallel)
    result = {
        "note": "predicted by the TPU compiler; no TPU was run",
        "topology": topology,
        "device": parallel.devices[0].device_kind,
        "num_devices": len(parallel.devices),
        "batch_size": config.batch_size,
        "image_size": config.data.image_size,
        "parallel": config.parallel,
        "model": dataclasses.asdict(config.model),
        "revision": revision(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "libtpu")},
        "compile_seconds": time.perf_counter() - start,
        **findings,
    }
    workdir.mkdir(parents=True, exist_ok=True)
    write_whole(workdir / "compile.json", (json.dumps(result, indent=2) + "\n").encode())
    terminal.say(summary(result))
    return result


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """Bypasses the compilation cache: programs for absent devices cannot be loaded from it."""
    enabled = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    # JAX asks once whether there is a cache.
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def topology_devices(name: str) -> tuple[jax.Device, ...]:  # pyright: ignore[reportInvalidTypeForm]
    """Returns the devices of a TPU topology, for compilation only.

    Raises:
      ConfigError: no libtpu, or no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError("--topology", "needs the TPU compiler, libtpu", "pip install 'jax[tpu]'")
    for variable, value in _WITHOUT_TPU.items():
        os.environ.setdefault(variable, value)
    # A TPU v4 with two cores is one device on Cloud TPU, but not by default here.
    options = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
    try:
        devices = topologies.get_topology_desc(name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0].partition(": ")[2]
        raise ConfigError("--topology", f"is {name!r}: {reason}", TOPOLOGY_EXAMPLES) from error
    if accelerator(devices[0].device_kind) is None:
        reason = f"no figures of {devices[0].device_kind} in lungseg_jax/performance/hardware.py"
        raise ConfigError("--topology", f"is {name!r}: {reason}", TOPOLOGY_EXAMPLES)
    return tuple(devices)


def lower_step(config: Config, parallel: Parallel) -> jax.stages.Lowered:
    """Returns the training step on batches that carry their images, traced but not compiled."""
    optimizer = make_optimizer(config)
    state = abstract_state(config, optimizer)
    step = make_train_step(config, optimizer, parallel)
    wrapped: Any = parallel.wrap_step(step, state_layout(state, parallel))
    return wrapped.lower(state, None, _abstract_batch(config, parallel))


def summary(result: dict[str, Any]) -> str:
    """Returns the content of `compile.json` as text for people."""
    memory = result["memory"]
    rows = [
        ["fits", "yes" if result["fits"] else "NO"],
        ["memory a device", f"{memory['used_gib']:.2f} of {memory['available_gib']:.2f} GiB"],
        ["compilation", f"{result['compile_seconds']:.0f} s"],
    ]
    title = (
        f"{result['topology']}: {result['num_devices']} x {result['device']}, "
        f"batch {result['batch_size']}, {result['image_size']}²"
    )
    if "train_step" not in result:
        return terminal.table([title, ""], rows)
    step = result["train_step"]
    rows += [
        ["step (predicted)", f"{step['milliseconds']:.2f} ms"],
        ["", f"{step['cycles'] / 1e6:.1f} M cycles at {step['clock_ghz']} GHz"],
        ["images/s (predicted)", f"{step['images_per_second']:.0f}"],
        ["images/s a device (predicted)", f"{step['images_per_second_per_device']:.0f}"],
        ["MFU (predicted)", f"{step['mfu']:.1%}"],
    ]
    for kind, total in sorted(result["collectives"].items()):
        size = f"{total['bytes'] / 2**20:.2f} MiB, largest {total['largest'] / 2**20:.2f}"
        rows.append([f"{total['count']} x {kind}", size])
    unknown = [f"{count} x {kind}" for kind, count in result["without_estimate"].items()]
    labels = ["not in the predicted time", *[""] * len(unknown[1:])]
    rows += [list(row) for row in zip(labels, unknown or ["nothing"], strict=True)]
    dearest = [
        [
            # Without the prefix, which is the same for all.
            op["op_name"].rpartition("shard_map/")[2],
            op["name"],
            f"{op['cycles'] / 1e6:.2f} M",
            f"{op['share']:.1%}",
        ]
        for op in result["dearest"]
    ]
    head = ["from", "op", "cycles (predicted)", "share"]
    return f"{terminal.table([title, ''], rows)}\n\n{terminal.table(head, dearest)}"


def _abstract_batch(config: Config, parallel: Parallel) -> dict[str, jax.ShapeDtypeStruct]:
    count = len(parallel.devices)
    leading = (config.batch_size,)
    if parallel.kind == "pmap":
        leading = (count, config.batch_size // count)
    side = config.data.image_size
    channels = num_classes(config.data.labels)
    return {
        "position": jax.ShapeDtypeStruct(leading, jnp.int32),
        "slot": jax.ShapeDtypeStruct(leading, jnp.int32),
        "image": jax.ShapeDtypeStruct((*leading, side, side, 1), jnp.uint16),
        "mask": jax.ShapeDtypeStruct((*leading, side, side, channels), jnp.uint8),
    }


def _findings(compiled: jax.stages.Compiled, config: Config, parallel: Parallel) -> dict[str, Any]:
    module = hlo.parse(compiled.as_text() or "")
    costs = hlo.schedule(module)
    memory = _memory(compiled, parallel)
    return {
        "fits": memory["used_gib"] <= memory["available_gib"],
        "memory": memory,
        "collectives": hlo.by_kind(hlo.collectives(module)),
        "train_step": _step_figures(hlo.total_cycles(costs), config, parallel),
        "without_estimate": _without_estimate(costs),
        "dearest": _dearest(costs),
    }


def _memory(compiled: jax.stages.Compiled, parallel: Parallel) -> dict[str, float]:
    """Returns the GiB of one device; the state's results take the place of its arguments."""
    sizes: Any = compiled.memory_analysis()
    parts = {
        "arguments": sizes.argument_size_in_bytes,
        "results": sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        "temporaries": sizes.temp_size_in_bytes,
        "program": sizes.generated_code_size_in_bytes,
    }
    figures = {f"{name}_gib": size / _GIB for name, size in parts.items()}
    chip = accelerator(parallel.devices[0].device_kind)
    assert chip is not None, "checked where the topology was looked up"
    available = chip.memory_gib / devices_per_chip(parallel.devices)
    return {"used_gib": sum(figures.values()), "available_gib": available, **figures}


def _memory_asked(message: str) -> dict[str, float] | None:
    """Returns what the compiler reports when it gives up for lack of memory."""
    found = _OUT_OF_MEMORY.search(message)
    if not found:
        return None
    used, available = (float(found[i]) * _UNITS[found[i + 1]] / _GIB for i in (1, 3))
    return {"used_gib": used, "available_gib": available}


def _step_figures(cycles: int, config: Config, parallel: Parallel) -> dict[str, Any]:
    chip = accelerator(parallel.devices[0].device_kind)
    assert chip is not None
    assert chip.clock_ghz is not None
    count = len(parallel.devices)
    seconds = cycles / (chip.clock_ghz * 1e9)
    side = config.data.image_size
    work = training_flops(config.model, side, side, num_classes(config.data.labels))
    tflops = work * config.batch_size / count / seconds / 1e12
    return {
        "cycles": cycles,
        "clock_ghz": chip.clock_ghz,
        "milliseconds": 1e3 * seconds,
        "images_per_second": config.batch_size / seconds,
        "images_per_second_per_device": config.batch_size / count / seconds,
        "tflops_per_second_per_device": tflops,
        "mfu": tflops / (chip.tflops / devices_per_chip(parallel.devices)),
    }


def _without_estimate(costs: list[hlo.Cost]) -> dict[str, int]:
    """Counts, by kind, instructions for which the compiler gives no cycles, but not scalars."""
    counts: collections.Counter[str] = collections.Counter()
    for cost in costs:
        instruction = cost.instruction
        kind = instruction.opcode.removesuffix("-start")
        if cost.cycles is not None or kind in _BOOKKEEPING or kind.endswith("-done"):
            continue
        if kind in hlo.COLLECTIVES or hlo.shape_bytes(instruction.shape) >= 2**12:
            label = instruction.op_name.rpartition("/")[2]
            counts[f"{kind} ({label})" if kind == "fusion" and label else kind] += cost.runs
    return dict(counts.most_common())


def _dearest(costs: list[hlo.Cost]) -> list[dict[str, Any]]:
    known = [(cost.cycles, cost.instruction) for cost in costs if cost.cycles]
    total = sum(cycles for cycles, _ in known)
    known.sort(key=lambda pair: -pair[0])
    return [
        {
            "name": instruction.name,
            "op_name": instruction.op_name,
            "shape": instruction.shape,
            "cycles": cycles,
            "share": cycles / total,
        }
        for cycles, instruction in known[:DEAREST]
    ]
