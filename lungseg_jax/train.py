"""Training: the step, and the loop around it.

The loop's order is an invariant: evaluate, save, take the next batch, step. A checkpoint of step k
thus holds the state after k updates and the iterator before batch k, and a resumed run takes just
the batches that the interrupted one would have taken.
"""

import collections
import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Array, Float
from tensorboardX import SummaryWriter

from lungseg_jax import report, terminal
from lungseg_jax import workdir as workdir_lib
from lungseg_jax.augment import augment
from lungseg_jax.checkpoint import Checkpoints
from lungseg_jax.config import Config, check_devices
from lungseg_jax.data.pipeline import (
    Batch,
    Store,
    fetch,
    read_store,
    training_batches,
    use_resident,
)
from lungseg_jax.data.records import Records, open_records
from lungseg_jax.errors import DivergedError
from lungseg_jax.evaluate import Evaluator, evaluate_splits
from lungseg_jax.losses import segmentation_loss
from lungseg_jax.metrics import summarize
from lungseg_jax.optim import learning_rate_schedule, make_optimizer
from lungseg_jax.parallel import Parallel, Step, all_devices
from lungseg_jax.state import (
    Metrics,
    ModelState,
    TrainState,
    count_parameters,
    create_state,
    model_graph,
    named_key,
    split_model,
    update_ema,
)

# How often figures are fetched from the device: often enough for a person, seldom enough that the
# device never waits.
FETCH_SECONDS = 0.5
MAX_PENDING_STEPS = 64


def make_train_step(
    config: Config,
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    axis_name: str | None,
) -> Step:
    """Returns the function (state, store, batch) → (state, metrics) of one update.

    Metrics are `loss`, `dice` (of the thresholded prediction, over the whole batch) and
    `gradient_norm`.

    Args:
      config: of the run.
      graph: structure of the model; its batch normalisation must reduce over `axis_name`.
      optimizer: the update rule.
      axis_name: mapped axis that the batch is spread over; `None` for a global batch.
    """

    def loss_of(
        parameters: ModelState, batch_stats: ModelState, images: Array, masks: Array
    ) -> tuple[Array, tuple[ModelState, Array]]:
        model = nnx.merge(graph, parameters, batch_stats, copy=True)
        logits = model(images, train=True)
        _, _, batch_stats = split_model(model)
        loss = segmentation_loss(logits, masks, axis_name)
        return loss, (batch_stats, dice_sums(logits, masks))

    def step(
        state: TrainState, store: Store, batch: dict[str, Array]
    ) -> tuple[TrainState, Metrics]:
        images, masks = fetch(batch, store)
        key = jax.random.fold_in(named_key(config.seed, "augment"), state.step)
        images, masks = augment(
            key,
            batch["slot"],
            images.astype(jnp.float32) / 65535,
            masks.astype(jnp.float32),
            config.augment,
        )
        gradient_of = jax.value_and_grad(loss_of, has_aux=True)
        gradients, batch_stats, loss, sums = accumulate(
            gradient_of, state, images, masks, config.accumulation_steps
        )
        if axis_name is not None:
            gradients = jax.lax.pmean(gradients, axis_name)
            sums = jax.lax.psum(sums, axis_name)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters: Any = optax.apply_updates(state.parameters, updates)
        ema = update_ema(
            state.ema, (parameters, batch_stats), state.step, config.optimizer.ema_decay
        )
        metrics = {
            "loss": loss,
            "dice": 2 * sums[0] / jnp.maximum(sums[1], 1),
            "gradient_norm": optax.tree.norm(gradients),
        }
        return TrainState(state.step + 1, parameters, batch_stats, optimizer_state, ema), metrics

    return step


def accumulate(
    gradient_of: Callable[..., Any], state: TrainState, images: Array, masks: Array, parts: int
) -> tuple[ModelState, ModelState, Array, Array]:
    """Returns (gradients, batch_stats, loss, dice sums) of a batch done in equal parts.

    Part i takes every `parts`-th example from i on, so that each part stays spread over the devices
    as the batch was.
    """
    if parts == 1:
        (loss, (batch_stats, sums)), gradients = gradient_of(
            state.parameters, state.batch_stats, images, masks
        )
        return gradients, batch_stats, loss, sums

    def one_part(
        carry: tuple[ModelState, Any], part: tuple[Array, Array]
    ) -> tuple[tuple[ModelState, Any], None]:
        batch_stats, total = carry
        (loss, (batch_stats, sums)), gradients = gradient_of(state.parameters, batch_stats, *part)
        return (batch_stats, jax.tree.map(jnp.add, total, (gradients, loss, sums))), None

    def split(x: Array) -> Array:
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    zeros = (jax.tree.map(jnp.zeros_like, state.parameters), jnp.zeros(()), jnp.zeros(2))
    (batch_stats, (gradients, loss, sums)), _ = jax.lax.scan(
        one_part, (state.batch_stats, zeros), (split(images), split(masks))
    )
    gradients = jax.tree.map(lambda x: x / parts, gradients)
    return gradients, batch_stats, loss / parts, sums


