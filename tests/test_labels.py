"""From a mask's bits to channels, and masks that have no sides."""

import dataclasses
import json
import re
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from lungseg_jax.config import Config
from lungseg_jax.data.labels import (
    CHANNELS,
    channels,
    has_sides,
    lungs_of,
    missing,
    num_classes,
    tells_sides,
)
from lungseg_jax.data.pipeline import read_store
from lungseg_jax.data.records import Records, open_records
from lungseg_jax.errors import ConfigError, DataError
from lungseg_jax.imaging.structures import Structure
from tests.images import chest, png_bytes
from tests.small import small_config, small_config_with_data
from tests.stored import raw_records, shard
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import LungsConfig
from tfds_builder.prepare import prepare

RIGHT = Structure.LUNGS | Structure.RIGHT_LUNG
LEFT = Structure.LUNGS | Structure.LEFT_LUNG


def bits(*row: int) -> np.ndarray:
    return np.array(row, np.uint8)[None, :, None]


def test_channels_are_right_then_left_whatever_else_is_there():
    """Fault: sides exchanged, or a heart or an overlap of both lungs taken for another value."""
    mask = bits(0, RIGHT, LEFT, RIGHT | LEFT, LEFT | Structure.HEART, Structure.CLAVICLES)
    sides = channels(mask, "left_right", "x")
    assert sides[0, :, 0].tolist() == [0, 1, 0, 1, 0, 0]
    assert sides[0, :, 1].tolist() == [0, 0, 1, 1, 1, 0]
    assert channels(mask, "lungs", "x")[0, :, 0].tolist() == [0, 1, 1, 1, 1, 0]


def test_lungs_without_sides_are_refused_and_no_lungs_are_not():
    """Fault: lungs trained on as background, or an image without lungs that stops a run."""
    with pytest.raises(DataError, match=r"^MCUCXR_7: .*right from left"):
        channels(bits(0, Structure.LUNGS), "left_right", "MCUCXR_7")
    assert not channels(bits(0, Structure.HEART), "left_right", "x").any()
    assert has_sides(bits(Structure.LUNGS, RIGHT))


def test_sides_and_what_is_missing_are_told_by_structure(monkeypatch):
    """Fault: labels that are added mirrored, or trained on without masks, for having a new name."""
    monkeypatch.setitem(CHANNELS, "lungs", (Structure.LUNGS, Structure.HEART))
    assert not tells_sides("lungs")
    assert missing("lungs", RIGHT) == (Structure.HEART,)
    monkeypatch.setitem(CHANNELS, "lungs", (Structure.HEART, Structure.LEFT_LUNG))
    assert tells_sides("lungs")
    assert not missing("lungs", LEFT | Structure.HEART)


@pytest.mark.parametrize("labels", CHANNELS)
def test_all_labels_have_lungs(labels):
    """Fault: labels that train, and that nothing measures or makes a mask of."""
    found = lungs_of(np.zeros((4, 4, num_classes(labels))), labels)
    assert found.shape == (4, 4, 2 if tells_sides(labels) else 1)


def test_lungs_are_found_by_structure(monkeypatch):
    """Fault: a heart taken for a left lung, because it is the second class."""
    classes = np.arange(3)[None, None]
    for structures, expected in (
        ((Structure.LUNGS, Structure.HEART, Structure.CLAVICLES), [0]),
        ((Structure.HEART, Structure.LEFT_LUNG, Structure.RIGHT_LUNG), [2, 1]),
        ((Structure.CLAVICLES, Structure.HEART, Structure.LUNGS), [2]),
    ):
        monkeypatch.setitem(CHANNELS, "left_right", structures)
        assert lungs_of(classes, "left_right")[0, 0].tolist() == expected


def test_a_structure_that_no_mask_marks_is_named(tmp_path, monkeypatch):
    """Fault: a class trained on empty masks, whose Dice is perfect for finding nothing."""
    monkeypatch.setitem(CHANNELS, "left_right", (Structure.RIGHT_LUNG, Structure.HEART))
    given = small_config(
        data__num_phantoms=10, data__data_dir=str(tmp_path), data__labels="left_right"
    )
    with pytest.raises(ConfigError, match=r"^data.labels: .*source phantom .*marks: heart; "):
        open_records(given)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return small_config_with_data(tmp_path_factory.mktemp("data"), data__labels="left_right")


def test_masks_without_sides_are_refused(config, tmp_path):
    """Fault: a run that learns that there are no lungs, or records built only to be refused."""
    data = dataclasses.replace(config.data, data_dir=str(tmp_path))
    # Of a folder, sides may be told by the names of masks.
    folder = dataclasses.replace(data, source="folder", images="CXR_png/*", masks="masks/{stem}*")
    for given, built in ((data, False), (folder, True)):
        with pytest.raises(ConfigError, match=f"source {given.source} .* montgomery") as caught:
            open_records(dataclasses.replace(config, data=given))
        assert caught.value.subject == "data.labels"
        assert (tmp_path / "chest_xray_lungs").exists() == built


