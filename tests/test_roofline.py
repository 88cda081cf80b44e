"""A program's place under a device's roofline."""

from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest

from lungseg_jax.performance import roofline
from lungseg_jax.performance.roofline import (
    Peaks,
    bytes_accessed,
    custom_call_bytes,
    measure_bandwidth,
    measure_matmul,
    measure_peaks,
    place,
)

# 100 TFLOP/s and 1 TB/s: the ridge is at 100 FLOP a byte.
PEAKS = Peaks(vendor_tflops=200.0, matmul_tflops=100.0, vendor_bandwidth=None, bandwidth=1000.0)


def test_program_below_the_ridge():
    """Fault: the peak of the matrix unit held against a program that waits for memory."""
    found = place(flops=1e12, num_bytes=40e9, seconds=0.1, peaks=PEAKS)
    assert found["bound"] == "memory"
    assert found["ridge_flop_per_byte"] == pytest.approx(100)
    assert found["flop_per_byte"] == pytest.approx(25)
    assert found["attainable_tflops_per_second"] == pytest.approx(25)
    assert found["floor_ms"] == pytest.approx(40)
    assert found["share_of_attainable"] == pytest.approx(0.4)


def test_program_above_the_ridge():
    """Fault: more promised than the matrix unit can do."""
    found = place(flops=1e12, num_bytes=1e9, seconds=0.02, peaks=PEAKS)
    assert found["bound"] == "compute"
    assert found["attainable_tflops_per_second"] == pytest.approx(100)
    assert found["share_of_attainable"] == pytest.approx(0.5)


@pytest.mark.parametrize("scratch", ["u8", "s8"])
def test_convolution_that_is_a_custom_call_is_counted(scratch: str):
    """Fault: no bytes at all for the convolutions of a GPU, which XLA's analysis cannot see.

    Or the workspace of one of the two libraries as if the network read it.
    """
    hlo = """
ENTRY %main (x: bf16[2,8,8,16], k: bf16[32,3,3,16]) -> bf16[2,8,8,32] {
  %x = bf16[2,8,8,16]{3,2,1,0} parameter(0)
  %k = bf16[32,3,3,16]{3,2,1,0} parameter(1)
  %cudnn-conv.3 = (bf16[2,8,8,32]{3,2,1,0}, u8[4096]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  ROOT %get-tuple-element.4 = bf16[2,8,8,32]{3,2,1,0} get-tuple-element(%cudnn-conv.3), index=0
}
"""  # noqa: E501
    images, kernel, results = 2 * 8 * 8 * 16, 32 * 3 * 3 * 16, 2 * 8 * 8 * 32
    found = custom_call_bytes(hlo.replace("u8[4096]", f"{scratch}[4096]"))
    assert found == 2 * (images + kernel + results)


def test_bytes_of_a_program_without_custom_calls():
    """Fault: bytes of another unit, or counted twice."""
    x = jnp.ones((256, 256))
    compiled = jax.jit(lambda x: jnp.sin(x) + 1).lower(x).compile()
    assert bytes_accessed(compiled) == pytest.approx(2 * 4 * 256**2, rel=0.01)


def test_utilisation_relates_to_the_vendor_where_known():
    """Fault: a device flattered by a product that falls short of what it is sold for."""
    assert PEAKS.tflops == 200
    assert Peaks(None, 100.0, None, 1000.0).tflops == 100


def test_work_and_bytes_of_what_is_measured(eight_devices, monkeypatch):
    """Fault: every utilisation off by the same factor: half the product, or no byte written."""
    monkeypatch.setattr(roofline, "_fastest", lambda _: 1.0)
    assert measure_matmul(eight_devices, jnp.float32) == pytest.approx(2 * 2048**3 / 1e12)
    # Two arrays are read and one is written; the devices of a CPU divide 256 MiB.
    assert measure_bandwidth(eight_devices) == pytest.approx(3 * 2**28 / 8 / 1e9)


def test_devices_of_one_chip_share_its_peaks(monkeypatch):
    """Fault: half the utilisation on a TPU7x, whose chip is two devices."""
    monkeypatch.setattr(roofline, "measure_matmul", lambda *_: 1.0)
    monkeypatch.setattr(roofline, "measure_bandwidth", lambda _: 1.0)
    device = Mock(jax.Device, platform="tpu", device_kind="TPU7x", coords=[0, 0, 0])
    peaks = measure_peaks([device, device], jnp.bfloat16)
    assert (peaks.vendor_tflops, peaks.vendor_bandwidth) == (2307 / 2, 7380 / 2)
