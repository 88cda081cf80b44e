"""Checkpoints of state and iterator by Orbax: asynchronous, atomic, newest and best kept."""

import json
from collections.abc import Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from lungseg_jax import terminal
from lungseg_jax.errors import CheckpointError
from lungseg_jax.parallel import Parallel
from lungseg_jax.state import TrainState, state_layout


class Checkpoints:
    """The checkpoints in a folder.

    Args:
      directory: made if absent, unless it is only read.
      keep: how many of the newest stay, besides the best by validation Dice; `None` to only read,
        which changes nothing in the folder: damaged checkpoints are passed over where they are.
      parallel: where states live; any may restore what any other saved.
    """

    def __init__(self, directory: epath.PathLike, keep: int | None, parallel: Parallel) -> None:
        self._parallel = parallel
        self._read_only = keep is None
        self.directory = epath.Path(directory).resolve()
        self._passed_over: set[int] = set()
        self._set_aside_without_metrics()
        options = _reading() if keep is None else _keeping(keep)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, state: TrainState, position: dict[str, Any], dice: float | None = None) -> None:
        """Starts saving the state; returns once the device's memory may be reused.

        Args:
          state: its `step` names the checkpoint.
          position: in the training data at the same step, as JSON.
          dice: validation Dice, where it was measured.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(self._parallel.to_checkpoint(state)),  # type: ignore[call-arg]
                iterator=ocp.args.JsonSave(position),  # type: ignore[call-arg]
            ),
            metrics=None if dice is None else {"dice": dice},
            force=True,
        )

    def restore_latest(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns the newest readable state and its position, `None` if there is none.

        Args:
          template: a state of the same structure.

        Raises:
          CheckpointError: there are checkpoints, and none can be read.
        """
        newest_first = self._steps()
        return self._restore_first(newest_first, template) if newest_first else None

    def restore_best(self, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Returns the readable state with the best validation Dice, and its position.

        The newest, if none was validated.

        Raises:
          CheckpointError: there is no checkpoint, or none can be read.
        """
        steps = self._steps()
        if not steps:
            raise CheckpointError(
                self.directory, "holds no checkpoint", "train first, with the same --workdir"
            )
        metrics = {step: self._manager.metrics(step) for step in steps}
        # The sort is stable: of equals, and of those never validated, the newest comes first.
        best_first = sorted(steps, key=lambda step: -_dice(metrics[step] or {"dice": -1.0}))
        return self._restore_first(best_first, template)

    def latest_step(self) -> int | None:
        """The newest checkpoint's step."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Returns when every save has reached the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and gives the folder free."""
        self._manager.close()

    def _steps(self) -> list[int]:
        """The steps of the checkpoints, the newest first."""
        return sorted(set(self._manager.all_steps()) - self._passed_over, reverse=True)

    def _restore_first(
        self, steps: Sequence[int], template: TrainState
    ) -> tuple[TrainState, dict[str, Any]]:
        """Returns the first readable checkpoint, and sets aside those before it that are not.

        They are set aside only once another was read: if none can be read, the fault may be the
        configuration's.
        """
        broken = []
        for step in steps:
            try:
                restored = self._restore(step, template)
            # Orbax, TensorStore and JSON each raise their own kinds for a broken file.
            except Exception as error:  # noqa: BLE001
                broken.append(step)
                terminal.say(
                    f"Checkpoint {self.directory / str(step)} cannot be read "
                    f"({type(error).__name__}: {_first_line(error)}); trying another"
                )
                continue
            if broken and not self._read_only:
                for bad_step in broken:
                    self._set_aside(bad_step)
                self._manager.reload()
            return restored
        raise CheckpointError(
            self.directory, "holds no readable checkpoint", "start again in another workdir"
        )

    def _set_aside_without_metrics(self) -> None:
        """Orbax reads the metrics of all checkpoints at once, and fails if one is cut short."""
        for path in self.directory.glob("*/metrics/metrics"):
            name = path.parent.parent.name
            # Orbax leaves what it had not finished under another name, and looks past it.
            if not name.isdigit():
                continue
            try:
                readable = isinstance(_dice(json.loads(path.read_text())), int | float)
            except (ValueError, TypeError, KeyError):
                readable = False
            if not readable:
                terminal.say(f"Checkpoint {path.parent.parent} is damaged")
                self._set_aside(int(name))

    def _set_aside(self, step: int) -> None:
        """Renames a checkpoint, so that its step can be saved again and nothing is deleted."""
        if self._read_only:
            self._passed_over.add(step)
        elif jax.process_index() == 0:
            number = len(list(self.directory.parent.glob("damaged-*")))
            target = self.directory.parent / f"damaged-{number}-{step}"
            (self.directory / str(step)).rename(target)
            terminal.say(f"It is set aside as {target}")

    def _restore(self, step: int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        layout = jax.tree.map(self._parallel.in_checkpoint, state_layout(template, self._parallel))
        abstract = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            template,
            layout,
        )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),  # type: ignore[call-arg]
                iterator=ocp.args.JsonRestore(),
            ),
        )
        return self._parallel.from_checkpoint(restored["state"]), restored["iterator"]


def _keeping(newest: int) -> ocp.CheckpointManagerOptions:
    """How checkpoints are saved: some of the newest stay, and the best."""
    best = checkpoint_managers.BestN(
        get_metric_fn=_dice, n=1, keep_checkpoints_without_metrics=False
    )
    kept = [checkpoint_managers.LatestN(newest), best]
    return ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(kept), best_fn=_dice
    )


def _reading() -> ocp.CheckpointManagerOptions:
    """How checkpoints are read: what is damaged stays there, and so must not be read at once."""
    return ocp.CheckpointManagerOptions(
        read_only=True, create=False, save_interval_steps=0, lightweight_initialize=True
    )


def _dice(metrics: dict[str, float]) -> float:
    return metrics["dice"]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
