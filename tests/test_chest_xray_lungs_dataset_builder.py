"""The TFDS builder, without TensorFlow here and under TFDS's own test case in the slow test.

`tfds.testing.DatasetBuilderTestCase` derives from TensorFlow's test case, so that not even its name
can be imported without TensorFlow. What it checks is therefore checked one by one here, and the
class itself runs unmodified in an environment of its own.
"""

import concurrent.futures
import configparser
import contextlib
import dataclasses
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import dataset_metadata

from lungseg_jax.errors import ConfigError
from tests.images import KAGGLE_STEMS, write_kaggle
from tfds_builder.build_lock import one_build_at_a_time
from tfds_builder.chest_xray_lungs import chest_xray_lungs_dataset_builder
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import Builder, LungsConfig
from tfds_builder.manifest import MANIFEST
from tfds_builder.prepare import prepare
from tfds_builder.splits import SPLITS
from tfds_builder.verify import verify

CONFIG = LungsConfig(source="kaggle", image_size=32)
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Any:  # TFDS's annotations do not know what a split holds.
    folder = tmp_path_factory.mktemp("builder")
    write_kaggle(folder / "raw")
    return prepare(CONFIG, folder / "data", folder / "raw")


def test_the_builder_is_registered_under_its_folder_name():
    """`tfds.load` finds builders by name; a class name taken instead would break it."""
    assert Builder.name == "chest_xray_lungs"
    assert Builder.name in tfds.list_builders(with_community_datasets=False)


def test_documents_are_found_and_tags_known():
    """README, citation and tags lie beside the module and are easily left out of the package."""
    metadata = Builder.get_metadata()
    assert metadata.description
    assert metadata.citation.count("@") >= 1
    assert metadata.tags
    assert set(metadata.tags) <= set(dataset_metadata.valid_tags())


def test_every_version_has_its_note():
    """Records of two versions side by side must be told apart."""
    assert str(Builder.VERSION) in Builder.RELEASE_NOTES


@pytest.mark.parametrize("config", Builder.BUILDER_CONFIGS, ids=lambda config: config.name)
def test_published_configurations_say_what_they_are(config, tmp_path):
    """A name that promises another size than its features have."""
    assert config.name == f"{config.source}_{config.image_size}"
    builder = Builder(data_dir=tmp_path, config=config.name)
    assert isinstance(builder.info.features, tfds.features.FeaturesDict)
    assert builder.info.features["image"].shape == (config.image_size, config.image_size, 1)


