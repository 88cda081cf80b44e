"""The folder of a run: on which devices it is taken up again does not matter."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import jax
import pytest
from etils import epath

from lungseg_jax.checkpoint import Checkpoints
from lungseg_jax.config import Config
from lungseg_jax.data.records import are_same_records, identity, open_records
from lungseg_jax.errors import CheckpointError, ConfigError, DataError
from lungseg_jax.evaluate import evaluate
from lungseg_jax.log import Log
from lungseg_jax.parallel import all_devices
from lungseg_jax.paths import run_folder
from lungseg_jax.state import TrainState
from lungseg_jax.train import loop, started
from lungseg_jax.workdir import (
    check_free,
    check_same_config,
    check_still_there,
    claim,
    read_config,
    read_starts,
    record_start,
)
from tests.small import (
    assert_trees_close,
    small_config,
    small_config_with_data,
    write_small_data,
)
from tfds_builder.chest_xray_lungs.chest_xray_lungs_dataset_builder import Builder

# Differences between orders of summation, through two steps of an optimizer.
ROUNDING = {"rtol": 2e-4, "atol": 5e-5}


def train_on(config: Config, workdir: epath.Path, until: int) -> TrainState:
    """Takes the run in a folder up, on to a step, and returns its state there."""
    parallel = all_devices(
        config.parallel, config.space_shards, shard_optimizer=config.shard_optimizer
    )
    with started(config, parallel, workdir) as run, Log(workdir, first_step=1) as log:
        assert not loop(run, log, lambda step: step == until)
    return jax.device_get(run.state)


def test_a_stop_during_the_last_validation_is_a_stop(tmp_path):
    """Fault: a machine that is taken away during the final evaluation, of which nothing stays."""
    config = small_config_with_data(tmp_path, parallel="mesh", num_steps=2)
    state = train_on(config, epath.Path(tmp_path / "run"), until=2)
    assert int(state.step) == 2
    # Saved, so that the same command only evaluates.
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", None, all_devices("mesh"))
    assert checkpoints.latest_step() == 2
    checkpoints.close()


def test_a_run_spread_over_devices_goes_on_without(tmp_path, capfd):
    """Fault: a run of many devices refused on one, or taken up with another optimizer's state."""
    tmp_path = epath.Path(tmp_path)
    whole = small_config_with_data(Path(tmp_path), parallel="mesh")
    spread = dataclasses.replace(whole, space_shards=2, shard_optimizer=True)
    train_on(spread, tmp_path / "run", until=3)
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    expected = train_on(spread, tmp_path / "run", until=5)
    capfd.readouterr()
    found = train_on(whole, tmp_path / "again", until=5)
    assert "Resuming after step 3" in capfd.readouterr().err
    assert_trees_close(found, expected, **ROUNDING)
    # Fault: a resumption that hides with what the first part was computed.
    begun, resumed = read_starts(tmp_path / "again")
    assert (begun["step"], resumed["step"]) == (0, 3)
    assert (begun["space_shards"], resumed["space_shards"]) == (2, 1)
    assert (begun["shard_optimizer"], resumed["shard_optimizer"]) == (True, False)
    # Fault: a run resumed with other keys whose file still says the first ones.
    assert read_config(epath.Path(tmp_path / "again")) == whole


def test_a_run_goes_on_with_copies_of_its_images_and_with_no_others(tmp_path):
    """Fault: a run lost because its data were moved, or trained on with other references."""
    config = small_config_with_data(tmp_path, parallel="mesh")
    workdir = epath.Path(tmp_path / "run")
    train_on(config, workdir, until=3)
    images = tmp_path / "moved"
    shutil.copytree(tmp_path / "archive", images, copy_function=shutil.copyfile)
    data = dataclasses.replace(config.data, manual_dir=str(images))
    moved = dataclasses.replace(config, data=data)
    assert open_records(moved)["train"].name != open_records(config)["train"].name
    assert int(train_on(moved, workdir, until=4).step) == 4
    # Every third image is of one size.
    first, _, _, other, *_ = sorted((images / "masks").iterdir())
    image = cv2.imread(str(first), cv2.IMREAD_UNCHANGED)
    assert image is not None
    cv2.imwrite(str(other), image[::-1])
    with pytest.raises(CheckpointError, match="with other content"):
        train_on(moved, workdir, until=5)
    # Fault: figures against references that the network was not meant for, or of images it knows.
    with pytest.raises(CheckpointError, match="with other content"):
        evaluate(moved, workdir)


