"""Weights in a file: whole or refused, and of no machine."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from lungseg_jax.config import DataConfig
from lungseg_jax.errors import CheckpointError
from lungseg_jax.network import make_model, split_model
from lungseg_jax.weights import Calibration, Weights, load_weights, save_weights
from tests.small import small_config

CONFIG = small_config(data__source="kaggle", data__manual_dir="/home/roe/images")


@pytest.fixture
def saved(tmp_path) -> tuple[Weights, Path]:
    _, *variables = split_model(make_model(CONFIG))
    weights = Weights(CONFIG, tuple(jax.device_get(variables)), Calibration(0.45, -9.0, 1.05))
    save_weights(tmp_path / "net.safetensors", weights)
    return weights, tmp_path / "net.safetensors"


def sign(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")


def test_what_is_loaded_is_what_was_saved(saved):
    """Fault: arrays under another's name, transposed, or of a precision that shows."""
    weights, path = saved
    loaded = load_weights(path)
    assert loaded.calibration == weights.calibration
    assert loaded.config.model == CONFIG.model
    assert loaded.config.data.image_size == CONFIG.data.image_size
    assert jax.tree.structure(loaded.variables) == jax.tree.structure(weights.variables)
    for new, old in zip(*map(jax.tree.leaves, (loaded.variables, weights.variables)), strict=True):
        assert new.dtype == np.float32
        np.testing.assert_allclose(new, old, rtol=1e-3, atol=1e-7)


def test_a_tilde_is_the_home_folder(saved, tmp_path, monkeypatch):
    """Fault: weights saved from Python into a folder that is called ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save_weights("~/other.safetensors", saved[0])
    assert (tmp_path / "other.safetensors").exists()
    assert load_weights("~/other.safetensors").calibration == saved[0].calibration


def test_a_name_that_cannot_be_loaded_is_not_saved(saved, tmp_path):
    """Fault: weights of hours of training in a file that the package refuses to read."""
    with pytest.raises(CheckpointError, match=r"net\.weights: .*end it in \.safetensors"):
        save_weights(tmp_path / "net.weights", saved[0])
    assert not (tmp_path / "net.weights").exists()


def test_weights_are_shown_without_their_numbers_and_may_be_keys(saved):
    """Fault: a notebook's cell that prints 200 kB; `in` and `set` that end in NumPy's errors."""
    weights, path = saved
    assert "array" not in repr(weights)
    assert load_weights(path) not in {weights}
    assert weights in [load_weights(path), weights]


def test_scales_and_statistics_are_saved_whole(saved):
    """Fault: a running variance beyond the range of half precision, so that all masks are empty."""
    weights, path = saved
    # Neither within that range nor exact in it.
    variables = jax.tree.map(
        lambda x: np.full_like(x, 1e5 + 1 / 3) if x.ndim == 1 else x, weights.variables
    )
    assert {x.ndim for x in jax.tree.leaves(variables[1])} == {1}
    save_weights(path, dataclasses.replace(weights, variables=variables))
    loaded = load_weights(path).variables
    for new, old in zip(*map(jax.tree.leaves, (loaded, variables)), strict=True):
        if old.ndim == 1:
            np.testing.assert_array_equal(new, old)


def test_the_same_weights_have_the_same_checksum(saved, tmp_path):
    """Fault: an order of the header that differs each time, by which no file can be made again."""
    weights, path = saved
    again = tmp_path / "again.safetensors"
    for _ in range(8):
        save_weights(again, weights)
        assert again.read_bytes() == path.read_bytes()


def test_no_path_of_the_machine_is_passed_on(saved):
    """Fault: the folder of a hospital's images in a file that is published."""
    assert b"roe" not in saved[1].read_bytes()
    assert load_weights(saved[1]).config.data == DataConfig(image_size=CONFIG.data.image_size)


def test_one_changed_bit_is_noticed(saved):
    """Fault: a damaged download that segments slightly wrong."""
    content = bytearray(saved[1].read_bytes())
    content[-1] ^= 1
    saved[1].write_bytes(content)
    with pytest.raises(CheckpointError, match=r"does not match .* net\.safetensors\.sha256"):
        load_weights(saved[1])


def test_a_checksum_that_is_no_text_is_noticed(saved):
    """Fault: a traceback of the decoder where the two files were exchanged."""
    saved[1].with_name("net.safetensors.sha256").write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(CheckpointError, match=r"does not match .* net\.safetensors\.sha256"):
        load_weights(saved[1])


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"\xff" * 64])
def test_files_that_are_no_weights_are_refused(saved, content: bytes):
    """Fault: a pickle that is run, or a traceback of the parser."""
    saved[1].write_bytes(content)
    sign(saved[1])
    with pytest.raises(CheckpointError, match="holds no weights of this package"):
        load_weights(saved[1])


@pytest.mark.parametrize(
    "calibration",
    [
        (0.4, 1.47, -0.46),
        (2.0, -5.0, 1.0),
        (math.nan,),
        (0.0,),
        (1.0,),
        (0.4, -5.0, math.inf),
        *((0.4, -5.0, 1.0, margin) for margin in (-0.1, 2.0, math.nan)),
    ],
)
def test_a_calibration_out_of_range_is_refused(saved, calibration: tuple):
    """Fault: masks that are all or nothing, or estimates that are no numbers."""
    weights, path = saved
    save_weights(path, dataclasses.replace(weights, calibration=Calibration(*calibration)))
    with pytest.raises(CheckpointError, match="holds no weights of this package"):
        load_weights(path)


def test_weights_of_a_newer_version_are_called_that(saved):
    """Fault: a whole file that is fetched again and again, because it is said to be no weights."""
    content = saved[1].read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    config = json.loads(header["__metadata__"]["config"])
    config["model"]["attention"] = True
    header["__metadata__"]["config"] = json.dumps(config)
    longer = json.dumps(header).encode()
    saved[1].write_bytes(len(longer).to_bytes(8, "little") + longer + content[8 + length :])
    sign(saved[1])
    with pytest.raises(CheckpointError, match=r"model\.attention.*use the one that exported it"):
        load_weights(saved[1])


@pytest.mark.parametrize("absent", ["net.safetensors", "net.safetensors.sha256"])
def test_absent_files_are_named(saved, absent: str):
    """Fault: weights used without their checksum, or a file called absent that is there."""
    saved[1].with_name(absent).unlink()
    with pytest.raises(CheckpointError, match=f"/{absent}: No such file"):
        load_weights(saved[1])


def test_arrays_of_another_network_are_refused(saved):
    """Fault: a network of half the width filled by whatever fits."""
    weights, path = saved
    other = dataclasses.replace(CONFIG.model, width=2 * CONFIG.model.width)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = json.loads(content[8 : 8 + length])["__metadata__"]
    text["config"] = json.dumps({"model": dataclasses.asdict(other)})
    path.write_bytes(safetensors.numpy.save(safetensors.numpy.load(content), text))
    sign(path)
    with pytest.raises(CheckpointError, match="holds arrays of another network"):
        load_weights(path)
    assert weights.config is CONFIG