def test_a_builder_leaves_no_temporary_folder(tmp_path, monkeypatch):
    """Fault: TFDS makes one in each process that looks for records, and never removes it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Builder(data_dir=tmp_path / "data", config="phantom_256")
    assert list(tmp_path.iterdir()) == []


def test_records_are_of_the_types_that_the_features_state(built):
    """A reader allocates by the stated shape and type."""
    for split in SPLITS:
        for record in built.as_data_source(split):
            for name, stated in built.info.features.get_tensor_info().items():
                if isinstance(record[name], bytes):
                    assert isinstance(built.info.features[name], tfds.features.Text)
                    continue
                value = np.asarray(record[name])
                # TFDS reads a scalar as Python's float.
                assert value.dtype == stated.np_dtype or not value.shape, name
                assert len(value.shape) == len(stated.shape), name
                for size, wanted in zip(value.shape, stated.shape, strict=True):
                    assert wanted in (None, size), name
            assert set(np.unique(record["mask"])) <= {0, 1}
            assert record["original_mask"].shape[:2] == tuple(record["original_size"])


def test_splits_hold_different_images_and_all_of_them(built):
    """The same image in two splits makes test figures too good."""
    images = {
        split: {record["image"].tobytes() for record in built.as_data_source(split)}
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not images[one] & images[other]
    counts = {split: built.info.splits[split].num_examples for split in SPLITS}
    assert {split: len(split_images) for split, split_images in images.items()} == counts
    assert sum(counts.values()) == len(KAGGLE_STEMS)


def test_records_are_read_without_this_code(built):
    """Who gets the folder alone has neither the files nor the configuration they were made by."""
    alone: Any = tfds.builder_from_directory(built.data_path)
    for split in SPLITS:
        mine = [record["example_id"] for record in built.as_data_source(split)]
        assert [record["example_id"] for record in alone.as_data_source(split)] == mine
        assert alone.info.splits[split].num_examples == len(mine)


@pytest.mark.parametrize("stated", ["array_record", "tfrecord"])
def test_records_are_opened_in_the_format_that_they_are_in(stated, built, tmp_path):
    """Fault: `tfds.load` refuses records that were written as TFRecord, unless told so again."""
    version = tmp_path / built.name / "kaggle_256" / str(built.version)
    version.mkdir(parents=True)
    new = Builder(data_dir=tmp_path / "new", config="kaggle_256")
    assert new.info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    # TensorFlow alone writes TFRecord files.
    info = json.loads((built.data_path / "dataset_info.json").read_text())
    for name, content in (
        ("dataset_info.json", json.dumps(info | {"fileFormat": stated})),
        ("features.json", (built.data_path / "features.json").read_text()),
    ):
        (version / name).write_text(content)
    name = f"{built.name}/kaggle_256"
    opened = [
        tfds.builder(name, data_dir=tmp_path),
        tfds.builder(name, data_dir=tmp_path, file_format=stated),
    ]
    # Fault: a format given to the builder is lost on the way to another process.
    for builder in (*opened, pickle.loads(pickle.dumps(opened[1]))):
        assert builder.is_prepared()
        assert builder.info.file_format == tfds.core.FileFormat(stated)


def test_a_configuration_without_a_name_is_refused(tmp_path):
    """Fault: phantoms, built before without a name, are read for the radiographs asked for."""
    with pytest.raises(ConfigError, match=r"^LungsConfig.name: is empty"):
        Builder(config=LungsConfig(source="kaggle", image_size=32), data_dir=tmp_path)


def by_tfds(folder: Path) -> Any:
    """A builder as users of TFDS make it, who know nothing of `prepare`."""
    config = dataclasses.replace(CONFIG, name="kaggle_32")
    return tfds.builder("chest_xray_lungs", config=config, data_dir=folder / "data")


def download_config(folder: Path) -> tfds.download.DownloadConfig:
    return tfds.download.DownloadConfig(manual_dir=write_kaggle(folder / "raw"))


def test_records_built_by_tfds_can_be_verified(tmp_path):
    """Fault: whole records, for want of a manifest, fail the check and cannot be trained on."""
    builder = by_tfds(tmp_path)
    config = download_config(tmp_path)
    builder.download_and_prepare(download_config=config)
    assert verify(builder.data_path) == []
    # Fault: checksums made anew, of whatever has become of the records since.
    manifest = Path(builder.data_path) / MANIFEST
    manifest.write_text("{}")
    by_tfds(tmp_path).download_and_prepare(download_config=config)
    assert manifest.read_text() == "{}"
    # Fault: records that were overwritten are left without one.
    mode = tfds.download.GenerateMode.REUSE_CACHE_IF_EXISTS
    config = dataclasses.replace(config, download_mode=mode)
    by_tfds(tmp_path).download_and_prepare(download_config=config)
    assert verify(builder.data_path) == []


def test_a_build_by_tfds_waits_for_others_that_share_its_work(tmp_path, capsys):
    """Fault: of two builds one removes a file that the other is writing, which then fails."""
    builder, config = by_tfds(tmp_path), download_config(tmp_path)
    downloads = epath.Path(tmp_path / "data" / "downloads")
    partial = downloads / "converted" / str(builder.VERSION) / "other.partial"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with one_build_at_a_time(downloads):
            partial.parent.mkdir(parents=True)
            partial.touch()
            build = pool.submit(builder.download_and_prepare, download_config=config)
            said = ""
            while not build.done() and "Waiting for another build" not in said:
                time.sleep(0.01)
                said += capsys.readouterr().err
            assert not build.done()
            assert partial.exists()
        build.result()
    assert len(builder.as_data_source("train")) > 0


def test_records_that_another_build_by_tfds_made_meanwhile_are_used(tmp_path, monkeypatch):
    """Fault: of two builds started together the second does all again, and fails at the end."""
    builder, config = by_tfds(tmp_path), download_config(tmp_path)

    @contextlib.contextmanager
    def after_another(folder):
        monkeypatch.setattr(
            chest_xray_lungs_dataset_builder, "one_build_at_a_time", one_build_at_a_time
        )
        by_tfds(tmp_path).download_and_prepare(download_config=config)
        with one_build_at_a_time(folder):
            yield

    monkeypatch.setattr(chest_xray_lungs_dataset_builder, "one_build_at_a_time", after_another)
    builder.download_and_prepare(download_config=config)
    assert sum(len(builder.as_data_source(split)) for split in SPLITS) == len(KAGGLE_STEMS)
    assert verify(builder.data_path) == []


def test_records_name_no_path_of_this_machine(built):
    """A path as key makes the order of records differ from machine to machine."""
    folder = os.fspath(Path(os.fspath(built.data_path)).parents[3])
    for split in SPLITS:
        for record in built.as_data_source(split):
            texts = [value for value in record.values() if isinstance(value, bytes)]
            assert not any(folder.encode() in text for text in texts)


def test_order_is_the_same_in_another_folder(built, tmp_path):
    """Runs are compared across machines record by record."""
    write_kaggle(tmp_path / "elsewhere")
    again: Any = prepare(CONFIG, tmp_path / "data", tmp_path / "elsewhere")
    for split in SPLITS:
        assert [record["example_id"] for record in again.as_data_source(split)] == [
            record["example_id"] for record in built.as_data_source(split)
        ]


def test_a_shard_holds_as_many_images_as_its_size_allows(built, tmp_path, monkeypatch):
    """Fault: a shard of the whole split, which TFDS holds in memory, or a file a record."""
    monkeypatch.setattr(chest_xray_lungs_dataset_builder, "SHARD_BYTES", 4 * 2 * 32**2)
    write_kaggle(tmp_path / "raw")
    again: Any = prepare(CONFIG, tmp_path / "data", tmp_path / "raw")
    assert again.info.splits["train"].num_examples > 8
    for split in SPLITS:
        stored = again.info.splits[split]
        assert stored.num_shards == -(-stored.num_examples // 4)
        assert [record["example_id"] for record in again.as_data_source(split)] == [
            record["example_id"] for record in built.as_data_source(split)
        ]


TFDS_TEST = """
import tensorflow_datasets as tfds
from tfds_builder.chest_xray_lungs import chest_xray_lungs_dataset_builder as module


class LungsTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = module.Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ["kaggle_256", "kaggle_512"]
    EXAMPLE_DIR = {example_dir!r}
    SPLITS = {splits!r}

    def _make_builder(self, config=None):
        # Of `tf.data`, which reads no ArrayRecord.
        return module.Builder(data_dir=self.tmp_dir, config=config, file_format="tfrecord")


if __name__ == "__main__":
    tfds.testing.test_main()
"""

TFDS_WRITE = """
import sys
import tensorflow_datasets as tfds
from tfds_builder.chest_xray_lungs import chest_xray_lungs_dataset_builder as module

manual_dir, data_dir = sys.argv[1:]
config = module.LungsConfig(name="kaggle_32", source="kaggle", image_size=32)
builder = module.Builder(config=config, data_dir=data_dir, file_format="tfrecord")
builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
)
"""

TFDS_READ = """
import json
import sys
import tensorflow_datasets as tfds

function, name, data_dir = sys.argv[1:]
read = {}
for split, records in getattr(tfds, function)(name, data_dir=data_dir).items():
    for record in records if function == "data_source" else records.as_numpy_iterator():
        read[record["example_id"].decode()] = [
            split, int(record["image"].sum()), int(record["original_mask"].sum())
        ]
print(json.dumps(read))
"""


@pytest.mark.slow
def test_under_tensorflow(built, tmp_path):
    """TensorFlow's decoders, not ours, are what other users of the records have."""
    tree = write_kaggle(tmp_path / "raw")
    splits = {name: built.info.splits[name].num_examples for name in SPLITS}
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    requirements = tmp_path / "requirements.txt"
    # TFDS's test cases import dill, which it does not declare.
    requirements.write_text(setup["options"]["install_requires"] + "\ntensorflow\ndill\n")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", requirements], check=True)

    def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        path = tmp_path / "program.py"
        path.write_text(program)
        return subprocess.run(
            [python, path, *arguments],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    tested = run(
        TFDS_TEST.format(example_dir=os.fspath(tree), splits=splits), PYTHONPATH=str(REPOSITORY)
    )
    assert tested.returncode == 0, tested.stderr
    assert re.search(r"Ran \d+ tests", tested.stderr), tested.stderr
    # TFDS gives ArrayRecord to TensorFlow users by tfds.data_source, TFRecord by tfds.load.
    written = run(TFDS_WRITE, os.fspath(tree), os.fspath(tmp_path), PYTHONPATH=str(REPOSITORY))
    assert written.returncode == 0, written.stderr
    expected = {
        record["example_id"].decode(): [
            split,
            int(record["image"].sum()),
            int(record["original_mask"].sum()),
        ]
        for split in SPLITS
        for record in built.as_data_source(split)
    }
    # Without this repository: the folder of records is all there is.
    data_dir = Path(os.fspath(built.data_path)).parents[2]
    config = Path(os.fspath(built.data_path)).parent.name
    for function, folder, name in (
        ("data_source", data_dir, f"{built.name}/{config}"),
        ("load", tmp_path, f"{built.name}/kaggle_32"),
    ):
        loaded = run(TFDS_READ, function, name, os.fspath(folder))
        assert loaded.returncode == 0, loaded.stderr
        assert json.loads(loaded.stdout.splitlines()[-1]) == expected