def test_a_run_that_does_not_go_on_keeps_its_configuration(tmp_path):
    """Fault: a run lost to the version that trained it, by keys which that one does not know."""
    config = small_config_with_data(tmp_path, parallel="mesh")
    workdir = epath.Path(tmp_path / "run")
    train_on(config, workdir, until=2)
    path = workdir / "config.json"
    keys = json.loads(path.read_text())
    del keys["data"]["sex_and_age"]
    path.write_text(json.dumps(keys))
    first = min((tmp_path / "archive" / "masks").iterdir())
    image = cv2.imread(str(first), cv2.IMREAD_UNCHANGED)
    assert image is not None
    cv2.imwrite(str(first), image[::-1])
    with pytest.raises(CheckpointError, match="with other content"):
        train_on(config, workdir, until=3)
    assert json.loads(path.read_text()) == keys


def test_a_run_goes_on_under_another_key_of_patients(tmp_path):
    """Fault: weights that nobody else can evaluate, for the key of patients is not shared."""
    images = write_small_data(tmp_path / "archive")
    stems = sorted(path.stem for path in (images / "CXR_png").iterdir())
    rows = [f"CXR_png/{stem}.png,masks/{stem}.png,P{stem}" for stem in stems]
    (images / "pairs.csv").write_text("\n".join(["image,mask,patient", *rows]) + "\n")
    config = small_config(
        parallel="mesh",
        data__source="folder",
        data__manual_dir=str(images),
        data__data_dir=str(tmp_path / "records"),
    )
    workdir = epath.Path(tmp_path / "run")
    train_on(config, workdir, until=2)
    shutil.copytree(images, tmp_path / "copied", copy_function=shutil.copyfile)
    folders = {"manual_dir": str(tmp_path / "copied"), "data_dir": str(tmp_path / "others")}
    elsewhere = dataclasses.replace(config, data=dataclasses.replace(config.data, **folders))
    ours, theirs = (identity(open_records(one)) for one in (config, elsewhere))
    assert [key for key in ours if ours[key] == theirs[key]] == ["images"]
    assert int(train_on(elsewhere, workdir, until=3).step) == 3
    evaluate(elsewhere, workdir)
    # Fault: another data set's figures taken for the same one's.
    assert {start["images"] for start in read_starts(workdir)} == {ours["images"].split()[1]}
    assert {start["builder"] for start in read_starts(workdir)} == {str(Builder.VERSION)}
    # Fault: records that another version made otherwise of the same files.
    version, files = theirs["images"].split()
    assert version == str(Builder.VERSION)
    assert not are_same_records({"images": f"0.{version} {files}"}, open_records(elsewhere))


def test_a_disk_that_is_gone_is_asked_for(tmp_path):
    """Fault: a run trained again from nothing, all of which is on a disk that was unplugged."""
    with pytest.raises(DataError, match="bring the disk back, then resume"):
        check_still_there(epath.Path(tmp_path))


def test_another_configuration_is_refused_before_anything_is_built(tmp_path):
    """Fault: an archive converted at another size before the mistyped key is told."""
    config = small_config_with_data(tmp_path, parallel="mesh")
    workdir = epath.Path(tmp_path / "run")
    train_on(config, workdir, until=2)
    before = sorted((tmp_path / "records").rglob("*"))
    data = dataclasses.replace(config.data, image_size=64)
    with pytest.raises(ConfigError, match=r"data.image_size: is 64, but the run"):
        train_on(dataclasses.replace(config, data=data), workdir, until=3)
    assert sorted((tmp_path / "records").rglob("*")) == before


def test_figures_of_a_run_stay_its_own_without_its_checkpoints(tmp_path):
    """Fault: figures of one network beside another's configuration, once disk space was saved."""
    config = small_config_with_data(tmp_path, parallel="mesh", num_steps=2)
    workdir = epath.Path(tmp_path / "run")
    train_on(config, workdir, until=2)
    (workdir / "metrics.json").write_text("{}")
    shutil.rmtree(workdir / "checkpoints")
    wider = dataclasses.replace(config, model=dataclasses.replace(config.model, width=8))
    with pytest.raises(ConfigError, match=r"model\.width: is 8, but the run"):
        train_on(wider, workdir, until=1)
    # The same run may begin again, and then has no figures before it has made its own.
    train_on(config, workdir, until=1)
    assert not (workdir / "metrics.json").exists()


