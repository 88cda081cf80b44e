"""Files that are written whole or not at all, and never through someone's link."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from lungseg_jax.errors import DataError, UserError
from lungseg_jax.paths import open_own, write_whole
from lungseg_jax.predict import predict
from lungseg_jax.prediction.results import NOTE, read_note
from lungseg_jax.prediction.segmenter import Segmenter
from lungseg_jax.prediction.table import TABLE
from lungseg_jax.runtime.alone import LOCK, alone_in
from lungseg_jax.weights import Calibration
from lungseg_jax.workdir import read_config
from tests.images import chest, png_bytes
from tests.untrained import untrained_weights
from tfds_builder.splits import read_split_file

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
    # What it left is no obstacle, and is gone in the end.
    write_whole(epath.Path(path), b"after")
    assert path.read_bytes() == b"after"
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


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
        with pytest.raises(OSError, match="symbolic links"):
            open_own(link, mode)
    assert precious.read_text() == "someone's"


def test_a_planted_lock_is_no_reason_to_overwrite(tmp_path: Path, precious: Path):
    """Fault: the file that a link called .lock leads to replaced by a number."""
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / LOCK).symlink_to(precious)
    with pytest.raises(DataError, match="symbolic links"), alone_in(folder, "wait"):
        pass
    assert precious.read_text() == "someone's"


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
    if name == TABLE:
        with pytest.raises(OSError, match="symbolic links"):
            predict(segmenter, [tmp_path / "0.png"], output)
    else:
        predict(segmenter, [tmp_path / "0.png"], output)
        assert not (output / name).is_symlink()
    assert precious.read_bytes() == before


NESTED = "[" * 200_000


@pytest.mark.parametrize("name", ["config.json", NOTE, "splits.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "nested"])
def test_a_file_that_others_put_there_keeps_nobody_waiting(tmp_path: Path, name: str, kind: str):
    """Fault: a command that hangs, fills the memory, or ends in a traceback, by what it is sent."""
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text(NESTED if name != NOTE else f"{NESTED}\n")
    read = {"config.json": read_config, NOTE: read_note, "splits.json": read_split}[name]
    with pytest.raises((UserError, OSError), match=r"pipe|JSON|cannot be read|was not written"):
        read(epath.Path(tmp_path))


def read_split(folder: epath.Path) -> dict[str, list]:
    return read_split_file(folder / "splits.json")


def test_names_that_a_terminal_would_obey_are_escaped_in_the_table(tmp_path: Path):
    """Fault: the table, shown on a terminal, does what a file's name says."""
    (tmp_path / "a\x1b[31m.png").write_bytes(b"no image")
    predict(Segmenter(untrained_weights(Calibration(0.5))), [tmp_path], tmp_path / "out")
    table = (tmp_path / "out" / TABLE).read_bytes()
    assert b"\x1b" not in table
    assert b"a\\x1b[31m.png" in table
