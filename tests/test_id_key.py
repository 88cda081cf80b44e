"""The secret key: one for all processes, for its owner's eyes, never weak."""

import multiprocessing
import os
from pathlib import Path

import pytest
from etils import epath

from lungseg_jax.errors import DataError
from tfds_builder.id_key import read_or_make_key

NAME = "patient_id.key"


def test_a_key_is_kept_for_its_owner_alone(tmp_path):
    """Fault: a key of each call's own, one that others can read, or a copy left beside it."""
    folder = epath.Path(tmp_path) / "new"
    key = read_or_make_key(folder)
    assert len(key) == 32
    assert read_or_make_key(folder) == key != read_or_make_key(epath.Path(tmp_path) / "other")
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert Path(folder / NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o620, True), (0o640, False)])
def test_a_key_that_is_no_secret_is_pointed_out(tmp_path, capsys, mode: int, warned: bool):
    """Fault: hashes that anyone can try out; or an alarm where a group is meant to read it."""
    read_or_make_key(epath.Path(tmp_path))
    (tmp_path / NAME).chmod(mode)
    read_or_make_key(epath.Path(tmp_path))
    assert ("chmod 600" in capsys.readouterr().err) == warned


def _race(folder: Path, start, keys) -> None:
    start.wait()
    keys.put(read_or_make_key(epath.Path(folder)))


def _race_without_links(folder: Path, start, keys) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    # As FAT and some network drives do.
    os.link = refuse
    _race(folder, start, keys)


@pytest.mark.parametrize("target", [_race, _race_without_links])
def test_processes_that_race_get_one_key(tmp_path, target):
    """Fault: the last writer's key holds, and the first one's patients match nobody's."""
    context = multiprocessing.get_context("spawn")
    start, keys = context.Event(), context.SimpleQueue()
    racers = [context.Process(target=target, args=(tmp_path, start, keys)) for _ in range(4)]
    for racer in racers:
        racer.start()
    start.set()
    found = {keys.get() for _ in racers}
    for racer in racers:
        racer.join()
    assert found == {read_or_make_key(epath.Path(tmp_path))}
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("content", [b"", b"ab", b"0" * 63, b"0" * 65, b"g" * 64, b"\xff" * 64])
def test_a_damaged_key_is_refused_and_not_shown(tmp_path, monkeypatch, content):
    """Fault: an empty key, with which anybody can try out identifiers."""
    monkeypatch.setattr("tfds_builder.id_key._PATIENCE_S", 0)
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(DataError, match=r"patient_id\.key: is not a key .*; restore it") as caught:
        read_or_make_key(epath.Path(tmp_path))
    assert len(content) < 3 or content.decode(errors="replace") not in str(caught.value)


def test_a_line_break_after_the_key_does_no_harm(tmp_path):
    """Fault: a key that was looked at in an editor is refused."""
    (tmp_path / NAME).write_text("0f" * 32 + "\n")
    assert read_or_make_key(epath.Path(tmp_path)) == b"\x0f" * 32
