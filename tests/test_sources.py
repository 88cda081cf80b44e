"""What every layout does the same."""

import os

import pytest
from etils import epath

from lungseg_jax.errors import DataError
from tests.pictures import KAGGLE_STEMS, write_kaggle
from tfds_builder.sources import Case, Clinical, documented_spacing, list_source
from tfds_builder.sources.layout import files_below


def test_an_absent_folder(tmp_path):
    """A typing error in the path."""
    with pytest.raises(DataError, match=r"nowhere: no such folder; .*data.manual_dir"):
        list_source("kaggle", tmp_path / "nowhere")


def test_no_folder_given_is_not_the_current_one(tmp_path, monkeypatch):
    """The empty default would search, and use, whatever lies where the program is started."""
    write_kaggle(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^data\.manual_dir: is empty"):
        list_source("kaggle", "")


def test_home_is_expanded(tmp_path, monkeypatch):
    """In --config.data.manual_dir=~/x the shell leaves the tilde as it is."""
    write_kaggle(tmp_path / "x")
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    assert len(list_source("kaggle", "~/x").cases) == len(KAGGLE_STEMS)


def test_links_are_followed_and_circles_end(tmp_path):
    """Fault: pictures on another disk are missed, or a link to a folder above never ends."""
    elsewhere = write_kaggle(tmp_path / "elsewhere")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "data").symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(elsewhere)
    found = files_below(epath.Path(tmp_path / "x"))
    assert len(found) == len(set(found)) == 2 * len(KAGGLE_STEMS) + 2
    assert len(list_source("kaggle", tmp_path / "x").cases) == len(KAGGLE_STEMS)


@pytest.mark.parametrize(
    ("source", "shape", "expected"),
    [
        ("montgomery", (4020, 4892), (0.0875, 0.0875)),
        ("montgomery", (4892, 4020), (0.0875, 0.0875)),
        ("montgomery", (4892, 4892), None),
        ("jsrt", (2048, 2048), (0.0875, 0.0875)),
        ("jsrt", (1024, 1024), None),
        ("folder", (2048, 2048), None),
    ],
)
def test_documented_spacing_holds_at_the_published_size_alone(source, shape, expected):
    """Fault: distances in mm from a spacing that a resized copy does not have."""
    case = Case("e", "p", source, epath.Path("x"), (), Clinical(), spacing_mm=(0.0875, 0.0875))
    assert documented_spacing(case, shape) == expected
