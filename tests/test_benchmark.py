"""Benchmark mode: its file, the arithmetic in it, and what it needs to run."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from lungseg_jax.benchmark import benchmark, input_figures
from lungseg_jax.errors import DataError
from lungseg_jax.parallel import Parallel
from lungseg_jax.performance import roofline, training
from lungseg_jax.performance.flops import forward_flops, training_flops
from lungseg_jax.performance.inference import forward_figures
from lungseg_jax.performance.report import _bytes, _stage_name, benchmark_report, limit
from lungseg_jax.performance.roofline import Peaks
from lungseg_jax.performance.training import (
    _steps_a_round,
    compile_step,
    memory_figures,
    time_training,
)
from tests.small import REPOSITORY, small_config, small_config_with_data

# A machine that has JAX, Flax and optax, and nothing that reads records.
BARE_MACHINE = """
import sys

class Missing:
    missing = {
        "tensorflow_datasets", "grain", "array_record", "pydicom", "gdcm", "cv2", "imagecodecs",
        "PIL", "tensorboardX", "orbax",
    }
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.missing:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())

from lungseg_jax.benchmark import benchmark
from lungseg_jax.config import default_config, resolve
from lungseg_jax.performance import roofline

# Eight devices of one CPU take half a minute for the usual ones.
roofline.CPU_SIDES = (128, 256)
config = default_config()
# As in tests/small.py, whose programs are compiled once for all tests.
config.update_from_flattened_dict({
    "batch_size": 8, "num_steps": 20, "parallel": "mesh", "profile": True, "data.image_size": 32,
    "model.width": 4, "model.depth": 2, "model.block_size": 1, "evaluation.batch_size": 8,
    "benchmark.data": "synthetic", "benchmark.steps": 3, "benchmark.warmup_steps": 1,
})
benchmark(resolve(config), sys.argv[1])
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    """The file of a run on eight devices."""
    folder = tmp_path_factory.mktemp("benchmark")
    # Batches with their images, as those of test_stages.py: their programs are the same.
    config = small_config_with_data(
        folder, data__resident="false", benchmark__steps=4, benchmark__warmup_steps=1
    )
    with pytest.MonkeyPatch.context() as patch:
        # Eight devices of one CPU take half a minute for the usual ones.
        patch.setattr(roofline, "CPU_SIDES", (128, 256))
        benchmark(config, folder / "run")
    return json.loads((folder / "run" / "benchmark.json").read_text())


def test_file_has_the_fixed_keys_and_agrees_with_itself(result):
    """Fault: a key that measurements rely on is missing, or rates of another batch size."""
    assert (result["device"], result["num_devices"], result["batch_size"]) == ("cpu", 8, 8)
    assert result["compile_seconds"] == pytest.approx(
        result["compile"]["lowering_seconds"] + result["compile"]["xla_seconds"]
    )
    step = result["train_step"]
    assert step["p5_ms"] <= step["median_ms"] <= step["p95_ms"]
    assert step["images_per_second"] == pytest.approx(8 / step["median_ms"] * 1e3)
    assert step["images_per_second_per_device"] == pytest.approx(step["images_per_second"] / 8)
    end_to_end = result["end_to_end"]
    assert end_to_end["images_per_second"] <= result["input"]["images_per_second"] * (1 + 1e-9)
    assert end_to_end["input_stall"] < 1
    assert end_to_end["input_stall_error"] >= 0
    inference = result["inference"]
    assert inference["images_per_second"] == pytest.approx(8 / inference["median_ms"] * 1e3)


def test_work_is_that_of_the_architecture_on_all_devices(result, tmp_path):
    """Fault: FLOPs of one device's part, or of what the compiler made of the network."""
    step = result["train_step"]
    work = step["tflops_per_second"] * 1e12 * step["median_ms"] / 1e3
    model = small_config_with_data(tmp_path).model
    assert work == pytest.approx(8 * training_flops(model, 32, 32))