def dice_sums(logits: Float[Array, "b h w 1"], masks: Float[Array, "b h w 1"]) -> Float[Array, "2"]:
    """Returns (|A ∩ B|, |A| + |B|) of the thresholded prediction A and the mask B."""
    predicted = (logits > 0).astype(jnp.float32)
    return jnp.stack([(predicted * masks).sum(), predicted.sum() + masks.sum()])


@dataclasses.dataclass
class Training:
    """A run in progress: what the loop needs, and the state it carries."""

    config: Config
    parallel: Parallel
    records: dict[str, Records]
    checkpoints: Checkpoints
    evaluator: Evaluator
    step: Callable[..., Any]
    store: Store
    batches: Any
    state: TrainState


def train_and_evaluate(config: Config, workdir: epath.PathLike) -> report.Summary | None:
    """Trains to `num_steps`, from the newest checkpoint if there is one, and evaluates the best.

    Args:
      config: of the run.
      workdir: folder of the run; see the README for what it holds in the end.

    Returns:
      The figures of `metrics.json`; `None` if the run was asked to stop and saved itself.

    Raises:
      ConfigError: an impossible value, or the folder belongs to another configuration.
      DataError: the pictures cannot be used.
      DivergedError: a loss or gradient was not finite.
    """
    workdir = epath.Path(workdir)
    parallel = all_devices(config.parallel)
    check_devices(config, len(parallel.devices))
    workdir_lib.claim(workdir, config)
    run = start(config, parallel, workdir)
    with Log(workdir, config) as log, stop_requests() as stop:
        finished = loop(run, log, stop)
    run.checkpoints.wait()
    if not finished:
        run.checkpoints.close()
        return None
    best = run.checkpoints.restore_best(run.state)
    run.checkpoints.close()
    terminal.say(f"Evaluating the best checkpoint by validation Dice, step {int(best.step)}")
    return evaluate_splits(run.evaluator, best.ema, run.records, workdir)


def prepare_step(config: Config, parallel: Parallel) -> tuple[TrainState, Callable[..., Any]]:
    """Returns the initial state on every device, and the step over all of them."""
    optimizer = make_optimizer(config)
    state = parallel.replicate(create_state(config, optimizer))
    graph = model_graph(config, parallel.axis_name)
    step = make_train_step(config, graph, optimizer, parallel.axis_name)
    return state, parallel.wrap_step(step)


def start(config: Config, parallel: Parallel, workdir: epath.Path) -> Training:
    """Returns the run ready for its next step, restored if it was interrupted."""
    records = open_records(config)
    state, step = prepare_step(config, parallel)
    terminal.say(
        f"U-Net of {count_parameters(state.parameters):,} parameters on {len(parallel.devices)} x "
        f"{jax.devices()[0].device_kind}; "
        + ", ".join(f"{len(own)} {split}" for split, own in records.items())
        + " images"
    )
    resident = use_resident(records["train"], config)
    batches = training_batches(records["train"], config, resident=resident)
    checkpoints = Checkpoints(workdir / "checkpoints", config.keep_checkpoints)
    restored = checkpoints.restore_latest(state)
    if restored:
        state, iterator_state = restored
        batches.set_state(iterator_state)
        terminal.say(f"Resuming after step {int(state.step)} of {config.num_steps}")
    store = parallel.replicate(read_store(records["train"])) if resident else None
    evaluator = Evaluator(config, parallel)
    return Training(config, parallel, records, checkpoints, evaluator, step, store, batches, state)


def loop(run: Training, log: "Log", stop: Callable[[int], bool]) -> bool:
    """Runs steps up to `num_steps`; returns False if it was asked to stop, after saving."""
    config = run.config
    first = int(run.state.step)
    with terminal.progress("train", config.num_steps, "step", first) as bar:
        pending = Pending(run, log, bar)
        for step in range(first, config.num_steps + 1):
            due = step > first and (step % config.evaluation.every == 0 or step == config.num_steps)
            stopping = step < config.num_steps and stop(step)
            if due or stopping:
                pending.drain()
                dice = validate(run, log, step) if due else None
                run.checkpoints.save(run.state, run.batches.get_state(), dice)
            if stopping:
                return False
            if step < config.num_steps:
                batch: Batch = next(run.batches)
                run.state, metrics = run.step(run.state, run.store, run.parallel.shard(batch))
                pending.add(step + 1, batch["position"], metrics)
    return True


