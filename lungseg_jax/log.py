"""TensorBoard events of a run."""

import io

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from tensorboardX import SummaryWriter
from tensorboardX.record_writer import register_writer_factory

from lungseg_jax import terminal
from lungseg_jax.errors import first_line


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


class EventsInBucket:
    """A file of events in a bucket, written whole at each flush.

    tensorboardX has one, whose first upload that fails ends its thread and stops training for ever.

    Args:
      path: `gs://…`.
    """

    def __init__(self, path: str) -> None:
        self._path = epath.Path(path)
        self._content = io.BytesIO()

    def write(self, content: bytes) -> None:
        """Adds to the file."""
        self._content.write(content)

    def flush(self) -> None:
        """Uploads what there is; what cannot be is tried again by the next flush."""
        try:
            self._path.write_bytes(self._content.getvalue())
        # Of gcsfs, of the login, of the network: events are worth no run.
        except Exception as error:  # noqa: BLE001
            terminal.say(f"TensorBoard events are not written for now: {first_line(error)}")

    def close(self) -> None:
        """Uploads for the last time."""
        self.flush()


class _Buckets:
    """How tensorboardX makes files in buckets."""

    @staticmethod
    def open(path: str) -> EventsInBucket:
        return EventsInBucket(path)

    @staticmethod
    def directory_check(path: str) -> None:
        """Folders come into being with their first file."""


register_writer_factory("gs", _Buckets)
