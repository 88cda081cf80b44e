"""What is known of a device by its name."""

import jax
import pytest

from lungseg_jax.performance.hardware import ACCELERATORS, accelerator, devices_per_chip


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


# Dense bfloat16 TFLOP/s, GB/s of memory, GiB, GB/s of all links one way, as vendors publish them.
PUBLISHED = {
    "TPU v4": (275, 1228, 32, 300),
    "TPU v5e": (197, 819, 16, 200),
    "TPU v5p": (459, 2765, 95, 600),
    "TPU v6e": (918, 1600, 32, 400),
    "TPU7x": (2307, 7380, 192, 600),
    "A100": (312, 2039, 80, 300),
    "H100": (989, 3350, 80, 450),
    "H200": (989, 4800, 141, 450),
}


def test_peaks_are_the_published_ones():
    """Fault: a peak with sparsity, of float8, or of both directions of a link: half the MFU."""
    found = {
        chip.name: (chip.tflops, chip.bandwidth, chip.memory_gib, chip.link_bandwidth)
        for chip in ACCELERATORS.values()
    }
    assert found == PUBLISHED


def test_clocks_follow_from_peaks_and_multipliers():
    """Fault: a predicted time that is off by the ratio of two clocks."""
    multipliers = {
        "TPU v4": 8 * 128**2, "TPU v5e": 4 * 128**2, "TPU v5p": 8 * 128**2,
        "TPU v6e": 4 * 256**2, "TPU7x": 8 * 256**2,
    }  # fmt: skip
    for chip in ACCELERATORS.values():
        if chip.clock_ghz is not None:
            peak = 2 * multipliers[chip.name] * chip.clock_ghz / 1e3
            assert peak == pytest.approx(chip.tflops, rel=0.02)


def test_other_devices_than_tpus_are_whole(eight_devices):
    """Fault: coordinates asked of a device that has none."""
    assert devices_per_chip(eight_devices) == 1
    assert devices_per_chip(jax.devices()[:1]) == 1
