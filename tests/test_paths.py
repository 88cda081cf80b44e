"""Files that are written whole or not at all, and never through someone's link."""

import concurrent.futures
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from lungseg_jax.errors import ConfigError, DataError, UserError
from lungseg_jax.paths import local_path, open_own, run_folder, write_whole
from lungseg_jax.predict import predict
from lungseg_jax.prediction.results import NOTE, read_note
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.prediction.table import TABLE
from lungseg_jax.run_tables import read_tables
from lungseg_jax.runtime import alone
from lungseg_jax.runtime.alone import LOCK, alone_in
from lungseg_jax.weights import Calibration, load_weights
from lungseg_jax.workdir import read_config, read_splits
from tests.images import chest, png_bytes
from tests.test_compare import write_run
from tests.untrained import untrained_weights
from tfds_builder.records_folder import RECORD_FILES, open_folder

# A child that may write files of up to 100 bytes, as where a disk or a quota is full.
FULL = """
import resource, sys
from etils import epath
from lungseg_jax.paths import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
write_whole(epath.Path(sys.argv[1]), b"x" * 200)
"""


def test_a_full_disk_leaves_the_file_before(tmp_path: Path):
    """Fault: half a file in place of a whole one, of a run's configuration or of weights."""
    path = tmp_path / "config.json"
    write_whole(epath.Path(path), b"before")
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=60
    )
    assert "File too large" in ended.stderr
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


def test_what_cannot_be_written_is_called_by_its_own_name(tmp_path: Path):
    """Fault: a message on a file with a random name, which nobody gave."""
    with pytest.raises(FileNotFoundError, match=r"absent/run\.json'$"):
        write_whole(epath.Path(tmp_path) / "absent" / "run.json", b"x")


@pytest.mark.parametrize("path", ["", "a\0b", "http://host/a.png", "gs://bucket/a.png"])
def test_what_is_no_path_on_disk_is_refused(path: str):
    """Fault: the current folder segmented because a variable was empty; a traceback."""
    with pytest.raises(DataError, match=r"is no path|is not on disk"):
        local_path(path)
    if not path.startswith("gs:"):
        with pytest.raises(UserError, match=r"is no path|is no folder"):
            run_folder(path)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_path_that_libraries_would_spell_otherwise_is_refused(monkeypatch, encoding: str):
    """Fault: a checkpoint's parts in two folders, found when the run is over; a traceback."""
    name = os.fsdecode("/läufe".encode())
    run_folder(name)
    # As in a locale with this encoding.
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode(encoding, "surrogateescape"))
    run_folder("/runs")
    with pytest.raises(ConfigError, match=r"not in UTF-8.*LC_ALL=C\.UTF-8"):
        run_folder(name.encode().decode(encoding, "surrogateescape"))


def test_records_are_not_read_from_a_path_that_is_not_utf8():
    """Fault: a traceback of a library's that takes the path for another one."""
    with pytest.raises(ConfigError, match="not in UTF-8"):
        open_folder(os.fsdecode(b"/r\xfc"))


