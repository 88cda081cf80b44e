"""What a device can do, measured on the spot, and what a program asks of it.

The roofline (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785): a program of
intensity I FLOP/byte reaches at most min(peak, I * bandwidth).
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from lungseg_jax.performance import hlo
from lungseg_jax.performance.hardware import accelerator, devices_per_chip
from lungseg_jax.performance.timing import Call, time_pipelined

Devices = Sequence[jax.Device]  # pyright: ignore[reportInvalidTypeForm]

# Calls in a row, so that a launch does not count as part of what the device can do; and rounds of
# them.
CALLS, ROUNDS = 10, 3

# Sides of the matrices that are multiplied. On CPUs the smaller product can be the faster one,
# because it stays in the caches.
CPU_SIDES, SIDES = (1024, 2048), (8192,)


@dataclasses.dataclass(frozen=True)
class Peaks:
    """What one device can do.

    Attributes:
      vendor_tflops: dense bfloat16 TFLOP/s, as the vendor states it; `None` where not known.
      matmul_tflops: TFLOP/s of a matrix product, measured in the compute type.
      vendor_bandwidth: memory bandwidth in GB/s, as the vendor states it; `None` where not known.
      bandwidth: memory bandwidth, measured.
    """

    vendor_tflops: float | None
    matmul_tflops: float
    vendor_bandwidth: float | None
    bandwidth: float

    @property
    def tflops(self) -> float:
        """The vendor's peak or, where that is not known, the measured one."""
        return self.vendor_tflops or self.matmul_tflops


def measure_peaks(devices: Devices, dtype: DTypeLike) -> Peaks:
    """Returns the peaks of each of this process's devices, all of them working at once.

    Virtual devices of one CPU share its cores, and so its peaks.

    Args:
      devices: this process's devices.
      dtype: type of the matrix product.
    """
    known, parts = accelerator(devices[0].device_kind), devices_per_chip(devices)
    return Peaks(
        vendor_tflops=known.tflops / parts if known else None,
        matmul_tflops=measure_matmul(devices, dtype),
        vendor_bandwidth=known.bandwidth / parts if known else None,
        bandwidth=measure_bandwidth(devices),
    )


def measure_matmul(devices: Devices, dtype: DTypeLike) -> float:
    """Returns the TFLOP/s of each device in a large product of square matrices.

    Args:
      devices: this process's devices.
      dtype: type of the operands, which are random: power, and so the clock, depends on them.
    """
    product = jax.jit(jnp.dot)

    def measure(side: int) -> float:
        matrix = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
        copies = [jax.device_put(matrix, device) for device in devices]
        return 2 * side**3 / _fastest(lambda: [product(x, x) for x in copies]) / 1e12

    return max(map(measure, CPU_SIDES if devices[0].platform == "cpu" else SIDES))


def measure_bandwidth(devices: Devices) -> float:
    """Returns the GB/s of each device's memory in a = a / 2 + b.

    There are two reads and one write of each element, in place: memory that is fresh from the
    operating system is slower at its first touch.

    Args:
      devices: this process's devices.
    """
    # Larger than any cache; devices of one CPU divide it between them.
    size = 2**28 // len(devices) if devices[0].platform == "cpu" else 2**30
    count = size // 4
    zeros = [jax.device_put(jnp.zeros(count), device) for device in devices]
    ones = [jax.device_put(jnp.ones(count), device) for device in devices]
    # One element as well: what is waited for must not be taken over by the next call.
    update = jax.jit(lambda a, b: (0.5 * a + b, b[0]), donate_argnums=0)

    def update_all() -> list[jax.Array]:
        updated, elements = zip(*map(update, zeros, ones), strict=True)
        zeros[:] = updated
        return list(elements)

    return 3 * size / _fastest(update_all) / 1e9


def _fastest(call: Call) -> float:
    """Returns a call's time in the fastest round: a peak is what a device can do undisturbed."""
    return min(time_pipelined(call, int(i == 0), CALLS) for i in range(ROUNDS))


@dataclasses.dataclass(frozen=True)
class Rate:
    """Work done on all devices, `images` at a time of `flops` each."""

    devices: int
    images: int
    flops: int
    peaks: Peaks

    def figures(self, seconds: float) -> dict[str, Any]:
        """Returns the rates of work that takes this long."""
        tflops = self.images * self.flops / seconds / 1e12
        device_tflops = tflops / self.devices
        return {
            "images_per_second": self.images / seconds,
            "images_per_second_per_device": self.images / seconds / self.devices,
            "tflops_per_second": tflops,
            "mfu": device_tflops / self.peaks.tflops,
            "mfu_measured": device_tflops / self.peaks.matmul_tflops,
        }


def place(flops: float, num_bytes: float, seconds: float, peaks: Peaks) -> dict[str, Any]:
    """Returns where a program stands under the roofline of one device, by its measured peaks.

    `floor_ms` is the least time that work and bytes allow. `share_of_attainable` above 1 means
    that some of the bytes never left a cache.

    Args:
      flops: floating-point operations of the program.
      num_bytes: bytes that it moves.
      seconds: time that it takes.
      peaks: the device's peaks.
    """
    compute = flops / (peaks.matmul_tflops * 1e12)
    memory = num_bytes / (peaks.bandwidth * 1e9)
    floor = max(compute, memory)
    return {
        "bytes_per_device": num_bytes,
        "flop_per_byte": flops / num_bytes,
        "ridge_flop_per_byte": 1e3 * peaks.matmul_tflops / peaks.bandwidth,
        "bound": "memory" if memory > compute else "compute",
        "attainable_tflops_per_second": flops / floor / 1e12,
        "floor_ms": 1e3 * floor,
        "share_of_attainable": floor / seconds,
    }


def bytes_accessed(compiled: Any) -> float:
    """Returns the bytes of operands and results of one device's part of a compiled program.

    This is XLA's count after fusion, in which the body of a loop counts once: too low for a CPU,
    where kernel gradients are loops over strips. It ignores custom calls, which the convolutions
    are on GPUs: theirs are added.
    """
    properties = compiled.cost_analysis()
    return float(properties["bytes accessed"]) + custom_call_bytes(compiled.as_text())


def custom_call_bytes(text: str) -> float:
    """Returns the bytes of operands and results of the custom calls in a module's text."""
    instructions = [i for body in hlo.parse(text).computations.values() for i in body]
    sizes = {instruction.name: hlo.shape_bytes(instruction.shape) for instruction in instructions}
    return float(
        sum(
            sizes[call.name] - _scratch_bytes(call.shape) + sum(sizes[x] for x in call.operands)
            for call in instructions
            if call.opcode == "custom-call"
        )
    )


def _scratch_bytes(shape: str) -> int:
    """Returns the bytes of the workspace that cuDNN and cuBLAS calls have as a result."""
    return sum(map(hlo.shape_bytes, re.findall(r"[us]8\[\d+\]", shape)))
