"""What a run logs while it trains: TensorBoard events, and learning curves in `history.csv`."""

import concurrent.futures
import contextlib
import csv
import io
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]
from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
from tensorboardX.record_writer import RecordWriter, register_writer_factory

from lungseg_jax import terminal
from lungseg_jax.errors import first_line
from lungseg_jax.paths import write_whole

# Time until events can be seen; a bucket gets the whole file each time.
FLUSH_SECONDS = 60

HISTORY = "history.csv"

# How long the end of a log waits for a bucket.
CLOSE_SECONDS = 10


class Log:
    """TensorBoard events of a run and its `history.csv`, written by the first process only.

    Events are not written by tensorboardX's own writer: it hands each figure to a thread through a
    queue that costs the loop a third of a millisecond per step and more, and stops training forever
    once that thread cannot write.

    Args:
      workdir: the run's folder.
      first_step: first step of this log; events that an interrupted run logged from there on are
        hidden.
    """

    def __init__(self, workdir: epath.Path, first_step: int) -> None:
        self._history, self._rows = workdir / HISTORY, _rows_before(workdir / HISTORY, first_step)
        self._file: RecordWriter | None = None
        self._next_flush = 0.0
        if jax.process_index() == 0:
            with self._given_up_on_error():
                workdir.mkdir(parents=True, exist_ok=True)
                self._file = RecordWriter(str(workdir / _name_behind_others(workdir)))
            self._write(0, file_version="brain.Event:2")
            self._write(first_step, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, group: str, step: int, figures: dict[str, float]) -> None:
        """Logs figures under `group/name`."""
        values = [
            Summary.Value(tag=f"{group}/{name}", simple_value=value)
            for name, value in figures.items()
        ]
        self._write(step, summary=Summary(value=values))

    def image(self, name: str, step: int, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Logs an RGB image."""
        self._write(step, summary=summary.image(name, image, dataformats="HWC"))

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds a row to `history.csv`."""
        if jax.process_index() != 0 or self._rows is None:
            return
        self._rows.append({"step": step, **figures})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, dict.fromkeys(key for row in self._rows for key in row))
        writer.writeheader()
        writer.writerows(self._rows)
        try:
            write_whole(self._history, text.getvalue().encode())
        # A bucket's login and network have errors of their own, which should not end a run.
        except Exception as error:  # noqa: BLE001
            terminal.say(f"{self._history} cannot be written: {first_line(error)}")

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file:
            with self._given_up_on_error():
                self._file.close()
            self._file = None

    def _write(self, step: int, **content: str | SessionLog | Summary) -> None:
        if self._file is None:
            return
        event = Event(wall_time=time.time(), step=step, **content)
        with self._given_up_on_error():
            self._file.write(event.SerializeToString())
            if time.monotonic() >= self._next_flush:
                self._file.flush()
                self._next_flush = time.monotonic() + FLUSH_SECONDS

    @contextlib.contextmanager
    def _given_up_on_error(self) -> Iterator[None]:
        """Gives up on events, not on the run, if they cannot be written, as on a full disk."""
        try:
            yield
        # The second if no thread can be started for an upload.
        except (OSError, RuntimeError) as error:
            terminal.say(f"TensorBoard events are no longer written: {first_line(error)}")
            if self._file:
                with contextlib.suppress(OSError):
                    self._file.close()
            self._file = None


def _rows_before(path: epath.Path, first_step: int) -> list[dict[str, Any]] | None:
    """Returns the rows of a history before a step; later ones are from before a resumption.

    `None` if the file is there and cannot be read: it is left as it is.
    """
    if jax.process_index() != 0:
        return None
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        return [row for row in rows if int(row["step"]) < first_step]
    except FileNotFoundError:
        return []
    # Damage, and what a disk or a bucket raises.
    except Exception as error:  # noqa: BLE001
        terminal.say(f"{path} cannot be read, and is left as it is: {first_line(error)}")
        return None


def _name_behind_others(workdir: epath.Path) -> str:
    """Returns a file name that sorts after those of earlier logs, even if the clock went back.

    TensorBoard reads files in the order of their names, and from a file's first step on, it hides
    the steps that it has read before.
    """
    earlier = [path.name.split(".")[3] for path in workdir.glob("events.out.tfevents.*")]
    latest = max((int(seconds) for seconds in earlier if seconds.isdecimal()), default=0)
    seconds = max(round(time.time()), latest + 1)
    return f"events.out.tfevents.{seconds}.{socket.gethostname()}.{os.getpid()}"


class EventsInBucket:
    """A file of events in a bucket, uploaded whole at each flush while training goes on.

    Args:
      path: `gs://…`.
    """

    def __init__(self, path: str) -> None:
        self._path = epath.Path(path)
        self._content = io.BytesIO()
        self._uploader = concurrent.futures.ThreadPoolExecutor(1)
        self._upload: concurrent.futures.Future[None] | None = None

    def write(self, content: bytes) -> None:
        """Appends to the file."""
        self._content.write(content)

    def flush(self) -> None:
        """Begins to upload what there is, unless an upload is in progress."""
        if self._upload is None or self._upload.done():
            self._upload = self._uploader.submit(self._write_whole, self._content.getvalue())

    def close(self) -> None:
        """Uploads for the last time, and waits for it up to `CLOSE_SECONDS`."""
        last = self._uploader.submit(self._write_whole, self._content.getvalue())
        # A preempted machine has half a minute for everything.
        concurrent.futures.wait([last], timeout=CLOSE_SECONDS)
        self._uploader.shutdown(wait=False, cancel_futures=True)

    def _write_whole(self, content: bytes) -> None:
        try:
            self._path.write_bytes(content)
        # From gcsfs, login or network. The next upload, if any, has all that this one lacks.
        except Exception as error:  # noqa: BLE001
            terminal.say(f"TensorBoard events could not be uploaded: {first_line(error)}")


class _Buckets:
    """How tensorboardX makes files in buckets."""

    @staticmethod
    def open(path: str) -> EventsInBucket:
        return EventsInBucket(path)

    @staticmethod
    def directory_check(path: str) -> None:
        """Does nothing: folders come into being with their first file."""


register_writer_factory("gs", _Buckets)