def test_what_a_kill_leaves_is_removed_and_nothing_else(tmp_path: Path, monkeypatch):
    """Fault: halves of masks that stay for ever, without a name; or a user's own file gone."""
    (tmp_path / "0.png").write_bytes(png_bytes(chest(120, 110, 0)[0]))
    output = tmp_path / "out"
    output.mkdir()
    own = {".mine.new", "a.new", ".0123456789abcdef"}
    for name in own:
        (output / name).write_text("x")
    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path(output)), "replace", killed)
        patch.setattr(type(epath.Path(output)), "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            write_whole(epath.Path(output / "0_mask.png"), b"half")
    assert len({path.name for path in output.iterdir()} - own) == 1
    predict(Segmenter(untrained_weights(Calibration(0.5))), [tmp_path / "0.png"], output)
    left = {path.name for path in output.iterdir() if path.name.endswith(".new")}
    assert left == own - {".0123456789abcdef"}


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_writers_at_the_same_time_do_not_meet(tmp_path: Path):
    """Fault: one renames the half that another has begun, or fails for want of it."""
    path = epath.Path(tmp_path / "x.onnx")
    contents = [bytes([number]) * 200_000 for number in range(4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            list(pool.map(lambda content: write_whole(path, content), contents))
            assert path.read_bytes() in contents
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]


def test_a_link_under_the_name_of_the_unfinished_file_is_not_followed(
    tmp_path: Path, precious: Path, monkeypatch
):
    """Fault: who guesses that name has someone's file overwritten."""
    monkeypatch.setattr("lungseg_jax.paths.secrets.token_hex", lambda _: "0" * 16)
    (tmp_path / f".{'0' * 16}.new").symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_whole(epath.Path(tmp_path / "a"), b"x")
    assert precious.read_text() == "someone's"


def test_names_may_be_as_long_as_there_are(tmp_path: Path):
    """Fault: no result for the file with the longest name, for want of a name beside it."""
    path = epath.Path(tmp_path / ("x" * 255))
    write_whole(path, b"x")
    assert path.read_bytes() == b"x"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_text("someone's")
    return path


def test_what_links_lead_to_is_not_written(tmp_path: Path, precious: Path):
    """Fault: who may write to a folder of results has others' files overwritten."""
    (tmp_path / "whole.json").symlink_to(precious)
    write_whole(epath.Path(tmp_path / "whole.json"), b"ours")
    assert (tmp_path / "whole.json").read_text() == "ours"
    assert not (tmp_path / "whole.json").is_symlink()
    for mode in ("w", "a", "a+"):
        link = tmp_path / f"{mode}.csv"
        link.symlink_to(precious)
        with pytest.raises(DataError, match="is a link; remove it"):
            open_own(link, mode)
    assert precious.read_text() == "someone's"


def test_a_planted_lock_is_no_reason_to_overwrite(tmp_path: Path, precious: Path):
    """Fault: the file that a link called .lock leads to replaced by a number."""
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / LOCK).symlink_to(precious)
    with pytest.raises(DataError, match="is a link; remove it"), alone_in(folder, "wait"):
        pass
    assert precious.read_text() == "someone's"


@pytest.mark.parametrize("content", [b"mine", b"\xff\xfe", b"12"])
def test_a_lock_of_someone_else_stays_as_it_is(tmp_path: Path, content: bytes):
    """Fault: a file that another program keeps under this name replaced by a number."""
    lock = tmp_path / LOCK
    lock.write_bytes(content)
    refused = pytest.raises(DataError, match="was not written by this command")
    with refused, alone_in(tmp_path, "wait"):
        pass
    assert lock.read_bytes() == content


def test_a_lock_of_an_earlier_job_is_taken_over(tmp_path: Path):
    """Fault: a folder that is refused for ever because a job was in it, or was killed at once."""
    for before in ("process 1 on elsewhere", ""):
        (tmp_path / LOCK).write_text(before)
        with alone_in(tmp_path, "wait"):
            assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("name", ["EWOULDBLOCK", "EACCES"])
def test_a_folder_takes_one_job_on_any_file_system(tmp_path: Path, monkeypatch, name: str):
    """Fault: two jobs in a folder on a share of Windows, where a held lock is a denied permission.

    Nor does such a share let the second one read whose lock it is.
    """
    error = OSError(getattr(errno, name), "held")
    monkeypatch.setattr(alone.fcntl, "flock", _raise(error))
    monkeypatch.setattr(alone, "_holder", _raise(PermissionError(errno.EACCES, "locked")))
    refused = pytest.raises(DataError, match="is in use by another process; wait")
    with refused, alone_in(tmp_path, "wait"):
        pass


def test_a_folder_without_locks_is_used(tmp_path: Path, monkeypatch):
    """Fault: no result on a network file system that has no locks."""
    for code in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
        monkeypatch.setattr(alone.fcntl, "flock", _raise(OSError(code, "no locks")))
        with alone_in(tmp_path, "wait"):
            pass


def _raise(error: OSError) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("name", [TABLE, NOTE])
def test_results_are_not_written_through_links(tmp_path: Path, precious: Path, name: str):
    """Fault: a table or a note that was replaced by a link has someone's file overwritten."""
    (tmp_path / "0.png").write_bytes(png_bytes(chest(120, 110, 0)[0]))
    output, segmenter = tmp_path / "out", Segmenter(untrained_weights(Calibration(0.5)))
    predict(segmenter, [tmp_path / "0.png"], output)
    if name == NOTE:
        precious.write_bytes((output / NOTE).read_bytes())
    before = precious.read_bytes()
    (output / name).unlink()
    (output / name).symlink_to(precious)
    predict(segmenter, [tmp_path / "0.png"], output)
    assert not (output / name).is_symlink()
    assert precious.read_bytes() == before


NESTED = "[" * 200_000


def read_table(folder: epath.Path) -> object:
    return read_tables([folder], "test")


# What reads a file of a folder that others may have sent.
READERS = {
    "config.json": read_config,
    "splits.json": read_splits,
    NOTE: read_note,
    "metrics.json": read_table,
    "eval/test.csv": read_table,
    "x.safetensors": lambda folder: load_weights(folder / "x.safetensors"),
    "features.json": open_folder,
    "dataset_info.json": open_folder,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "nested"])
def test_a_file_that_others_put_there_keeps_nobody_waiting(tmp_path: Path, name: str, kind: str):
    """Fault: a command that hangs, fills the memory, or ends in a traceback, by what it is sent."""
    folder = write_run(tmp_path / "run", np.full(12, 0.9))
    for other in RECORD_FILES:
        (folder / other).write_text("{}")
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text(f"{NESTED}\n")
    with pytest.raises((UserError, OSError)):
        READERS[name](epath.Path(folder))


def test_a_pipe_in_place_of_the_table_is_not_waited_for(tmp_path: Path):
    """Fault: a command that hangs until somebody reads what it writes."""
    os.mkfifo(tmp_path / TABLE)
    with pytest.raises(OSError, match="No such device"):
        open_own(tmp_path / TABLE, "w")


def test_names_that_a_terminal_would_obey_are_escaped_in_the_table(tmp_path: Path):
    """Fault: the table, shown on a terminal, does what a file's name says."""
    (tmp_path / "a\x1b[31m.png").write_bytes(b"no image")
    predict(Segmenter(untrained_weights(Calibration(0.5))), [tmp_path], tmp_path / "out")
    table = (tmp_path / "out" / TABLE).read_bytes()
    assert b"\x1b" not in table
    assert b"a\\x1b[31m.png" in table