def write_sides(folder: Path, left: Collection[int], together: Collection[int] = ()) -> Config:
    """Ten images with a mask of each lung, a left one in some of them, or one mask of both."""
    (folder / "pairs.csv").write_text("image,mask,left_mask,right_mask,id\n")
    for number in range(10):
        pixels, mask = chest(40, 36, number)
        sides = {
            "left_mask": np.where((np.arange(36) >= 18) & (number in left), mask, 0),
            "right_mask": np.where(np.arange(36) < 18, mask, 0),
        }
        cells = {"image": pixels} | ({"mask": mask} if number in together else sides)
        for name, content in cells.items():
            (folder / f"{name}{number}.png").write_bytes(png_bytes(content.astype(np.uint8)))
        with (folder / "pairs.csv").open("a") as file:
            names = [
                f"{name}{number}.png" if name in cells else ""
                for name in ("image", "mask", "left_mask", "right_mask")
            ]
            file.write(",".join([*names, str(number)]) + "\n")
    splits = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}
    named = {name: list(map(str, numbers)) for name, numbers in splits.items()}
    (folder / "splits.json").write_text(json.dumps(named))
    return small_config(
        data__source="folder",
        data__manual_dir=str(folder),
        data__data_dir=str(folder / "records"),
        data__labels="left_right",
        data__splits=str(folder / "splits.json"),
    )


@pytest.mark.parametrize("only", [0, 5])
def test_a_structure_may_be_marked_by_a_single_mask(tmp_path, only: int):
    """Fault: sides refused because the first patient has one lung."""
    assert open_records(write_sides(tmp_path, [only]))["train"].missing_structures() == ()


def test_a_structure_that_no_mask_of_training_marks_is_refused(tmp_path):
    """Fault: a class that is never seen, because validation has it."""
    with pytest.raises(ConfigError, match="to train on marks: left lung"):
        open_records(write_sides(tmp_path, [6, 7, 8, 9]))


@pytest.mark.parametrize("together", [range(6), [6, 7], [8, 9]])
def test_one_split_without_sides_is_refused(tmp_path, together: Collection[int]):
    """Fault: a run that ends at its first validation, for only one split was looked at."""
    with pytest.raises(ConfigError, match="do not tell right from left"):
        open_records(write_sides(tmp_path, range(10), together))


def test_every_example_read_is_checked(config):
    """Fault: one mask without sides among those with them, trained on as background."""
    data = config.data
    lungs = LungsConfig(source="kaggle", image_size=data.image_size)
    records = Records(prepare(lungs, data.data_dir, data.manual_dir), "train", "left_right")
    name = re.escape(records.metadata(3).example_id)
    with pytest.raises(DataError, match=f"^{name}: "):
        records.samples([3])
    with pytest.raises(DataError, match=f"^{name}: "):
        records.example(3)
    with pytest.raises(DataError, match="right from left"):
        read_store(records)


def test_records_whose_end_is_damaged_are_not_opened(tmp_path):
    """Fault: a copy that broke off is noticed in the middle of the first epoch."""
    config = small_config_with_data(tmp_path)
    path = shard(Path(open_records(config)["train"].folder), "train")
    content, last = path.read_bytes(), raw_records(path)[-1]
    assert content.count(last) == 1
    path.write_bytes(content.replace(last, bytes(len(last))))
    with pytest.raises(DataError, match="a record of the train split is damaged"):
        open_records(config)


def test_sides_of_phantoms_are_the_patients(tmp_path):
    """Fault: the right lung on the image's right; sides lost or shrunk unlike their union."""
    data_dir = str(tmp_path)
    both, one = (
        open_records(small_config(data__num_phantoms=10, data__data_dir=data_dir, data__labels=x))
        for x in ("left_right", "lungs")
    )
    count = len(both["train"])
    sides = both["train"].samples(range(count)).mask.astype(bool)
    column = np.arange(sides.shape[2])[:, None]
    right, left = ((sides * column).sum((0, 1, 2)) / sides.sum((0, 1, 2))).tolist()
    assert right < 15 < 17 < left
    union = one["train"].samples(range(count)).mask[..., 0] > 0
    assert (sides.any(-1) <= union).all(), "a side covers more of a pixel than the lungs do"
    assert (sides.any(-1) == union).mean() > 0.99
    for position in range(count):
        example = both["train"].example(position)
        np.testing.assert_array_equal(
            example.original_mask.any(-1), one["train"].example(position).original_mask[..., 0]
        )
        assert not example.original_mask.all(-1).any()