def test_utilisation_of_a_device_whose_vendor_is_silent(result):
    """Fault: no MFU on CPU, or the work of eight devices held against the peak of one."""
    step, peaks = result["train_step"], result["peaks"]
    assert peaks["vendor_tflops"] is None
    assert step["mfu"] == step["mfu_measured"]
    assert step["mfu"] == pytest.approx(step["tflops_per_second"] / 8 / peaks["matmul_tflops"])


def test_input_slower_than_the_step_that_a_prefetch_buffer_hides():
    """Fault: no stall, because the batches of the steps that were timed lay ready before."""
    alone = fed = np.full(10, 0.1)
    figures = input_figures(10, alone, fed, input_alone=np.full(10, 0.4))
    assert figures["end_to_end"]["images_per_second"] == pytest.approx(25)
    assert figures["end_to_end"]["input_stall"] == pytest.approx(0.75)
    # Fault: one disturbance of the input's own rounds decides.
    disturbed = np.where(np.arange(10) == 4, 0.4, 0.05)
    figures = input_figures(10, alone, fed, disturbed)
    assert figures["end_to_end"]["input_stall"] == pytest.approx(0)
    assert figures["end_to_end"]["images_per_second"] == pytest.approx(100)


def test_each_timing_is_of_its_own_work(eight_devices, monkeypatch):
    """Fault: steps with and without the input exchanged; the one that is timed first favoured."""
    seconds = {"on_device": 1.0, "from_input": 2.0, "next_batch": 3.0}
    order = []

    def timed(call: Callable, *_: int) -> float:
        order.append(call.__name__)
        return seconds[call.__name__]

    monkeypatch.setattr(training, "time_pipelined", timed)
    monkeypatch.setattr(training, "time_stages", lambda *_: {})
    config = small_config(
        parallel="mesh", benchmark__data="synthetic", benchmark__steps=3, benchmark__warmup_steps=1
    )
    times = time_training(config, Parallel("mesh", tuple(eight_devices)), None)
    for found, name in (
        (times.pipelined, "on_device"), (times.fed, "from_input"), (times.input_alone, "next_batch")
    ):  # fmt: skip
        np.testing.assert_array_equal(found, [seconds[name]] * len(found))
    assert order[:4] == ["on_device", "from_input", "from_input", "on_device"]


def test_input_that_takes_time_from_the_step():
    """Fault: a stall of zero where the input alone is fast, but shares the step's cores."""
    # Fault: a disturbance that meets one round taken for the input.
    machine = np.array([1.0, 1.1, 1.2, 1.3, 1.0, 1.0, 1.2, 1.0, 9.0, 1.0])
    alone, fed = 0.3 * machine, 0.4 * machine
    alone[2] *= 5
    figures = input_figures(10, alone, fed, input_alone=np.full(10, 0.1))
    assert figures["end_to_end"]["input_stall"] == pytest.approx(0.25)
    assert figures["end_to_end"]["input_stall_error"] == pytest.approx(0, abs=1e-9)


def test_compilation_tells_whether_the_program_was_cached():
    """Fault: the time of loading a program from the persistent cache called compile time."""
    number = float(np.random.default_rng().random())
    found = [
        compile_step(jax.jit(lambda x: x * number), np.ones(3))[1]["compile"]["persistent_cache"]
        for _ in range(2)
    ]
    assert found == ["miss", "hit"]


def test_memory_that_a_step_takes_over_counts_once():
    """Fault: the state, which a step updates in place, planned for twice or thrice."""
    x = np.ones(2**18, np.float32)
    for donated, copies in (((), 2), ((0,), 1)):
        step = jax.jit(lambda x: x + 1, donate_argnums=donated)
        assert memory_figures(step.lower(x).compile())["planned_bytes"] == copies * x.nbytes
    # Fault: what is needed in between, which this program has none of, left out.
    sizes = {"argument": 10, "output": 20, "temp": 5, "alias": 8}
    plan = SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    compiled = Mock(jax.stages.Compiled, memory_analysis=lambda: plan)
    assert memory_figures(compiled)["planned_bytes"] == 10 + 20 + 5 - 8


