"""TensorBoard events."""

import resource

import numpy as np
from etils import epath
from tensorboardX.proto.event_pb2 import SessionLog

from lungseg_jax.log import FLUSH_SECONDS, HISTORY, EventsInBucket, Log
from tests.events import events_in


def test_a_resumed_run_hides_what_it_does_again(tmp_path):
    """Fault: steps after the last checkpoint, logged before and after a kill, shown twice."""
    with Log(epath.Path(tmp_path), first_step=7) as log:
        log.scalars("train", 7, {"loss": 0.5, "dice": 0.75})
        log.image("val/median", 7, np.zeros((8, 8, 3), np.uint8))
    version, session, figures, image = events_in(tmp_path)
    # What TensorBoard's reader looks at to drop the steps from there on of earlier files.
    assert version.file_version == "brain.Event:2"
    assert (session.step, session.session_log.status) == (7, SessionLog.START)
    assert {x.tag: x.simple_value for x in figures.summary.value} == {
        "train/loss": 0.5,
        "train/dice": 0.75,
    }
    assert figures.step == image.step == 7
    assert image.summary.value[0].image.width == 8


def test_a_run_resumed_by_an_earlier_clock_hides_what_it_does_again(tmp_path, monkeypatch):
    """Fault: what the resumed run logs is hidden instead, for its file is read first."""
    for seconds, step in ((2_000_000_000, 1), (1_999_999_000, 7), (1_999_999_000, 9)):
        monkeypatch.setattr("lungseg_jax.log.time.time", lambda now=seconds: now)
        with Log(epath.Path(tmp_path), first_step=step):
            pass
    begun = [event.step for event in events_in(tmp_path) if event.HasField("session_log")]
    assert begun == [1, 7, 9]


def test_a_killed_run_leaves_its_events(tmp_path, monkeypatch):
    """Fault: nothing to see before the end of a run, and nothing at all of one that was killed."""
    clock = [0.0]
    monkeypatch.setattr("lungseg_jax.log.time.monotonic", lambda: clock[0])
    with Log(epath.Path(tmp_path), first_step=1) as log:
        log.scalars("train", 1, {"loss": 0.5})
        clock[0] += FLUSH_SECONDS
        log.scalars("train", 2, {"loss": 0.25})
        # Not closed yet.
        steps = [event.step for event in events_in(tmp_path) if event.summary.value]
    assert steps == [1, 2]


def test_a_full_disk_ends_the_log_but_not_the_run(tmp_path, capfd):
    """Fault: tensorboardX's thread dies at the first failed write, and training waits for ever."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = Log(epath.Path(tmp_path), first_step=1)
    # Files may not grow beyond this: as if the disk were full.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with log:
            for step in range(1000):
                log.scalars("train", step, {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err.count("TensorBoard events are no longer written: [Errno 27]") == 1


def test_events_that_cannot_be_uploaded_stop_nothing(monkeypatch, capfd):
    """Fault: a network that fails once ends the run, or all that is logged after it."""
    uploads = []

    def upload(_: epath.Path, content: bytes) -> None:
        uploads.append(content)
        if len(uploads) == 1:
            raise ConnectionError("no network")

    events = EventsInBucket("gs://bucket/run/events")
    monkeypatch.setattr(type(epath.Path("gs://bucket")), "write_bytes", upload)
    events.write(b"one")
    events.flush()
    events.write(b"two")
    events.close()
    assert "events could not be uploaded: no network" in capfd.readouterr().err
    assert uploads == [b"one", b"onetwo"]


def history(folder) -> list[str]:
    return (folder / HISTORY).read_text().splitlines()


def test_a_history_has_each_validation_once(tmp_path):
    """Fault: rows of before a kill, or of another run, beside those of after it."""
    with Log(epath.Path(tmp_path), first_step=1) as log:
        for step, dice in ((10, 0.5), (20, 0.6), (30, 0.7)):
            log.validation(step, {"train_loss": 1.0, "val_dice": dice})
    # Resumed after step 10 with fewer validations; a metric that no image had before.
    with Log(epath.Path(tmp_path), first_step=11) as log:
        log.validation(30, {"train_loss": 1.0, "val_dice": 0.75, "val_hd95_mm": 2.0})
    columns = "step,train_loss,val_dice,val_hd95_mm"
    assert history(tmp_path) == [columns, "10,1.0,0.5,", "30,1.0,0.75,2.0"]
    with Log(epath.Path(tmp_path), first_step=1) as log:
        log.validation(40, {"val_dice": 0.7})
    assert history(tmp_path) == ["step,val_dice", "40,0.7"]


def test_a_history_that_cannot_be_read_is_left_as_it_is(tmp_path, capsys, monkeypatch):
    """Fault: all learning curves lost to one stale handle, or to a file that someone edited."""
    (tmp_path / HISTORY).write_bytes(b"step,val_dice\nten,0.5\n")
    with Log(epath.Path(tmp_path), first_step=11) as log:
        log.validation(20, {"val_dice": 0.7})
    assert history(tmp_path) == ["step,val_dice", "ten,0.5"]
    assert "history.csv cannot be read, and is left as it is" in capsys.readouterr().err

    def upload(*_: object) -> None:
        raise ConnectionError("no network")

    # Fault: a bucket's own kinds of errors end the run before its checkpoint is saved.
    (tmp_path / HISTORY).unlink()
    with Log(epath.Path(tmp_path), first_step=1) as log, monkeypatch.context() as patch:
        patch.setattr("lungseg_jax.log.write_whole", upload)
        log.validation(20, {"val_dice": 0.7})
        patch.undo()
        assert "history.csv cannot be written: no network" in capsys.readouterr().err
        log.validation(40, {"val_dice": 0.8})
    assert history(tmp_path) == ["step,val_dice", "20,0.7", "40,0.8"]
