"""The programs that take part in races: one library's training step or inference, ready to run.

OpenVINO runs the network that `lungseg_jax.models.onnx_graph` writes, for inference only.

  python -m benchmarks.programs '{"library": "pytorch", "task": "train", …}'

is a process that compiles its program, warms it up, and then has a turn for each line it reads;
`benchmarks.race` starts such processes and gives them turns.

All do the same work, which `WORK` states. Our program uses the package's own functions.
"""

import dataclasses
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lungseg_jax.config import Config, DataConfig, ModelConfig

WORK = {
    "train": "forward pass, loss, backward pass, clipping by the global norm, AdamW on one batch "
    "that lies on the device; without augmentation, moving average and metrics",
    "inference": "forward pass with running statistics, which the convolutions take over, and "
    "sigmoid on one batch that lies on the device, in uint16 for ours and float32 for PyTorch",
}

# Before the first turn, because the first calls of a process take memory that it then keeps.
WARMUP_SECONDS = 5.0

# A turn is one call that is not counted, then as many calls as take about this long, at least
# `MIN_CALLS`; their number is fixed at the start.
TURN_SECONDS = 2.0
MIN_CALLS = 3

GIB = 2**30

# Runs a program the given number of times in a row; returns when everything is done.
Run = Callable[[int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What a process runs.

    Attributes:
      library: library whose implementation it is.
      task: `train` or `inference`.
      width: channels of the first level.
      depth: number of times the resolution is halved.
      block_size: side of the pixel blocks folded into channels.
      image_size: side of the square images.
      batch_size: images per call.
      space_shards: devices that share the rows of each image; for lungseg_jax only.
      dtype: compute type; in PyTorch bfloat16 is autocast.
      mode: PyTorch's mode; see `benchmarks.torch_unet.Mode`.
      huge_pages: whether memory is in pages of 2 MiB, as with `lungseg_jax.main` on a CPU.
    """

    library: Literal["lungseg_jax", "openvino", "pytorch"]
    task: Literal["train", "inference"]
    width: int
    depth: int = 4
    block_size: int = 1
    image_size: int
    batch_size: int
    space_shards: int = 1
    dtype: Literal["float32", "bfloat16"]
    mode: Literal["eager", "compile", "freeze", "reduce-overhead", "max-autotune"] = "eager"
    huge_pages: bool = False

    @property
    def name(self) -> str:
        """Name that distinguishes the program from others of the same task and sizes."""
        if self.library == "lungseg_jax":
            return f"lungseg_jax {self.dtype}"
        pages = " with huge pages" if self.huge_pages else ""
        mode = f" {self.mode}" if self.library == "pytorch" else ""
        return f"{self.library}{mode} {self.dtype}{pages}"

    @property
    def config(self) -> Config:
        """Configuration of our run that the program corresponds to."""
        return Config(
            batch_size=self.batch_size,
            parallel="mesh",
            space_shards=self.space_shards,
            data=DataConfig(image_size=self.image_size),
            model=ModelConfig(
                width=self.width,
                depth=self.depth,
                block_size=self.block_size,
                dtype=self.dtype,
            ),
        )


def prepare(program: Program) -> Run:
    """Returns the program on its device; compilation is left to the first call."""
    makers = {
        ("lungseg_jax", "train"): _our_training,
        ("lungseg_jax", "inference"): _our_inference,
        ("openvino", "inference"): _exported_inference,
        ("pytorch", "train"): _their_training,
        ("pytorch", "inference"): _their_inference,
    }
    return makers[program.library, program.task](program)


def our_training_step(config: Config) -> tuple[Any, Callable[..., Any]]:
    """Returns the initial state and the function (state, image, mask) → (state, loss).

    The state is (parameters, batch statistics, optimizer state). The function is not compiled.
    """
    import jax
    import optax
    from flax import nnx

    from lungseg_jax.losses import segmentation_loss
    from lungseg_jax.network import model_graph, split_model
    from lungseg_jax.optim import make_optimizer
    from lungseg_jax.packing import pack_like, unpack
    from lungseg_jax.parallel import all_devices
    from lungseg_jax.state import create_state, pack_state

    optimizer = make_optimizer(config)
    graph = model_graph(config)

    def step(state: Any, image: jax.Array, mask: jax.Array) -> tuple[Any, jax.Array]:
        """Does what `lungseg_jax.step` does between augmentation and moving average."""
        parameters, batch_stats, optimizer_state = state

        def loss_of(parameters: Any) -> Any:
            model = nnx.merge(graph, *unpack((parameters, batch_stats)), copy=True)
            loss = segmentation_loss(model(image, train=True), mask)
            return loss, pack_like(split_model(model)[2], batch_stats)

        (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters)
        updates, optimizer_state = optimizer.update(gradients, optimizer_state, parameters)
        return (optax.apply_updates(parameters, updates), batch_stats, optimizer_state), loss

    state = create_state(config, optimizer)
    if all_devices(config.parallel).pack_state:
        state = pack_state(state)
    return (state.parameters, state.batch_stats, state.optimizer), step


def synthetic_batch(batch_size: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images in [0, 1] and masks in {0, 1}, float32, (b, h, w, 1), from a fixed seed."""
    image = np.random.default_rng(0).random((batch_size, image_size, image_size, 1), np.float32)
    return image, (image > 0.7).astype(np.float32)


def _our_training(program: Program) -> Run:
    import jax

    from lungseg_jax.performance.timing import call_in_a_row

    parallel = _devices(program.config)
    state, step = our_training_step(program.config)
    state, step = parallel.replicate(state), jax.jit(step, donate_argnums=0)
    batch = parallel.shard(synthetic_batch(program.batch_size, program.image_size))

    def update() -> Any:
        nonlocal state
        state, loss = step(state, *batch)
        return loss

    def run(steps: int) -> None:
        call_in_a_row(update, steps)
        jax.block_until_ready(state)

    return run


def _our_inference(program: Program) -> Run:
    from lungseg_jax.network import make_forward
    from lungseg_jax.optim import make_optimizer
    from lungseg_jax.performance.timing import call_in_a_row
    from lungseg_jax.state import create_state

    config = program.config
    parallel = _devices(config)
    variables = parallel.replicate(create_state(config, make_optimizer(config)).ema)
    probabilities = parallel.wrap_forward(make_forward(config))
    image, _ = synthetic_batch(program.batch_size, program.image_size)
    image = parallel.shard((65535 * image).astype(np.uint16))

    return lambda calls: call_in_a_row(lambda: probabilities(variables, image), calls)


def _exported_inference(program: Program) -> Run:
    import openvino

    from lungseg_jax.models.onnx_graph import onnx_model
    from lungseg_jax.models.unet import UNet
    from lungseg_jax.network import make_model

    network = make_model(program.config)
    assert isinstance(network, UNet)
    exported = onnx_model(network, program.image_size)
    core = openvino.Core()
    model = core.read_model(exported.SerializeToString())
    model.reshape([program.batch_size, 1, program.image_size, program.image_size])
    precision = {"float32": "f32", "bfloat16": "bf16"}[program.dtype]
    compiled = core.compile_model(
        model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    )
    image, _ = synthetic_batch(program.batch_size, program.image_size)
    # With one channel, NCHW and NHWC are the same in memory.
    image = np.moveaxis((65535 * image).astype(np.uint16), -1, 1)

    def run(calls: int) -> None:
        for _ in range(calls):
            compiled(image)

    return run


def _devices(config: Config) -> Any:
    """Returns one device, as for PyTorch; on a CPU, whose cores are devices, as many as fit."""
    import jax

    from lungseg_jax.parallel import Parallel
    from lungseg_jax.runtime.cpu_devices import devices_for, use_all_cores

    use_all_cores(config)
    devices = jax.devices()
    count = devices_for(config, len(devices)) if devices[0].platform == "cpu" else 1
    return Parallel(config.parallel, tuple(devices[:count]), config.space_shards)


def _their_training(program: Program) -> Run:
    from benchmarks import torch_unet

    model, dtype, image, mask = _torch_setting(program)
    config = program.config.optimizer
    optimizer = torch_unet.make_optimizer(model, config.learning_rate, config.weight_decay)
    step = torch_unet.make_training_step(model, optimizer, config.clip_norm, dtype, program.mode)

    def run(steps: int) -> None:
        for _ in range(steps):
            step(image, mask)
        _wait_for(image)

    return run


def _their_inference(program: Program) -> Run:
    from benchmarks import torch_unet

    model, dtype, image, _ = _torch_setting(program)
    probabilities = torch_unet.make_inference(model, dtype, program.mode)

    def run(calls: int) -> None:
        for _ in range(calls):
            probabilities(image)
        _wait_for(image)

    return run


def _torch_setting(program: Program) -> Any:
    """Returns model, type, images and masks on the device; sets PyTorch's switches for speed."""
    import torch

    from benchmarks import torch_unet

    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    # XLA flushes denormal numbers to zero on a CPU; they slow down both libraries.
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = torch_unet.UNet(program.width, program.depth, program.block_size)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = synthetic_batch(program.batch_size, program.image_size)
    # Arrays in NHWC order, viewed as (b, c, h, w), are channels_last without a copy.
    image, mask = (torch.from_numpy(array).permute(0, 3, 1, 2).to(device) for array in batch)
    return model, getattr(torch, program.dtype), image, mask


def _wait_for(tensor: Any) -> None:
    if tensor.is_cuda:
        import torch

        torch.cuda.synchronize()


def _peak_memory_gib(library: str) -> float | None:
    """Returns the peak device memory so far; `None` if the backend does not count it."""
    if library == "openvino":
        return None
    if library == "pytorch":
        import torch

        return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else None
    import jax

    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return None if peak is None else peak / GIB


def main(description: str) -> None:
    """Answers with a line of JSON: once when warm, then after a turn for each line it reads."""
    # What libraries print must not be mixed with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    program = Program(**json.loads(description))
    if program.library == "lungseg_jax":
        # As `lungseg_jax.main` does; PyTorch does so by itself.
        from lungseg_jax.runtime.compilation_cache import use_compilation_cache

        use_compilation_cache()
    start = time.perf_counter()
    run = prepare(program)
    run(1)
    setup_seconds = time.perf_counter() - start
    calls = max(MIN_CALLS, round(TURN_SECONDS / _warm_up(run)))
    package = {"lungseg_jax": "jax", "openvino": "openvino", "pytorch": "torch"}[program.library]
    ready = {
        "version": f"{package} {importlib.metadata.version(package)}",
        "setup_seconds": setup_seconds,
        "calls_per_turn": calls,
        "peak_memory_gib": _peak_memory_gib(program.library),
    }
    print(json.dumps(ready), file=answers, flush=True)
    for _ in sys.stdin:
        # After another program's turn, caches and memory hold that program's data.
        run(1)
        print(json.dumps(turn(run, calls, program.batch_size)), file=answers, flush=True)


def turn(run: Run, calls: int, batch_size: int) -> dict[str, float]:
    """Runs a program; returns its images per second, and what share of the machine others used.

    That share is of the time of the cores that this process may use, whether it went to other
    processes or, in a virtual machine, to other machines.
    """
    start, own, busy = time.perf_counter(), time.process_time(), busy_seconds()
    run(calls)
    seconds = time.perf_counter() - start
    others = busy_seconds() - busy - (time.process_time() - own)
    return {
        "images_per_second": calls * batch_size / seconds,
        "others_share": max(0.0, others / (seconds * len(_own_cores()))),
    }


def busy_seconds(statistics_file: Path = Path("/proc/stat")) -> float:
    """Returns the time for which this process's cores were not idle (proc(5))."""
    ticks = 0
    for line in statistics_file.read_text().splitlines():
        name, *fields = line.split()
        if name in {f"cpu{core}" for core in _own_cores()}:
            user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def _own_cores() -> set[int]:
    return os.sched_getaffinity(0)


def _warm_up(run: Run) -> float:
    """Calls for `WARMUP_SECONDS`; returns the median of the seconds of a call."""
    end, seconds = time.perf_counter() + WARMUP_SECONDS, []
    while not seconds or time.perf_counter() < end:
        start = time.perf_counter()
        run(1)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main(sys.argv[1])
