"""Benchmark mode's file, and the arithmetic in it."""

import json

import pytest

from lungseg_jax.benchmark import _peak_tflops, benchmark
from tests.small import small_config_with_data


def test_file_has_the_fixed_keys_and_agrees_with_itself(tmp_path):
    """Fault: a key that measurements rely on is missing, or rates of another batch size."""
    config = small_config_with_data(tmp_path, benchmark__steps=4, benchmark__warmup_steps=1)
    benchmark(config, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "benchmark.json").read_text())
    assert (result["device"], result["num_devices"], result["batch_size"]) == ("cpu", 8, 8)
    assert result["compile_seconds"] > 0
    step = result["train_step"]
    assert step["images_per_second"] == pytest.approx(8 / step["median_ms"] * 1e3)
    assert step["p95_ms"] >= step["median_ms"]
    assert step["mfu"] is None, "the peak of a CPU is not known"
    # Forward and backward of a width-4 network on 8 pictures of 32 x 32: tens of MFLOP.
    flops = step["tflops_per_second"] * 1e12 * step["median_ms"] / 1e3
    assert 1e7 < flops < 1e9
    assert set(result["end_to_end"]) == {"images_per_second", "input_stall"}
    assert 0 <= result["end_to_end"]["input_stall"] < 1
    assert {"images_per_second", "median_ms"} <= set(result["inference"])


def test_peak_of_the_device_that_is_named_most_exactly():
    """Fault: a v5e judged by the peak of a v5p."""
    assert _peak_tflops("TPU v5 lite") == 197
    assert _peak_tflops("TPU v5p") == 459
    assert _peak_tflops("NVIDIA H200") == 989
    assert _peak_tflops("cpu") is None
