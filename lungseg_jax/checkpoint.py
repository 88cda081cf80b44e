"""Orbax checkpoints of state and iterator: asynchronous, atomic, newest and best kept."""

import itertools
import json
import signal
import sys
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from orbax.checkpoint import checkpoint_managers

from lungseg_jax import terminal
from lungseg_jax.errors import (
    REMOTE_CODES,
    REMOTE_LIBRARIES,
    CheckpointError,
    failing_disk,
    first_line,
)
from lungseg_jax.network import Variables
from lungseg_jax.packing import pack_like, unpack
from lungseg_jax.parallel import Parallel
from lungseg_jax.runtime.file_locks import check_has_locks
from lungseg_jax.runtime.hosts import in_any_process, wait_until_all_see
from lungseg_jax.runtime.interrupts import held_back
from lungseg_jax.state import TrainState, state_layout

# Parts of the messages of errors that come from the machine, the login or the network.
_NOT_DAMAGE = ("RESOURCE_EXHAUSTED:", *REMOTE_CODES)


class SavedWeights(NamedTuple):
    """What is evaluated and exported of a run.

    Attributes:
      step: step at which the checkpoint was saved.
      variables: the moving average of (parameters, batch_stats).
      data_state: as `Checkpoints.save` got it.
    """

    step: int
    variables: Variables
    data_state: dict[str, Any]