@pytest.mark.parametrize(("step_seconds", "steps"), [(0.001, 500), (1.0, 10)])
def test_a_round_is_long_enough_for_its_first_batch(step_seconds, steps):
    """Fault: rounds of fast steps in which waiting for the first batch weighs most."""
    assert _steps_a_round(step_seconds) == steps


def test_inference_of_two_classes_has_their_work(eight_devices):
    """Fault: the work of a network with one logit a pixel, whatever the labels are."""
    config = small_config(data__labels="left_right")
    seconds = {name: np.ones(3) for name in ("evaluation", "inference", "single")}
    found = forward_figures(
        config, seconds, Peaks(None, 1.0, None, 1.0), Parallel("mesh", eight_devices)
    )
    size = config.data.image_size
    work = config.evaluation.batch_size * forward_flops(config.model, size, size, 2)
    for name in ("evaluation", "inference"):
        assert found[name]["tflops_per_second"] == pytest.approx(work / 1e12)


@pytest.mark.parametrize(
    ("low", "high", "note"),
    [
        (-0.5, 2.0, " (not distinguishable from 0)"),
        (0.5, 2.0, ""),
        (-0.5, -0.1, " (negative: the longer program was the faster one)"),
    ],
)
def test_a_stage_within_the_noise_is_called_so(low, high, note):
    """Fault: a difference that is noise shown as a stage's time, because its median is positive."""
    figures = {"median_ms": 1.0, "p5_ms": low, "p95_ms": high}
    assert _stage_name("update", figures) == f"  update{note}"


def test_a_step_faster_than_its_machine_is_doubted(result):
    """Fault: an MFU of 130 %, measured beside other work, printed as if it could be."""
    median = result["train_step"]["median_ms"]
    for share, in_a_row, doubts in ((0.9, 1.0, 0), (1.3, 1.0, 1), (0.9, 1.5, 1)):
        pipelined = result["train_step"]["pipelined"] | {"mean_ms": in_a_row * median}
        step = {"mfu_measured": share, "pipelined": pipelined}
        assert benchmark_report(changed(result, "train_step", **step)).count("Caution: ") == doubts


@pytest.mark.parametrize(("count", "text"), [(2.0**20, "1.0 MiB"), (2.0**30, "1.00 GiB")])
def test_bytes_are_shown_in_their_unit(count, text):
    """Fault: KiB called MiB, or a GiB of 10**9 bytes."""
    assert _bytes(count) == text


def test_table_is_aligned_and_whole(result):
    """Fault: a figure without its unit, columns out of line, a stage left out."""
    lines = benchmark_report(result).splitlines()
    first, second = (lines[i + 1 :] for i, line in enumerate(lines) if line.startswith("---"))
    for table in (first[:12], second[:12]):
        assert len({len(line) for line in table}) == 1, "\n".join(table)
    text = "\n".join(lines)
    for name in ("augment", "forward and loss", "backward", "update", "end to end", "evaluation"):
        assert name in text
    assert "\nLimit: " in text


def changed(result: dict, key: str, **figures: object) -> dict:
    return result | {key: result[key] | figures}


def stage(milliseconds: float) -> dict[str, float]:
    return {"median_ms": milliseconds, "p5_ms": 0.9 * milliseconds}


