"""The step compiled for TPUs that are not there."""

import importlib.util
import json
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import pytest

from lungseg_jax import compile_ahead
from lungseg_jax.errors import ConfigError
from lungseg_jax.main import main
from lungseg_jax.parallel import Parallel
from lungseg_jax.performance import hlo
from lungseg_jax.performance.flops import training_flops
from lungseg_jax.performance.hardware import devices_per_chip
from tests.small import small_config

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs the TPU compiler: pip install -e '.[tpu]'",
)


@pytest.mark.slow
@needs_libtpu
def test_file_agrees_with_itself_and_with_the_model(tmp_path):
    """Fault: rates of another batch, float32 on a TPU, memory or collectives not the program's."""
    config = small_config(model__width=8, batch_size=16, parallel="pmap")
    returned = compile_ahead.compile_ahead(config, tmp_path, "v5e:2x2")
    result = json.loads((tmp_path / "compile.json").read_text())
    assert result == json.loads(json.dumps(returned))
    assert "no TPU was run" in result["note"]
    assert (result["device"], result["num_devices"]) == ("TPU v5 lite", 4)
    assert result["model"]["dtype"] == "bfloat16"
    step = result["train_step"]
    seconds = step["milliseconds"] / 1e3
    assert seconds == pytest.approx(step["cycles"] / 1.5e9)
    assert step["images_per_second"] == pytest.approx(16 / seconds)
    assert step["images_per_second_per_device"] == pytest.approx(4 / seconds)
    work = 4 * training_flops(config.model, 32, 32)
    assert step["mfu"] == pytest.approx(work / seconds / 197e12)
    assert sum(op["share"] for op in result["dearest"]) <= 1 + 1e-9
    assert any("encoder0" in op["op_name"] for op in result["dearest"])
    # Ten batch normalisations, each once forward and once back.
    assert result["collectives"]["all-reduce"]["count"] >= 20
    # All gradients in one: the network's 29,457 parameters, in two bytes each at the least.
    assert 2 * 29_457 <= result["collectives"]["all-reduce"]["largest"] <= 4 * 29_457 + 100
    assert result["fits"]
    memory = result["memory"]
    assert memory["available_gib"] == 16
    assert 0 < memory["used_gib"] < 1


@needs_libtpu
@pytest.mark.parametrize("topology", ["v9:2x2", "v5e", "v5e:3x3", "v3:2x2"])
def test_unknown_topology_is_one_line(capfd, tmp_path, topology):
    """Fault: libtpu's traceback for a slip in a name."""
    arguments = ["x", "--config=configs/unet.py", "--mode=compile", f"--topology={topology}"]
    assert main([*arguments, f"--workdir={tmp_path}"]) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if "Error" in line]
    assert len(lines) == 1
    assert f"--topology: is '{topology}'" in lines[0]
    assert "v5e:2x2" in lines[0]


@needs_libtpu
def test_batch_that_does_not_divide_over_the_topology(tmp_path):
    """Fault: a shape error from deep inside the lowering."""
    with pytest.raises(ConfigError, match="64 devices"):
        compile_ahead.compile_ahead(small_config(batch_size=16), tmp_path, "v5e:8x8")


@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "devices", "per_chip"), [("v4:2x2x1", 4, 1), ("tpu7x:2x2x1", 8, 2)]
)
def test_devices_of_chips_with_two_cores(topology, devices, per_chip):
    """Fault: a core's rate judged by the peak of the chip, or the other way round."""
    found = compile_ahead.topology_devices(topology)
    assert (len(found), devices_per_chip(found)) == (devices, per_chip)


def test_without_libtpu_the_remedy_is_named(monkeypatch):
    """Fault: a ModuleNotFoundError where an extra is not installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"libtpu; pip install 'jax\[tpu\]'"):
        compile_ahead.topology_devices("v5e:2x2")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mode=compile"], "--topology: is missing"),
        (["--topology=v5e:2x2"], "--topology: is for --mode=compile only"),
    ],
)
def test_topology_and_mode_belong_together(capfd, arguments, words):
    """Fault: a training run started by one who asked for a prediction."""
    assert main(["x", "--config=configs/unet.py", *arguments]) == 1
    assert words in capfd.readouterr().err


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 31.50G of 15.75G hbm. Exceeded hbm capacity by 15.75G.",
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (31.50G) exceeds available HBM (15.75G).",
    ],
)
def test_memory_that_the_compiler_could_not_find(message):
    """Fault: a network that does not fit ends in a traceback instead of the answer."""
    used = compile_ahead._memory_asked(message)
    assert used == {"used_gib": 31.5, "available_gib": 15.75}
    assert compile_ahead._memory_asked("INTERNAL: something else") is None


def chips_of_two_devices(count: int) -> Parallel:
    """TPU7x chips that are not there."""
    devices = [
        Mock(jax.Device, platform="tpu", device_kind="TPU7x", coords=[i // 2, 0, 0])
        for i in range(2 * count)
    ]
    return Parallel("mesh", tuple(devices))


def test_predicted_rates_are_those_of_all_devices_and_of_one():
    """Fault: the work of all devices held against the peak of one, or of one class of two."""
    config = small_config(data__labels="left_right")
    # A millisecond at 2.2 GHz.
    found = compile_ahead._step_figures(2_200_000, config, chips_of_two_devices(2))
    assert found["milliseconds"] == pytest.approx(1)
    assert found["images_per_second"] == pytest.approx(8000)
    assert found["images_per_second_per_device"] == pytest.approx(2000)
    tflops = 2 * training_flops(config.model, 32, 32, 2) / 1e9
    assert found["tflops_per_second_per_device"] == pytest.approx(tflops)
    assert found["mfu"] == pytest.approx(tflops / (2307 / 2))


def test_memory_that_the_state_takes_over_counts_once():
    """Fault: a step that fits refused, because the state it updates in place is counted twice."""
    sizes = {"argument": 8, "output": 9, "alias": 7, "temp": 4, "generated_code": 1}
    plan = SimpleNamespace(**{f"{name}_size_in_bytes": x * 2**30 for name, x in sizes.items()})
    compiled = Mock(jax.stages.Compiled, memory_analysis=lambda: plan)
    found = compile_ahead._memory(compiled, chips_of_two_devices(1))
    assert (found["used_gib"], found["available_gib"]) == (8 + 9 - 7 + 4 + 1, 192 / 2)


def test_dearest_come_first_and_what_has_no_estimate_is_told():
    """Fault: the cheapest ops shown as the dearest; an op of no cost said to be unknown."""
    costs = [
        hlo.Cost(
            hlo.Instruction(f"op{i}", "fusion", "f32[2048]", (), (), "jit(step)/add", cycles, None),
            2,
            cycles and 2 * cycles,
        )
        for i, cycles in enumerate((10, 0, 30, None))
    ]
    found = compile_ahead._dearest(costs)
    assert [(op["name"], op["share"]) for op in found] == [("op2", 0.75), ("op0", 0.25)]
    assert compile_ahead._without_estimate(costs) == {"fusion (add)": 2}


@pytest.mark.parametrize("enabled", [True, False])
def test_the_compilation_cache_is_as_it_was(enabled: bool):
    """Fault: a cache that was switched off on again, or the other way round, for what follows."""
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", enabled)
        with compile_ahead._without_cache():
            assert not jax.config.jax_enable_compilation_cache
        assert jax.config.jax_enable_compilation_cache == enabled
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