def test_a_home_is_one_from_python_too(tmp_path, monkeypatch):
    """Fault: a run in a folder called ~, which a person will one day remove."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder("~/run") == epath.Path(tmp_path / "run")


@pytest.mark.parametrize("address", ["s3://bucket/run", "http://host/run"])
def test_an_address_that_is_no_folder_is_refused(address):
    """Fault: a traceback of another library, or a folder called s3: below the current one."""
    with pytest.raises(ConfigError, match="is no folder; give a path, or gs://BUCKET/FOLDER"):
        run_folder(address)


@pytest.mark.parametrize("content", ["", "[{", '{"step": 1}', '[1, "a"]'])
def test_a_damaged_environment_file_stops_nothing(tmp_path, content: str, capfd):
    """Fault: a run that cannot go on for a file that it does not need; another type unsaid."""
    workdir = epath.Path(tmp_path)
    (workdir / "environment.json").write_text(content)
    made_from = {"images": None, "builder": "2.2.1"}
    record_start(workdir, small_config(), {}, **made_from, dtype="float32", step=3)
    assert "Computing in" not in capfd.readouterr().err
    record_start(workdir, small_config(), {}, **made_from, dtype="bfloat16", step=5)
    assert "Computing in bfloat16; until now the run used float32" in capfd.readouterr().err
    # Fault: a type compared with that of the run's first start, and reported at each one after.
    record_start(workdir, small_config(), {}, **made_from, dtype="bfloat16", step=7)
    assert "Computing in" not in capfd.readouterr().err
    assert [start["step"] for start in read_starts(workdir)] == [3, 5, 7]


def test_keys_that_do_not_change_the_weights_may_differ(tmp_path):
    """Fault: a run refused for how its file of splits is named; a free key that is not."""
    workdir = epath.Path(tmp_path)
    claimed, renamed = (
        dataclasses.replace(Config(), data=dataclasses.replace(Config().data, splits=name))
        for name in ("my splits.json", "./splits.json")
    )
    claim(workdir, claimed)
    check_same_config(workdir, renamed)
    # Fault: records built anew, for hours, for an evaluation whose command lacks the file.
    with pytest.raises(ConfigError, match=r"pass .--config\.data\.splits=my splits\.json. or"):
        check_same_config(workdir, Config())
    claim(workdir, Config())
    with pytest.raises(ConfigError, match="seed: is 1, but the run"):
        check_same_config(workdir, dataclasses.replace(Config(), seed=1))
    # Fault: differences told one at a time, so that a command is mended as often as it has keys.
    other = dataclasses.replace(Config(), num_steps=3, batch_size=8)
    message = r"num_steps differs too; pass --config.batch_size=16 --config.num_steps=200 or"
    with pytest.raises(ConfigError, match=message):
        check_same_config(workdir, other)


def test_a_run_from_before_a_key_existed_has_its_default(tmp_path):
    """Fault: a KeyError for every run of an earlier version."""
    workdir = epath.Path(tmp_path)
    saved = dataclasses.asdict(Config())
    del saved["trimmed_share"], saved["optimizer"]["ema_decay"]
    (workdir / "config.json").write_text(json.dumps(saved))
    check_same_config(workdir, Config())
    with pytest.raises(ConfigError, match=r"trimmed_share: is 0\.25, but the run"):
        check_same_config(workdir, dataclasses.replace(Config(), trimmed_share=0.25))


def test_checkpoints_without_a_configuration_are_no_free_folder(tmp_path):
    """Fault: a run called none, or its checkpoints taken over by another configuration."""
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match=r"has checkpoints, but no config\.json; give another"):
        check_free(epath.Path(tmp_path), Config())


# What a resumption may change: rounding, places, what is kept and what is measured beside training.
FREE = {
    "parallel", "distributed", "space_shards", "shard_optimizer", "keep_checkpoints", "profile",
    "data.data_dir", "data.manual_dir", "data.max_bad_share", "data.resident",
    "evaluation.batch_size", "evaluation.every", "evaluation.tolerance_mm",
    "evaluation.tolerance_px", "model.remat",
    "benchmark.data", "benchmark.steps", "benchmark.warmup_steps",
}  # fmt: skip


def test_every_other_key_is_the_runs_own(tmp_path):
    """Fault: a run that goes on with another weight decay or seed, as if that changed nothing."""
    workdir = epath.Path(tmp_path)
    saved = dataclasses.asdict(Config())
    parts = {"": saved} | {f"{key}.": part for key, part in saved.items() if isinstance(part, dict)}
    accepted = set()
    for prefix, part in parts.items():
        for key in [key for key, value in part.items() if not isinstance(value, dict)]:
            before, part[key] = part[key], "another"
            (workdir / "config.json").write_text(json.dumps(saved))
            part[key] = before
            with contextlib.suppress(ConfigError):
                check_same_config(workdir, Config())
                accepted.add(prefix + key)
    assert accepted == FREE
