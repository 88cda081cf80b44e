"""Training: the loop around the step.

The loop's order is an invariant: evaluate, save, take the next batch, step. A checkpoint of step k
thus holds the state after k updates and the iterator before batch k, and a resumed run takes
exactly the batches that the interrupted one would have taken.
"""

import contextlib
import dataclasses
import functools
import json
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from lungseg_jax import evaluation_report, terminal
from lungseg_jax import workdir as workdir_lib
from lungseg_jax.checkpoint import Checkpoints
from lungseg_jax.config import Config
from lungseg_jax.data.pipeline import read_store, training_batches, use_resident
from lungseg_jax.data.records import Records, check_same_records, identity, open_records
from lungseg_jax.data.samples import Batch, Store
from lungseg_jax.device_counts import check_devices
from lungseg_jax.errors import ConfigError, DataError, DivergedError
from lungseg_jax.evaluate import Evaluator, evaluate_splits
from lungseg_jax.find_weights import ids_trained_on, variables_to_start_from
from lungseg_jax.log import Log
from lungseg_jax.metrics import SIDE_FIGURES, dice_of_classes, summarize
from lungseg_jax.network import Variables, compute_dtype, count_parameters
from lungseg_jax.parallel import Parallel, all_devices
from lungseg_jax.paths import SPLITS, run_folder, write_whole
from lungseg_jax.pending import MUST_BE_FINITE, Pending
from lungseg_jax.runtime.environment import digest_of_program, environment
from lungseg_jax.runtime.hosts import (
    check_hosts_agree,
    in_any_process,
    wait_until_all_see,
    without_folders,
)
from lungseg_jax.runtime.interrupts import held_back
from lungseg_jax.runtime.preemption import stop_after_step
from lungseg_jax.state import TrainState
from lungseg_jax.step import prepare_step
from lungseg_jax.weights import checksum
from tfds_builder.build_report import read_build_report, splits_in

# Most images of a batch that are named when training has diverged.
MOST_SHOWN = 16


@dataclasses.dataclass
class Training:
    """A run in progress: what the loop needs, and the state it carries."""

    config: Config
    workdir: epath.Path
    parallel: Parallel
    records: dict[str, Records]
    checkpoints: Checkpoints
    evaluator: Evaluator
    step: Callable[..., Any]
    store: Store
    batches: Any
    state: TrainState


def train_and_evaluate(config: Config, workdir: epath.PathLike) -> evaluation_report.Summary | None:
    """Trains to `num_steps`, from the newest checkpoint if there is one, and evaluates the best.

    Args:
      config: the run's configuration.
      workdir: the run's folder; see docs/runs.md for what it holds in the end.

    Returns:
      The figures of `metrics.json`; `None` if the run was asked to stop and saved its state.

    Raises:
      ConfigError: an impossible value, or the folder belongs to another configuration.
      CheckpointError: no checkpoint can be read, the records are not those it was trained on, or
        the weights to start from cannot be read.
      DataError: the images cannot be used, or another job is in the folder.
      DivergedError: a loss, or the norm of gradients or parameters, was not finite.
    """
    if not isinstance(config, Config):
        raise ConfigError("config", f"is a {type(config).__name__}", "pass resolve(config)")
    workdir = run_folder(workdir)
    parallel = all_devices(
        config.parallel, config.space_shards, shard_optimizer=config.shard_optimizer
    )
    with started(config, parallel, workdir) as run:
        with Log(workdir, int(run.state.step) + 1) as log, stop_after_step() as stop:
            finished = loop(run, log, stop)
            run.checkpoints.wait()
        if not finished:
            return None
        best = run.checkpoints.restore_weights(run.state.ema)
        terminal.say(f"Evaluating the best checkpoint by validation Dice, step {best.step}")
        return evaluate_splits(run.evaluator, best, run.records, workdir)


@contextlib.contextmanager
def started(config: Config, parallel: Parallel, workdir: epath.Path) -> Iterator[Training]:
    """Yields the run ready for its next step, restored if it was interrupted.

    The end of the context waits for checkpoints that are being saved, then lets other jobs into the
    folder.

    Args:
      config: the run's configuration.
      parallel: how batches are spread over devices.
      workdir: the run's folder.

    Raises:
      ConfigError: the folder belongs to another configuration, or the weights to start from belong
        to another network.
      CheckpointError: no checkpoint can be read, the records are not those it was trained on, or
        the weights to start from cannot be read.
      DataError: the images cannot be used, or another job is in the folder.
    """
    # At the start, before hours of work: what runs is the code that was imported.
    own_environment = environment()
    check_hosts_agree(
        configuration=without_folders(config),
        commit=own_environment["revision"],
        code=digest_of_program(),
    )
    check_devices(config, len(parallel.devices), jax.process_count())
    workdir_lib.check_free(workdir, config)
    wait_until_all_see(lambda: str((workdir / "checkpoints").exists()), workdir)
    # Now, so that a mistake shows at once; a resumed run no longer needs its initial weights.
    begins = not (workdir / "checkpoints").exists()
    variables = variables_to_start_from(config) if begins else None
    records = open_records(config)
    check_hosts_agree(records=identity(records)["content"])
    with workdir_lib.alone_in_run(workdir):
        # Again: another run may have taken the folder while records were built.
        workdir_lib.check_free(workdir, config)
        # A run that turns out not to go on keeps its file, which the version that trained it reads.
        if not (workdir / "checkpoints").exists():
            workdir_lib.claim(workdir, config)
        terminal.say(f"Folder of the run: {workdir} (a run that is given it resumes)")
        checkpoints = Checkpoints(workdir / "checkpoints", config.keep_checkpoints, parallel)
        # However the run ends: after Ctrl-C, Python's exit would cut a save short.
        with contextlib.closing(checkpoints):
            yield _prepare(
                config, parallel, workdir, records, checkpoints, variables, own_environment
            )


