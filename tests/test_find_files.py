"""Files below a folder: each once, whatever links and closed folders there are."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from lungseg_jax.errors import DataError
from lungseg_jax.imaging.find_files import files_below
from tests.layouts import write_tree


def test_a_folder_that_is_reached_in_many_ways_is_listed_once(tmp_path):
    """Fault: each link doubles the files below it, or the name by a link replaces the own name."""
    write_tree(tmp_path, ("b/x.png", "b/y.png"))
    for i in range(12):
        (tmp_path / "b" / f"again{i}").symlink_to(tmp_path / "b")
        (tmp_path / f"a{i}").symlink_to(tmp_path / "b")
    found = files_below(epath.Path(tmp_path))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b/x.png", "b/y.png"]


def test_the_order_is_that_of_a_walk(tmp_path):
    """Fault: splits or records that depend on the order in which folders were visited."""
    names = ("a.png", "a/z.png", "a/b/c.png", "a-b/c.png", "b.png")
    found = files_below(epath.Path(write_tree(tmp_path, names)))
    walk = ["a/b/c.png", "a/z.png", "a-b/c.png", "a.png", "b.png"]
    assert [path.relative_to(tmp_path).as_posix() for path in found] == walk


def test_links_that_lead_nowhere_are_files(tmp_path):
    """Fault: one of them ends the listing of the archive, or vanishes from the report."""
    (tmp_path / "gone.png").symlink_to(tmp_path / "absent.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    # Images need no suffix.
    (tmp_path / "IM1").symlink_to(tmp_path / "IM1")
    (tmp_path / "IM2").symlink_to(Path(__file__) / "absent")
    (tmp_path / "IM3").symlink_to("a" * 300)
    found = files_below(epath.Path(tmp_path))
    assert [path.name for path in found] == ["IM1", "IM2", "IM3", "gone.png", "self.png"]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN])
def test_what_a_failing_disk_does_not_tell_is_not_left_out(tmp_path, monkeypatch, code):
    """Fault: a folder of images taken for a file that is no image, while a network is gone."""
    write_tree(tmp_path, ("a.png", "p1/b.png", "p2/c.png"))
    stat = Path.stat

    def let_fail(name: str) -> None:
        def fail(path: Path, **options: bool) -> os.stat_result:
            if path.name == name:
                raise OSError(code, os.strerror(code), os.fspath(path))
            return stat(path, **options)

        monkeypatch.setattr(Path, "stat", fail)

    def listed(**options: bool) -> list[str]:
        found = files_below(epath.Path(tmp_path), **options)
        return [path.relative_to(tmp_path).as_posix() for path in found]

    let_fail("p1")
    with pytest.raises(DataError, match=f"p1: {os.strerror(code)}"):
        listed()
    # The table of predictions has a row for it.
    assert listed(go_on=True) == ["a.png", "p1", "p2/c.png"]
    # One bad image does not stop an archive.
    let_fail("b.png")
    assert listed() == ["a.png", "p1/b.png", "p2/c.png"]


# Root may enter every folder, but for this program (util-linux).
AS_ANYBODY = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
LIST = """
import sys
from etils import epath
from lungseg_jax.errors import DataError
from lungseg_jax.imaging.find_files import files_below
root = epath.Path(sys.argv[1])
for go_on in (False, True):
    try:
        print(*(path.relative_to(root) for path in files_below(root, go_on=go_on)))
    except DataError as error:
        print(error)
"""


@pytest.mark.skipif(bool(AS_ANYBODY) and not shutil.which("setpriv"), reason="root, no setpriv")
@pytest.mark.parametrize("mode", [0o000, 0o400])
def test_folders_that_may_not_be_entered(tmp_path, mode):
    """Fault: a traceback, folders taken for files, or one of them that stops a whole archive."""
    write_tree(tmp_path, ("a.png", "closed/b.png", ".Trash-0/c.png", "open/d.png"))
    # Whose own folder is not to blame.
    (tmp_path / "open" / "link.png").symlink_to(tmp_path / "closed" / "b.png")
    run = [*AS_ANYBODY, sys.executable, "-c", LIST, os.fspath(tmp_path)]

    def listed() -> list[str]:
        return subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()

    try:
        (tmp_path / ".Trash-0").chmod(mode)
        assert listed() == [".Trash-0 a.png closed/b.png open/d.png open/link.png"] * 2
        (tmp_path / "closed").chmod(mode)
        strict, lenient = listed()
        assert strict == f"{tmp_path}/closed: Permission denied; check path and permissions"
        assert lenient == ".Trash-0 a.png closed open/d.png open/link.png"
    finally:
        for name in (".Trash-0", "closed"):
            (tmp_path / name).chmod(0o700)
