"""What vendors state about the devices against which runs are measured."""

import dataclasses
from collections.abc import Sequence

import jax


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Figures of one chip. A TPU v4 or v5p with two cores is one JAX device; a TPU7x is two.

    Attributes:
      name: common name.
      tflops: dense bfloat16 peak in TFLOP/s.
      bandwidth: memory bandwidth in GB/s.
      memory_gib: size of its memory in GiB.
      link_bandwidth: bandwidth of all its links to other chips together, one way, in GB/s; for a
        GPU, NVLink's.
      clock_ghz: clock of a TPU's cores, to turn its compiler's cycles into time. TPU v4's is
        published (Jouppi et al. 2023, https://arxiv.org/abs/2304.01433, table 4: 1050 MHz). The
        others are derived from the peak: TFLOP/s over two operations per cycle for each of a chip's
        multipliers (v5e 4 units of 128², v5p 8 of 128², v6e 4 of 256², 7x 8 of 256²). By that rule
        v4's 8 units of 128² give 1.05 too. Revisions of Google's page on v6e say two units or four:
        two would need 3.5 GHz, so four are assumed.
    """

    name: str
    tflops: float
    bandwidth: float
    memory_gib: float
    link_bandwidth: float
    clock_ghz: float | None = None


# Keyed by JAX's `device_kind`: the whole of a GPU's, since variants of one name differ in their
# figures, and the beginning of a TPU's. Sources: docs.cloud.google.com/tpu/docs (v5e, v5p, v6e,
# tpu7x; "bidirectional" link figures halved) and for v4 Jouppi et al. (6 links of 50 GB/s);
# NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM (NVLink's halved too).
ACCELERATORS = {
    "TPU v4": Accelerator("TPU v4", 275.0, 1228.0, 32.0, 300.0, 1.05),
    "TPU v5 lite": Accelerator("TPU v5e", 197.0, 819.0, 16.0, 200.0, 1.5),
    "TPU v5e": Accelerator("TPU v5e", 197.0, 819.0, 16.0, 200.0, 1.5),
    "TPU v5": Accelerator("TPU v5p", 459.0, 2765.0, 95.0, 600.0, 1.75),
    "TPU v6": Accelerator("TPU v6e", 918.0, 1600.0, 32.0, 400.0, 1.75),
    "TPU7x": Accelerator("TPU7x", 2307.0, 7380.0, 192.0, 600.0, 2.2),
    "NVIDIA A100-SXM4-80GB": Accelerator("A100", 312.0, 2039.0, 80.0, 300.0),
    "NVIDIA H100 80GB HBM3": Accelerator("H100", 989.0, 3350.0, 80.0, 450.0),
    "NVIDIA H200": Accelerator("H200", 989.0, 4800.0, 141.0, 450.0),
}


def accelerator(device_kind: str) -> Accelerator | None:
    """Returns the figures of a device; `None` where they are not known."""
    # The longest name that fits: "TPU v5 lite" is not a "TPU v5".
    fitting = [
        name
        for name in ACCELERATORS
        if device_kind == name or (name.startswith("TPU") and device_kind.startswith(name))
    ]
    return ACCELERATORS[max(fitting, key=len)] if fitting else None


def devices_per_chip(devices: Sequence[jax.Device]) -> int:  # pyright: ignore[reportInvalidTypeForm]
    """Returns how many devices a chip is divided into; its figures are to be divided likewise."""
    if devices[0].platform != "tpu":
        return 1
    return len(devices) // len({tuple(device.coords) for device in devices})
