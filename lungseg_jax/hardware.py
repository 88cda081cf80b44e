"""What the vendors state of the devices that runs are measured against."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Figures of one JAX device: a chip, except that a TPU v4 or v5p of two cores is one device.

    Attributes:
      name: as people say it.
      tflops: dense bfloat16 peak in TFLOP/s.
      bandwidth: of its memory in GB/s.
      memory_gib: of its memory.
    """

    name: str
    tflops: float
    bandwidth: float
    memory_gib: float


# By the beginning of JAX's `device_kind`. Sources: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e);
# NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM.
ACCELERATORS = {
    "TPU v4": Accelerator("TPU v4", 275.0, 1228.0, 32.0),
    "TPU v5 lite": Accelerator("TPU v5e", 197.0, 819.0, 16.0),
    "TPU v5": Accelerator("TPU v5p", 459.0, 2765.0, 95.0),
    "TPU v6": Accelerator("TPU v6e", 918.0, 1640.0, 32.0),
    "NVIDIA A100": Accelerator("A100", 312.0, 2039.0, 80.0),
    "NVIDIA H100": Accelerator("H100", 989.0, 3350.0, 80.0),
    "NVIDIA H200": Accelerator("H200", 989.0, 4800.0, 141.0),
}


def accelerator(device_kind: str) -> Accelerator | None:
    """Returns the figures of a device, `None` where they are not known."""
    # The longest name that fits: "TPU v5 lite" is not a "TPU v5".
    fitting = [name for name in ACCELERATORS if device_kind.startswith(name)]
    return ACCELERATORS[max(fitting, key=len)] if fitting else None