class Checkpoints:
    """The checkpoints in a folder.

    Args:
      directory: the folder; made if absent, unless it is only read.
      keep: how many of the newest are kept, besides the best by validation Dice; `None` to read
        only, which changes nothing in the folder: damaged checkpoints are skipped and left there.
      parallel: where states live; it can restore what any other one saved.

    Raises:
      CheckpointError: no checkpoint can be saved there.
    """

    def __init__(self, directory: epath.PathLike, keep: int | None, parallel: Parallel) -> None:
        self._parallel = parallel
        self._read_only = keep is None
        # Orbax wants an absolute path, which an address in a bucket is: `resolve` would break it.
        path = epath.Path(directory)
        self.directory = path if path.is_absolute() else path.resolve()
        self._passed_over: set[int] = set()
        self._set_aside_without_metrics()
        options = _reading() if keep is None else _keeping(keep)
        # Otherwise each host might read another checkpoint.
        wait_until_all_see(self._listed, self.directory)
        self._manager = ocp.CheckpointManager(self.directory, options=options)
        if not self._read_only:
            check_has_locks(self.directory)

    def save(
        self, state: TrainState, data_state: dict[str, Any], dice: float | None = None
    ) -> None:
        """Starts saving the state; returns once the device's memory may be reused.

        Args:
          state: its `step` names the checkpoint.
          data_state: training data that the run uses and its position there at that step, as JSON.
          dice: validation Dice, if it was measured.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        saved = self._parallel.to_checkpoint(self._named(state))
        # With several processes, each must take part.
        if jax.process_count() == 1:
            saved = jax.tree.map(_one_copy, saved)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(saved),  # type: ignore[call-arg]
                iterator=ocp.args.JsonSave(  # type: ignore[call-arg]
                    {"data_state": data_state, "digests": _digests(saved, data_state)}
                ),
            ),
            metrics=None if dice is None else {"dice": dice},
            force=True,
        )

    def restore_latest(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns the newest readable state and its `data_state`; `None` if there is none.

        Args:
          template: a state of the same structure.

        Raises:
          CheckpointError: there are checkpoints, and none can be read.
        """
        newest_first = self._steps()
        if not newest_first:
            return None
        _, state, data_state = self._read_first(newest_first, self._abstract(template))
        return self._carried_as(template, state), data_state

    def restore_weights(self, variables: PyTree, step: int | None = None) -> SavedWeights:
        """Returns the weights of the readable checkpoint with the best validation Dice.

        Those of the newest, if none was validated. The optimizer is not read: weights stay usable
        when the update rule has changed.

        Args:
          variables: a tree of the average's structure, such as `network.abstract_variables`; packed
            or not, and so is what is returned.
          step: of another checkpoint, instead of the best.

        Raises:
          CheckpointError: there is no checkpoint, or not that one, or none can be read.
        """
        # Metrics of a checkpoint that is being saved are not known yet.
        self.wait()
        steps = self._best_first()
        if step is not None:
            if step not in steps:
                there = ", ".join(map(str, sorted(steps)))
                raise CheckpointError(self.directory / str(step), "does not exist", f"give {there}")
            steps = [step]
        whole = self._parallel.everywhere
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
            {"ema": jax.eval_shape(unpack, variables)},
        )
        step, part, data_state = self._read_first(steps, abstract)
        return SavedWeights(step, self._carried_as(variables, part["ema"]), data_state)

    def latest_step(self) -> int | None:
        """The newest checkpoint's step."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Returns when every save has reached the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for all saves, and releases the folder."""
        if not self._manager.is_saving_in_progress():
            self._manager.close()
            return
        terminal.say("Waiting for a checkpoint to be saved")
        # Only now: holding a signal back takes it from JAX, by which several hosts agree.
        with held_back(signal.SIGTERM):
            self._manager.close()

    def _listed(self) -> str:
        """Returns the names of the checkpoints that this host sees, finished or not."""
        there = self.directory.iterdir() if self.directory.exists() else ()
        return str(sorted(path.name for path in there))

    def _steps(self) -> list[int]:
        """The steps of the checkpoints, the newest first."""
        return sorted(set(self._manager.all_steps()) - self._passed_over, reverse=True)

    def _best_first(self) -> list[int]:
        """The steps of the checkpoints by validation Dice, those never validated last."""
        steps = self._steps()
        if not steps:
            raise CheckpointError(
                self.directory, "holds no checkpoint", "train first, with the same --workdir"
            )
        metrics = {step: self._manager.metrics(step) for step in steps}
        # The sort is stable: among equals and those never validated, the newest comes first.
        return sorted(steps, key=lambda step: -_dice(metrics[step] or {"dice": -1.0}))

    def _read_first(
        self, steps: Sequence[int], abstract: PyTree
    ) -> tuple[int, Any, dict[str, Any]]:
        """Returns step, arrays and `data_state` of the first readable checkpoint.

        Those before it, which are not readable, are set aside.

        This happens only once another was read: if none can be read, the configuration may be at
        fault.
        """
        broken = []
        for step in steps:
            restored = self._try_to_restore(step, abstract)
            # Damage that all processes see is skipped by all. If one process alone cannot read a
            # checkpoint, the job ends, because that process meets the others in another collective:
            # better than going on from another step.
            if in_any_process(restored is None):
                broken.append(step)
                continue
            assert restored is not None
            if broken and not self._read_only:
                for bad_step in broken:
                    self._set_aside(bad_step)
                _wait_for_renames()
                self._manager.reload()
            return step, *restored
        again = "start again in another workdir"
        if any(self._is_of_another_form(step, abstract) for step in broken):
            raise CheckpointError(
                self.directory,
                "was saved with another optimizer or network",
                f"use the code and configuration that saved it, or {again}",
            )
        if any(self._is_of_earlier_version(step) for step in broken):
            version = f"the version that {self.directory.parent / 'environment.json'} names"
            raise CheckpointError(
                self.directory, "was saved by an earlier version", f"use {version}, or {again}"
            )
        if others := [str(step) for step in self._steps() if step not in steps]:
            fault, remedy = f"{steps[0]} cannot be read", f"try that of step {' or '.join(others)}"
            raise CheckpointError(self.directory, fault, remedy)
        raise CheckpointError(self.directory, "holds no readable checkpoint", again)

    def _is_of_another_form(self, step: int, abstract: PyTree) -> bool:
        """Whether a checkpoint has other arrays, by name or shape; false if that cannot be read.

        Orbax looks only for the arrays that are requested, and leaves out what it does not find.
        """
        try:
            folder = self.directory / str(step) / "state"
            saved = ocp.PyTreeCheckpointHandler().metadata(folder).tree
            part = (
                saved if isinstance(abstract, TrainState) else {key: saved[key] for key in abstract}
            )
            return _shapes(part) != _shapes(abstract)
        # A broken file, which `_try_to_restore` reports.
        except Exception:  # noqa: BLE001
            return False

    def _is_of_earlier_version(self, step: int) -> bool:
        """Whether a checkpoint is of a version that saved no digests; false if it is damaged."""
        path = self.directory / str(step) / "iterator" / "metadata"
        try:
            return not _has_digests(json.loads(path.read_text()))
        except (OSError, ValueError, AttributeError):
            return False

    def _try_to_restore(self, step: int, abstract: PyTree) -> tuple[Any, dict[str, Any]] | None:
        """Returns a checkpoint, or says why it cannot be read."""
        try:
            return self._restore(step, abstract)
        # Orbax, TensorStore and JSON each raise their own exceptions for a broken file.
        except Exception as error:
            if _is_not_the_files_fault(error):
                raise
            terminal.say(
                f"Checkpoint {self.directory / str(step)} cannot be read "
                f"({type(error).__name__}: {first_line(error)})"
            )
            return None

    def _set_aside_without_metrics(self) -> None:
        """Sets aside checkpoints with damaged metrics: Orbax reads all at once, and would fail."""
        if self._read_only or jax.process_index() == 0:
            self._look_for_damaged_metrics()
        if not self._read_only:
            _wait_for_renames()

    def _look_for_damaged_metrics(self) -> None:
        for path in self.directory.glob("*/metrics/metrics"):
            name = path.parent.parent.name
            # Orbax leaves unfinished checkpoints under another name, or in a bucket without
            # `commit_success.txt`, and ignores them.
            if not name.isdigit():
                continue
            try:
                readable = isinstance(_dice(json.loads(path.read_text())), int | float)
            except (ValueError, TypeError, KeyError, FileNotFoundError):
                readable = False
            if not readable:
                terminal.say(f"Checkpoint {path.parent.parent} is damaged")
                self._set_aside(int(name))

    def _set_aside(self, step: int) -> None:
        """Renames a checkpoint, so that its step can be saved again and nothing is deleted."""
        if self._read_only:
            self._passed_over.add(step)
        elif jax.process_index() == 0:
            numbers = itertools.count()
            names = (self.directory.parent / f"damaged-{number}-{step}" for number in numbers)
            target = next(path for path in names if not path.exists())
            (self.directory / str(step)).rename(target)
            terminal.say(f"Damaged checkpoint {step} moved to {target}")

    def _abstract(self, template: TrainState) -> TrainState:
        """Returns shapes, types and shardings of a saved state's arrays, which have names."""
        template = jax.eval_shape(unpack, template)
        layout = jax.tree.map(self._parallel.in_checkpoint, state_layout(template, self._parallel))
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            template,
            layout,
        )

    def _named(self, state: TrainState) -> TrainState:
        """Returns the state with an array for each layer, however the run carries it.

        For a packed state, this puts a second copy on the devices until Orbax has copied it.
        """
        if not self._parallel.pack_state:
            return state
        return jax.jit(unpack, out_shardings=self._parallel.replicated)(state)

    def _carried_as(self, template: PyTree, state: PyTree) -> Any:
        """Returns a state, or a part of it, packed as the template is."""
        if jax.tree.structure(template) == jax.tree.structure(state):
            return state
        # Without the template's arrays, which the compiled function would keep alive.
        form = jax.tree.map(lambda _: 0, template)
        pack = jax.jit(lambda tree: pack_like(tree, form), out_shardings=self._parallel.replicated)
        return pack(state)

    def _restore(self, step: int, abstract: PyTree) -> tuple[Any, dict[str, Any]]:
        """Returns a checkpoint's state, or a part of it by the names of its fields."""
        if self._is_of_another_form(step, abstract):
            raise ValueError("saved with another optimizer or network")
        wanted = ocp.args.PyTreeRestore(  # type: ignore[call-arg]
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )
        args = ocp.args.Composite(state=wanted, iterator=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=args)
        state, item = restored["state"], restored["iterator"]
        if not _has_digests(item):
            raise ValueError("saved by an earlier version")
        data_state, saved = item["data_state"], item["digests"]
        found = _digests(state, data_state)
        for name, digest in found.items():
            # An array may be whole when saved and spread over hosts when restored, or vice versa.
            spread = name in saved and None in (digest, saved[name])
            if not spread and saved.get(name) != digest:
                raise ValueError(f"{name} is not what was saved")
        return self._parallel.from_checkpoint(state), data_state


