"""Checkpoints of state and iterator by Orbax: asynchronous, atomic, newest and best kept."""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from lungseg_jax import terminal
from lungseg_jax.errors import CheckpointError
from lungseg_jax.parallel import Parallel
from lungseg_jax.state import TrainState


class Checkpoints:
    """The checkpoints in a folder.

    Args:
      directory: made if absent.
      keep: how many of the newest stay, besides the best by validation Dice.
      parallel: where states live; any may restore what any other saved.
    """

    def __init__(self, directory: epath.PathLike, keep: int, parallel: Parallel) -> None:
        self._parallel = parallel
        self.directory = epath.Path(directory).resolve()
        best = checkpoint_managers.BestN(
            get_metric_fn=_dice, n=1, keep_checkpoints_without_metrics=False
        )
        newest = checkpoint_managers.LatestN(keep)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy([newest, best]),
                best_fn=_dice,
            ),
        )

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
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._restore(step, template)
            # Orbax, TensorStore and JSON each raise their own kinds for a broken file.
            except Exception as error:  # noqa: BLE001
                terminal.say(
                    f"Checkpoint {self.directory / str(step)} cannot be read "
                    f"({type(error).__name__}: {_first_line(error)}); trying the one before it"
                )
        if steps:
            raise CheckpointError(
                self.directory, "holds no readable checkpoint", "start again in another workdir"
            )
        return None

    def restore_best(self, template: TrainState) -> TrainState:
        """Returns the state with the best validation Dice, the newest if none was validated.

        Raises:
          CheckpointError: there is no checkpoint or it cannot be read.
        """
        step = self._manager.best_step()
        if step is None:
            step = self._manager.latest_step()
        if step is None:
            raise CheckpointError(
                self.directory, "holds no checkpoint", "train first, with the same --workdir"
            )
        try:
            state, _ = self._restore(step, template)
        except Exception as error:
            raise CheckpointError(
                self.directory / str(step),
                f"cannot be read ({type(error).__name__}: {_first_line(error)})",
                "use the configuration it was trained with, or remove it to use another",
            ) from error
        return state

    def latest_step(self) -> int | None:
        """The newest checkpoint's step."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Returns when every save has reached the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and gives the folder free."""
        self._manager.close()

    def _restore(self, step: int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        everywhere = self._parallel.everywhere
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), template
        )
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),  # type: ignore[call-arg]
                iterator=ocp.args.JsonRestore(),
            ),
        )
        return self._parallel.from_checkpoint(restored["state"]), restored["iterator"]


def _dice(metrics: dict[str, float]) -> float:
    return metrics["dice"]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
