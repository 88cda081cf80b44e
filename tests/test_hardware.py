"""What is known of a device by its name."""

import jax
import pytest

from lungseg_jax.performance.hardware import accelerator, devices_per_chip


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("TPU v5 lite", "TPU v5e"),
        ("TPU v5", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA H200 NVL", None),
        ("cpu", None),
    ],
)
def test_figures_are_those_of_the_very_device(device_kind: str, name: str | None):
    """Fault: utilisation by the peak of a device that is half as fast again."""
    found = accelerator(device_kind)
    assert (found.name if found else None) == name


def test_other_devices_than_tpus_are_whole(eight_devices):
    """Fault: coordinates asked of a device that has none."""
    assert devices_per_chip(eight_devices) == 1
    assert devices_per_chip(jax.devices()[:1]) == 1