def _has_digests(item: dict[str, Any]) -> bool:
    """Whether what was saved beside a state has its present form, be it damaged in one place."""
    return not item.keys().isdisjoint({"data_state", "digests"})


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Returns each array's shape by its name, which is the same in memory and on disk."""
    return {
        jax.tree_util.keystr(where, simple=True, separator="/"): tuple(x.shape)
        for where, x in jax.tree.leaves_with_path(tree)
    }


def _one_copy(array: jax.Array) -> jax.Array:
    """Returns one device's copy of a replicated array.

    Given several copies, Orbax would save a part from each device, which takes a compiled slice for
    each device and shape: seconds at the first save, which a preempted machine may not have.
    """
    return array.addressable_data(0) if array.is_fully_replicated else array


def _digests(tree: PyTree, data_state: dict[str, Any]) -> dict[str, int | None]:
    """Returns the CRC-32 of a state's arrays, by name, and of the data's state.

    TensorStore notices a truncated file, but not a changed bit. `None` stands for an array that is
    spread over hosts, none of which has all of it.
    """
    arrays = {
        jax.tree_util.keystr(where, simple=True, separator="/"): x
        for where, x in jax.tree.leaves_with_path(tree)
    }
    whole = {
        name: x for name, x in arrays.items() if x.is_fully_addressable or x.is_fully_replicated
    }
    for x in whole.values():
        x.copy_to_host_async()
    digests: dict[str, int | None] = dict.fromkeys(arrays)
    for name, x in whole.items():
        # Without the copy that `tobytes` would make.
        content: Any = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        digests[name] = zlib.crc32(content)
    digests["data_state"] = zlib.crc32(json.dumps(data_state, sort_keys=True).encode())
    return digests


