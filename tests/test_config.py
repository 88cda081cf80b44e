"""The configuration's rules."""

import json
import subprocess
import sys

import ml_collections
import pytest

from lungseg_jax.config import (
    Config,
    default_config,
    from_json,
    num_trimmed,
    resolve,
    to_json,
)
from lungseg_jax.errors import ConfigError
from tests.small import REPOSITORY, small_config


def test_defaults_resolve_to_themselves():
    """Fault: a default that breaks its own rule or changes its type on the way."""
    assert resolve(default_config()) == Config()
    assert json.loads(to_json(Config())) == default_config().to_dict()


def test_unknown_key_is_named_with_its_neighbours():
    """Fault: a typing error in a config file that is silently ignored."""
    config = ml_collections.ConfigDict({"model": {"widht": 3}})
    with pytest.raises(ConfigError, match=r"model\.widht: unknown key; one of .*width"):
        resolve(config)


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("num_steps", "many", "type int"),
        ("num_steps", True, "type int"),
        ("data.flip", 1, "unknown key"),
        ("augment.flip", 1, "type bool"),
        ("parallel", "threads", "pmap, mesh"),
        ("data.resident", "yes", "auto, true, false"),
        ("data.labels", "both", "lungs, left_right"),
        ("batch_size", 0, "at least 1"),
        ("optimizer.learning_rate", -1.0, "at least 0"),
        ("optimizer.learning_rate", float("nan"), "finite"),
        ("optimizer.clip_norm", float("inf"), "finite"),
        ("model.depth", 20, "at most 7"),
        ("optimizer.ema_decay", 1.0, r"\[0, 1\)"),
        ("optimizer.clip_norm", 0.0, "> 0"),
        ("augment.scale", 1.5, "below 1"),
        ("augment.rotation_degrees", 90.0, "at most 60"),
        ("data.max_bad_share", 1.5, r"\[0, 1\]"),
        ("trimmed_share", 1.0, r"\[0, 1\)"),
        ("trimmed_share", 0.05, "less than one of 16 images"),
        ("data.max_megapixels", 0.0, "> 0"),
        ("data.image_size", 250, "multiple of .* 32 up to 8192, such as 256"),
        ("data.image_size", 10**6, "such as 8192"),
        ("data.num_phantoms", 3, "at least 10"),
        ("fold", 5, "0 to 4"),
        ("seed", 2**32, "at most 4294967295"),
        ("augment.blur", 200.0, "at most 10"),
        ("augment.shift", 2.0, "at most 1"),
        ("augment.gamma", 1e30, "at most 3"),
        ("batch_size", 10**12, "at most 1048576"),
        ("data.max_megapixels", 1e300, "at most 512"),
        # Fault: records, and the key of patients, in whatever folder is the current one.
        ("data.data_dir", "", "is empty; give a folder"),
        # Fault: a run on phantoms that is mistaken for one on the images that the command names.
        ("data.manual_dir", "archive", "give its data.source, such as kaggle"),
        ("data.masks", "m/{stem}*", "needs data.source=folder"),
        # Fault: a folder called gs: below the current one.
        ("data.data_dir", "gs://bucket/records", "which is not on disk; copy it there"),
    ],
)
def test_impossible_value_names_key_and_remedy(key, value, remedy):
    """Fault: an impossible value that fails minutes later, far from its cause."""
    group, _, name = key.rpartition(".")
    given = {group: {name: value}} if group else {name: value}
    with pytest.raises(ConfigError, match=remedy) as caught:
        resolve(ml_collections.ConfigDict(given))
    assert key in str(caught.value)


@pytest.mark.parametrize("value", [None, 0, "", [], (1,), "unet"])
def test_a_group_that_is_none_is_named(value):
    """Fault: a traceback for a config file that sets a group to a value."""
    with pytest.raises(ConfigError, match=r"^model: is .*; give a group of keys"):
        from_json(json.dumps({"model": value}))


def test_json_that_holds_no_keys_is_no_configuration():
    """Fault: a damaged file taken for one that states the defaults."""
    with pytest.raises(ValueError, match="a list instead of keys"):
        from_json("[]")


# Where array types are checked at each call, as in these tests, so are those of a configuration.
MISTAKES = """
from lungseg_jax.config import Config, DataConfig
from lungseg_jax.errors import ConfigError
for group, changes in (
    (Config, {"parallel": "fsdp"}), (Config, {"batch_size": 8.5}), (Config, {"batch_size": "8"}),
    (DataConfig, {"labels": "heart"}), (DataConfig, {"resident": True}),
    (Config, {"data": {"source": "kaggle"}}), (Config, {"trimmed_share": 0}),
):
    try:
        made = group(**changes)
        Config(data=made) if group is DataConfig else made
        print("taken")
    except ConfigError as error:
        print(error)
"""


def test_what_python_code_gives_is_checked_too():
    """Fault: a kind of parallelism that is none, taken for the other one; a traceback later on."""
    command = [sys.executable, "-c", MISTAKES]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert said.stdout.splitlines() == [
        "parallel: is 'fsdp'; one of pmap, mesh",
        "batch_size: is 8.5; give a value of type int",
        "batch_size: is '8'; give a value of type int",
        "data.labels: is 'heart'; one of lungs, left_right",
        "data.resident: is True; write it as 'true'",
        "data: is {'source': 'kaggle'}; give a value of type DataConfig",
        "taken",
    ]


def test_bool_on_the_command_line_means_the_word():
    """Fault: `--config.data.resident=true` parsed as a bool and refused."""
    assert resolve(ml_collections.ConfigDict({"data": {"resident": True}})).data.resident == "true"


def test_whole_number_serves_as_float():
    """Fault: `--config.optimizer.weight_decay=0` refused."""
    config = resolve(ml_collections.ConfigDict({"optimizer": {"weight_decay": 0}}))
    assert isinstance(config.optimizer.weight_decay, float)


def test_group_norm_needs_groups():
    """Fault: an error from deep inside the model."""
    with pytest.raises(ConfigError, match="multiples of 8"):
        small_config(model__norm="group", model__width=12)


def test_rows_that_do_not_divide_show_the_arithmetic():
    """Fault: a sharding error from inside XLA."""
    with pytest.raises(ConfigError, match=r"space_shards = 48 up to .* such as 48"):
        small_config(parallel="mesh", space_shards=12)


def test_a_shear_may_not_turn_columns_flat():
    """Fault: a rotation and a shear, each allowed, that a TPU's resampling divides by zero for."""
    with pytest.raises(ConfigError, match=r"^augment\.rotation_degrees: .*at most 60"):
        small_config(augment__rotation_degrees=30.0, augment__shear=1.0)


@pytest.mark.parametrize("change", [{"space_shards": 2}, {"shard_optimizer": True}])
def test_what_only_a_mesh_can_do_is_refused_elsewhere(change):
    """Fault: a key without effect."""
    with pytest.raises(ConfigError, match="needs parallel=mesh"):
        small_config(parallel="pmap", **change)


def test_a_fold_of_a_split_file_is_refused():
    """Fault: one of the two silently ignored, and five runs tested on the same images."""
    with pytest.raises(ConfigError, match=r"^fold: is 0, but data\.splits"):
        resolve(ml_collections.ConfigDict({"fold": 0, "data": {"splits": "a.json"}}))


def test_shares_of_a_batch_are_whole_images():
    """Fault: 29 % of 100 images are 28.999… in binary, and so 28."""
    for count in range(1, 200):
        assert [num_trimmed(n / count, count) for n in range(count)] == list(range(count))
    assert num_trimmed(0.29, 100) == 29
    assert num_trimmed(0.99, 1) == 0
