"""TensorBoard events of a run."""

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from tensorboardX import SummaryWriter


class Log:
    """TensorBoard events of a run, written by the first process only.

    Args:
      workdir: folder of the run.
      first_step: of this log; events that an interrupted run logged from there on are hidden.
    """

    def __init__(self, workdir: epath.Path, first_step: int) -> None:
        self._writer = SummaryWriter(
            str(workdir), purge_step=first_step, write_to_disk=jax.process_index() == 0
        )

    def scalars(self, group: str, step: int, figures: dict[str, float]) -> None:
        """Logs figures under `group/name`."""
        for name, value in figures.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)

    def picture(self, name: str, step: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Logs an RGB picture."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()