def _keeping(newest: int) -> ocp.CheckpointManagerOptions:
    """How checkpoints are saved: some of the newest are kept, and the best."""
    best = checkpoint_managers.BestN(
        get_metric_fn=_dice, n=1, keep_checkpoints_without_metrics=False
    )
    kept = [checkpoint_managers.LatestN(newest), best]
    return ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept),
        best_fn=_dice,
        async_options=ocp.options.AsyncOptions(barrier_sync_fn=_meet),
    )


def _meet(*, key: str, timeout_ms: int) -> None:
    """Waits for the other processes, unless a save has failed in this one.

    Orbax meets them before it passes the error on, and they wait for the save: none would end for
    the twenty minutes that it allows, or say why.
    """
    if sys.exc_info()[1] is None:
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


def _reading() -> ocp.CheckpointManagerOptions:
    """How checkpoints are read: damaged ones stay there, so they must not be read on opening."""
    return ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0, lightweight_initialize=True
    )


def _is_not_the_files_fault(error: Exception) -> bool:
    """Whether memory, a disk or a network fails: an intact checkpoint must not be set aside."""
    # Too many open files, a stale handle, a failing disk. If a file is missing, that is damage.
    missing = FileNotFoundError | NotADirectoryError | IsADirectoryError
    if isinstance(error, MemoryError | OSError) and not isinstance(error, missing):
        return True
    library = type(error).__module__.partition(".")[0]
    if library in REMOTE_LIBRARIES or failing_disk(error):
        return True
    return any(sign in str(error) for sign in _NOT_DAMAGE)


def _wait_for_renames() -> None:
    """Waits until the first process has renamed: the others must not look at the folder before."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("checkpoints are set aside")


def _dice(metrics: dict[str, float]) -> float:
    return metrics["dice"]
