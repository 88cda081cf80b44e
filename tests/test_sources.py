"""What every layout does the same."""

import os
import typing

import pytest
from etils import epath

from lungseg_jax.config import SourceName
from lungseg_jax.errors import DataError
from lungseg_jax.imaging.find_files import files_below
from lungseg_jax.imaging.structures import Structure
from tests.images import KAGGLE_STEMS, write_kaggle
from tests.layouts import FOLDER, write_tree
from tests.test_source_jsrt import write_jsrt
from tests.test_source_montgomery import write_montgomery
from tests.test_source_phantom import write_phantom_layout
from tests.test_source_shenzhen import write_shenzhen
from tfds_builder.sources import (
    _LAYOUTS,
    SOURCES_WITHOUT_SIDES,
    Case,
    Clinical,
    documented_spacing,
    list_source,
)
from tfds_builder.sources.layout import find_root, nearest_first, pick_mask, read_regular


def test_every_source_of_the_configuration_has_a_layout():
    """Fault: a source that the configuration takes and that no function lists, or the reverse."""
    assert {*_LAYOUTS, "folder"} == set(typing.get_args(SourceName))


@pytest.mark.parametrize("source", typing.get_args(SourceName))
def test_sources_without_sides_are_those_that_have_none(tmp_path, source):
    """Fault: a source refused for labels that it has, or built for labels that it has not."""
    writers = {
        "kaggle": write_kaggle,
        "montgomery": write_montgomery,
        "shenzhen": write_shenzhen,
        "jsrt": write_jsrt,
        # Of these masks some are of a side.
        "folder": lambda folder: write_tree(folder, FOLDER),
        "phantom": lambda folder: write_phantom_layout(folder, {"a": "1"}),
    }
    writers[source](tmp_path)
    structures = {
        mask.structure for case in list_source(source, tmp_path).cases for mask in case.masks
    }
    assert (structures == {Structure.LUNGS}) == (source in SOURCES_WITHOUT_SIDES)


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


def test_the_folder_above_a_link_is_that_of_what_it_leads_to(tmp_path, monkeypatch):
    """Fault: records of another data set, which lies beside the link."""
    for place in ("here", "there"):
        write_kaggle(tmp_path / place / "archive")
    (tmp_path / "there" / "below").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there" / "below")
    monkeypatch.chdir(tmp_path / "here")
    case, *_ = list_source("kaggle", "link/../archive").cases
    there = tmp_path / "there" / "archive"
    assert os.path.realpath(case.image).startswith(os.fspath(there))


def test_links_are_followed_and_circles_end(tmp_path):
    """Fault: images on another disk are missed, or a link to a folder above never ends."""
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


def test_a_layout_of_links_into_the_folder_itself(tmp_path):
    """Fault: images listed by their own place are missed where the layout names the link."""
    root = write_kaggle(tmp_path / "x")
    (root / "CXR_png").rename(tmp_path / "x" / "archive")
    (root / "CXR_png").symlink_to(tmp_path / "x" / "archive")
    assert len(list_source("kaggle", tmp_path / "x").cases) == len(KAGGLE_STEMS)


def test_a_pipe_or_a_huge_file_is_not_read(tmp_path):
    """Fault: the listing waits for a pipe's writer, or fills the memory."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: not a regular file"):
        read_regular(epath.Path(tmp_path / "pipe"), 10)
    with pytest.raises(DataError, match="pipe: not a regular file"):
        pick_mask([epath.Path(tmp_path / "pipe")] * 2)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(DataError, match="large: larger than 10 bytes"):
        read_regular(epath.Path(tmp_path / "large"), 10)
    assert read_regular(epath.Path(tmp_path / "large"), 11) == bytes(11)


@pytest.mark.parametrize("rival", [b"12", b"124"])
def test_copies_of_a_mask_are_equal(tmp_path, rival):
    """Fault: only the size, or only the second copy, is compared."""
    paths = [epath.Path(tmp_path / name) for name in "abc"]
    for path, content in zip(paths, (b"123", b"123", rival), strict=True):
        path.write_bytes(content)
    assert pick_mask(paths[:2]) == paths[0]
    with pytest.raises(DataError, match="c is another mask of the same image"):
        pick_mask(paths)


def test_of_copies_the_topmost_comes_first():
    """Fault: a copy deep in a backup used, because its folder comes first by name."""
    deep, top = epath.Path("a/z/x.png"), epath.Path("b/x.png")
    assert nearest_first([deep, top]) == nearest_first([top, deep]) == [top, deep]


@pytest.mark.parametrize(("above", "found"), [("a/b", True), ("a/b/c", False)])
def test_a_layout_is_found_up_to_three_levels_down(tmp_path, above: str, found: bool):
    """Fault: an archive that was unpacked into a folder of its name missed."""
    root = write_kaggle(tmp_path / above)
    if found:
        assert find_root(epath.Path(tmp_path), ("CXR_png", "masks")) == epath.Path(root)
    else:
        with pytest.raises(DataError, match="or up to three levels below; found a;"):
            find_root(epath.Path(tmp_path), ("CXR_png", "masks"))