def test_limit_names_the_cause(result):
    """Fault: a run that waits for its input called compute-bound."""
    fed = changed(result, "end_to_end", input_stall=0.0, input_stall_error=0.0)
    slow = changed(result, "end_to_end", input_stall=0.3, input_stall_error=0.1)
    assert limit(slow).startswith("input; ")
    # Fault: noise of a busy machine taken for a slow input.
    noisy = changed(result, "end_to_end", input_stall=0.3, input_stall_error=0.2)
    assert not limit(noisy).startswith("input; ")
    whole = {"median_ms": 10.0}
    # Fault: the noise of a difference between two programs taken for slow links.
    for low, is_slow in ((3.0, True), (-1.0, False)):
        links = {"median_ms": 4.0, "p5_ms": low}
        slow_links = changed(fed, "stages", all_reduce=links, whole=whole)
        assert limit(slow_links).startswith("communication; 40%") == is_slow
    fed = changed(fed, "stages", call=stage(1.0), whole=whole)
    for bound, name in (("memory", "memory bandwidth"), ("compute", "computation")):
        near = changed(fed, "roofline", bound=bound, share_of_attainable=0.5)
        assert limit(near).startswith(name)
        # Fault: a limit named that the step is nowhere near.
        far = changed(fed, "roofline", bound=bound, share_of_attainable=0.1)
        assert limit(far).startswith("none of these")
    # Fault: a host that cannot send steps fast enough called a slow memory.
    busy_host = changed(fed, "stages", call=stage(6.0), whole=whole)
    busy_host = changed(busy_host, "train_step", pipelined={"mean_ms": 9.0})
    assert limit(busy_host).startswith("host; a call that does nothing takes 60%")
    # Fault: the round trip of a call that steps in a row hide.
    hidden = changed(busy_host, "train_step", pipelined={"mean_ms": 4.0})
    assert not limit(hidden).startswith("host")
    names = ("call", "augment", "forward_and_loss", "update")
    stages = {name: stage(1.0) for name in names}
    backward = changed(fed, "stages", **stages, backward=stage(6.0), whole=whole)
    assert limit(backward).endswith("longest stage: backward, 60% of the step")
    # Fault: a stage named the longest that the table says cannot be distinguished from nothing.
    noise = changed(backward, "stages", backward=stage(6.0) | {"p5_ms": -1.0}, forward=stage(2.0))
    assert "longest stage: backward" not in limit(noise)


def test_synthetic_data_on_a_bare_machine_with_a_trace(tmp_path):
    """Fault: an import of Grain, TFDS or a decoder where none is; no trace, or an empty one."""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", BARE_MACHINE, str(tmp_path)],
        cwd=REPOSITORY,
        check=True,
        timeout=300,
    )
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert (result["data"], result["parallel"], result["num_devices"]) == ("synthetic", "mesh", 8)
    # Fault: figures of nobody knows which network.
    assert result["config"]["model"]["width"] == 4
    assert result["config"]["data"]["manual_dir"] == ""
    traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
    traces += list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))
    assert len(traces) == 2
    assert all(trace.stat().st_size > 1000 for trace in traces)


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_timed(tmp_path):
    """Fault: minutes of measurements that go nowhere."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file or inside one"):
        benchmark(small_config(), tmp_path / "file" / "run")


# What a host of a pod runs; each with a folder of its own, to see who writes.
HOST = """
import sys, jax
from lungseg_jax.benchmark import benchmark
from tests.small import small_config
address, rank, root, kind = sys.argv[1:]
jax.distributed.initialize(address, num_processes=2, process_id=int(rank))
config = small_config(
    parallel=kind, profile=True, benchmark__data="synthetic", benchmark__steps=3,
    benchmark__warmup_steps=1,
)
benchmark(config, f"{root}/{rank}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_two_processes_write_once(tmp_path, kind):
    """Fault: hosts that overwrite each other's file, or wait for each other for ever."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, address, str(rank), str(tmp_path), kind],
            cwd=REPOSITORY, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        assert [host.wait(timeout=300) for host in hosts] == [0, 0]
    finally:
        for host in hosts:
            host.kill()
    result = json.loads((tmp_path / "0" / "benchmark.json").read_text())
    assert (result["num_devices"], result["num_processes"]) == (4, 2)
    assert list((tmp_path / "0").rglob("*.xplane.pb"))
    assert not (tmp_path / "1").exists()