def _prepare(
    config: Config,
    parallel: Parallel,
    workdir: epath.Path,
    records: dict[str, Records],
    checkpoints: Checkpoints,
    variables: Variables | None,
    own_environment: dict[str, Any],
) -> Training:
    """Returns the run of a claimed folder, restored or begun, and records its start there."""
    step, state, data_state, begun_with = _restored_or_begun(
        config, parallel, checkpoints, variables
    )
    started_from = None if begun_with is None else checksum(begun_with)
    check_hosts_agree(step=str(int(state.step)), weights_to_start_from=started_from)
    _announce(state, parallel, records)
    if jax.process_count() > 1 and parallel.kind == "pmap":
        terminal.say("With several hosts --config.parallel=mesh takes less time for each call")
    # Hosts that decide for themselves might compile different programs.
    resident = not in_any_process(not use_resident(records["train"], config))
    batches = training_batches(records["train"], config, resident=resident)
    if data_state is not None:
        check_same_records(workdir, data_state, records)
        batches.set_state(data_state["order"])
        terminal.say(f"Resuming after step {int(state.step)} of {config.num_steps}")
    elif (workdir / "metrics.json").exists():
        terminal.say(f"{workdir} holds figures and no checkpoint: they are removed")
        evaluation_report.remove_summary(workdir)
    if begun_with is not None:
        terminal.say(f"Beginning with the weights of {config.start_from}")
    workdir_lib.claim(workdir, config)
    workdir_lib.record_start(
        workdir,
        config,
        own_environment,
        images=records["train"].images_digest,
        builder=records["train"].builder_version,
        dtype=str(compute_dtype(config)),
        step=int(state.step),
        begun_with=started_from,
    )
    _write_splits(workdir, records["train"].folder, config.start_from, begins=data_state is None)
    store = parallel.replicate(read_store(records["train"])) if resident else None
    evaluator = Evaluator(config, parallel)
    return Training(
        config, workdir, parallel, records, checkpoints, evaluator, step, store, batches, state
    )


def _write_splits(
    workdir: epath.Path, records: epath.Path, start_from: str, *, begins: bool
) -> None:
    """Writes `splits.json`, by which other runs get the same splits: `data.splits` takes it.

    Warns if weights that the run starts from have seen its test images.

    Args:
      workdir: the run's folder.
      records: the folder of its records.
      start_from: the weights that it starts from, if any.
      begins: whether the run has just begun, so that a file that is there is another run's.
    """
    path = workdir / SPLITS
    if jax.process_index() > 0 or (path.exists() and not begins):
        return
    try:
        report = read_build_report(records)
    except DataError as error:
        report = None
        terminal.say(f"No {SPLITS}: {error}")
    # Records that were copied here may have come without their report.
    if report is None:
        path.unlink(missing_ok=True)
        return
    splits = splits_in(report)
    write_whole(path, (json.dumps(splits, indent=1) + "\n").encode())
    if seen := len(ids_trained_on(start_from).intersection(splits.get("test", ()))):
        terminal.say(
            f"{seen} of {len(splits['test'])} test images have ids of images that {start_from} was "
            "trained or selected on: if they are the same, metrics on them will be too high"
        )


def _restored_or_begun(
    config: Config, parallel: Parallel, checkpoints: Checkpoints, variables: Variables | None
) -> tuple[Callable[..., Any], TrainState, dict[str, Any] | None, Variables | None]:
    """Returns the step, the state to go on from, and where that state came from.

    For a checkpoint, the third item is the `data_state` that `Checkpoints.save` got; for a new run,
    the fourth is its initial weights, if they are not random.
    """
    state, step = prepare_step(config, parallel, variables)
    if restored := checkpoints.restore_latest(state):
        return step, *restored, None
    if config.start_from and variables is None:
        # The run was killed before its first checkpoint, or has no intact one.
        variables = variables_to_start_from(config)
        state, _ = prepare_step(config, parallel, variables)
    return step, state, None, variables