def validate(run: Training, log: "Log", step: int) -> float:
    """Measures the averaged model on the validation split, logs it, and returns the mean Dice."""
    records = run.records["val"]
    rows = run.evaluator.measure(run.state.ema, records)
    figures = summarize(rows)
    log.scalars("val", step, {key: x for key, x in figures.items() if isinstance(x, float)})
    middle = list(report.best_median_worst(rows).items())[1:2]
    for rank, position in middle:
        for picture in run.evaluator.overlays(run.state.ema, records, [position]).values():
            log.picture(f"val/{rank}", step, picture)
    dice = float(figures.get("dice", 0.0))
    terminal.say(
        f"step {step}: validation Dice {dice:.4f}, HD95 {figures.get('hd95_px', np.nan):.2f} px"
    )
    return dice


class Pending:
    """Steps that were sent to the device and whose figures are not yet fetched.

    Fetching only what is at least one step old keeps the device busy.
    """

    def __init__(self, run: Training, log: "Log", bar: Any) -> None:  # noqa: ANN401
        self._run, self._log, self._bar = run, log, bar
        self._steps: collections.deque[tuple[int, np.ndarray, Metrics]] = collections.deque()
        self._fetched_at = time.monotonic()

    def add(self, step: int, positions: np.ndarray, metrics: Metrics) -> None:
        """Remembers a step, and fetches older ones when it is time."""
        self._steps.append((step, positions, metrics))
        late = time.monotonic() - self._fetched_at > FETCH_SECONDS
        if late or len(self._steps) > MAX_PENDING_STEPS:
            self._fetch(leave=1)

    def drain(self) -> None:
        """Fetches all.

        Raises:
          DivergedError: a loss or gradient was not finite.
        """
        self._fetch(leave=0)

    def _fetch(self, leave: int) -> None:
        due = [self._steps.popleft() for _ in range(len(self._steps) - leave)]
        if not due:
            return
        for (step, positions, _), figures in zip(
            due, jax.device_get([metrics for _, _, metrics in due]), strict=True
        ):
            if not np.isfinite([figures["loss"], figures["gradient_norm"]]).all():
                raise self._diverged(step, positions, figures)
            self._log.scalars("train", step, {key: float(x) for key, x in figures.items()})
        now = time.monotonic()
        images = len(due) * self._run.config.batch_size
        self._bar.set_postfix_str(
            f"loss {figures['loss']:.4f}, Dice {figures['dice']:.4f}, "
            f"{images / (now - self._fetched_at):.1f} images/s",
            refresh=False,
        )
        self._bar.update(len(due))
        self._fetched_at = now

    def _diverged(self, step: int, positions: np.ndarray, figures: dict) -> DivergedError:
        self._run.checkpoints.wait()
        records = self._run.records["train"]
        ids = [records.label(int(position))[0] for position in positions]
        good = self._run.checkpoints.latest_step()
        where = "none was saved" if good is None else self._run.checkpoints.directory / str(good)
        return DivergedError(
            f"step {step}",
            f"loss {figures['loss']}, gradient norm {figures['gradient_norm']} on the batch "
            f"{', '.join(ids)}; last good checkpoint: {where}",
            "look at these pictures or lower optimizer.learning_rate",
        )


class Log:
    """TensorBoard events of a run, written by the first process only."""

    def __init__(self, workdir: epath.Path, config: Config) -> None:
        self._schedule = learning_rate_schedule(config)
        self._writer = SummaryWriter(str(workdir), write_to_disk=jax.process_index() == 0)

    def scalars(self, group: str, step: int, figures: dict[str, float]) -> None:
        """Logs figures under `group/name`."""
        for name, value in figures.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
        if group == "train":
            self._writer.add_scalar(
                "train/learning_rate", np.asarray(self._schedule(step - 1)), step
            )

    def picture(self, name: str, step: int, picture: np.ndarray) -> None:
        """Logs an RGB picture."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Within the context SIGTERM only asks to stop; yields the question whether it did, by step.

    Preempted hosts of one job must stop after the same step: JAX's preemption service, which
    catches SIGTERM itself, agrees on it.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda _: asked
    finally:
        signal.signal(signal.SIGTERM, before)
