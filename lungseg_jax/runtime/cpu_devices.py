"""JAX devices on the cores of a CPU."""

import os

import jax

from lungseg_jax import terminal
from lungseg_jax.config import Config
from lungseg_jax.device_counts import divides
from lungseg_jax.runtime.cores import usable_cores

# More were not tried.
MOST_DEVICES = 8


def use_all_cores(config: Config) -> None:
    """Makes each core a device for training on a CPU; call it before JAX looks for devices.

    XLA runs most of a step's operations on one core of a device: two devices of one core each train
    1.3 times as fast as one device of two. As many devices are made as the batch divides over. A
    number that `XLA_FLAGS` or JAX's configuration states is kept; so are the devices that JAX has
    found already.

    Args:
      config: gives the batch.
    """
    chosen = jax.config.jax_num_cpu_devices >= 0  # type: ignore[attr-defined]
    if chosen or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    cores = usable_cores()
    devices = devices_for(config, cores)
    if devices == 1 < cores:
        terminal.say(
            f"Batches do not divide over this machine's {cores} cores: one device computes, slower "
            "than several would"
        )
    try:
        jax.config.update("jax_num_cpu_devices", devices)
    except RuntimeError:
        # JAX has looked for devices, as in a notebook that has segmented an image before.
        found = jax.local_device_count()
        if jax.default_backend() == "cpu" and found < devices:
            terminal.say(
                f"JAX is already in use with {found} of this machine's {cores} cores as devices: "
                "training is slower than in a new process"
            )


def devices_for(config: Config, cores: int) -> int:
    """Returns the largest number of devices, one per core, over which batch and rows divide."""
    return max(
        devices
        for devices in range(1, min(cores, MOST_DEVICES) + 1)
        if devices == 1 or divides(config, devices)
    )