def _announce(state: TrainState, parallel: Parallel, records: dict[str, Records]) -> None:
    counts = ", ".join(f"{len(split)} {name}" for name, split in records.items())
    terminal.say(
        f"Network of {count_parameters(state.parameters):,} parameters on "
        f"{len(parallel.devices)} x {jax.devices()[0].device_kind}; {counts} images"
    )


def loop(run: Training, log: Log, stop: Callable[[int], bool]) -> bool:
    """Runs steps up to `num_steps`; returns False if it was asked to stop, after saving."""
    config = run.config
    first = int(run.state.step)
    with terminal.progress("train", config.num_steps, "step", first) as bar:
        bar.set_postfix_str("compiling the step")
        if bar.disable and first < config.num_steps:
            terminal.say("Compiling the step")
        pending = Pending(config, log, bar, functools.partial(_diverged, run))
        for step in range(first, config.num_steps + 1):
            due = step > first and (step % config.evaluation.every == 0 or step == config.num_steps)
            stopping = step < config.num_steps and stop(step)
            if due or stopping:
                workdir_lib.check_still_there(run.workdir)
                pending.drain()
                dice = validate(run, log, step, pending) if due else None
                data_state = {"order": run.batches.get_state(), **identity(run.records)}
                with held_back(signal.SIGINT):
                    run.checkpoints.save(run.state, data_state, dice)
                pending.restart()
                # A request may come during the validation; several hosts agree on a later step.
                stopping = stopping or (step < config.num_steps and stop(step))
            if stopping:
                return False
            if step < config.num_steps:
                batch: Batch = next(run.batches)
                run.state, metrics = run.step(run.state, run.store, run.parallel.shard(batch))
                pending.add(step + 1, batch["position"], metrics)
    # Asked during the last validation, after which all is saved: the final evaluation takes long.
    return not stop(config.num_steps)


def validate(run: Training, log: Log, step: int, pending: Pending) -> float:
    """Measures the averaged model on the validation split, logs it, and returns its Dice.

    By that Dice, the mean of the classes', the best checkpoint is chosen.

    Args:
      run: the run in progress.
      log: receives the figures and an image.
      step: the last step done.
      pending: figures of the steps so far.
    """
    records = run.records["val"]
    rows = run.evaluator.measure(run.state.ema, records)
    figures = summarize(rows)
    means = {key: x for key, x in figures.items() if isinstance(x, float)}
    ranked = evaluation_report.best_median_worst(rows)
    median = [ranked["median"]] if ranked else []
    for image in run.evaluator.overlays(run.state.ema, records, median).values():
        log.image("val/median", step, image)
    dice = dice_of_classes(figures)
    of_sides = [f"{figures[name]:.4f}" for name in SIDE_FIGURES if name in figures]
    sides = ""
    if len(of_sides) == 2:
        sides = f" (the mean of right, {of_sides[0]}, and left, {of_sides[1]})"
        means["mean_dice_of_sides"] = dice
    terminal.say(
        f"step {step}: {pending.summary()}; validation Dice {dice:.4f}{sides}, "
        f"cross-entropy {figures.get('cross_entropy', np.nan):.4f}, "
        f"HD95 {_hd95(figures)}"
    )
    log.scalars("val", step, means)
    log.validation(
        step,
        {f"train_{name}": mean for name, mean in pending.means().items()}
        | {f"val_{name}": mean for name, mean in means.items()},
    )
    return 0.0 if math.isnan(dice) else dice


def _hd95(figures: Mapping[str, float | int | None]) -> str:
    """Returns the mean HD95 as text: in percent of the longer side where files differ in that."""
    name, unit = ("hd95_px", "px") if figures["longer_side_px"] else ("hd95_percent", "% of side")
    return f"{figures.get(name, math.nan):.2f} {unit}"


def _diverged(
    run: Training, step: int, positions: np.ndarray, figures: Mapping[str, Any]
) -> DivergedError:
    """Returns the error of a step, which names its images and the last good checkpoint."""
    run.checkpoints.wait()
    records = run.records["train"]
    ids = [records.metadata(int(position)).example_id for position in positions]
    good = run.checkpoints.latest_step()
    batch = "the batch of" if jax.process_count() == 1 else "this host's part of the batch:"
    where = "none was saved" if good is None else run.checkpoints.directory / str(good)
    return DivergedError(
        f"step {step}",
        ", ".join(f"{name} {figures[name]}" for name in MUST_BE_FINITE)
        + f" on {batch} {', '.join(ids[:MOST_SHOWN])}"
        + (f" and {len(ids) - MOST_SHOWN} more" if len(ids) > MOST_SHOWN else "")
        + f"; last good checkpoint: {where}",
        "look at these images, or lower optimizer.learning_rate in another --workdir",
    )


if __name__ == "__main__":
    sys.exit("Error: lungseg_jax.train is no command: python -m lungseg_jax.main trains")
