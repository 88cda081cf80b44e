"""Devices on the cores of a CPU."""

import subprocess
import sys

import jax
import pytest

from lungseg_jax.runtime.cpu_devices import devices_for, use_all_cores
from tests.small import small_config

SHOW = """
import jax, sys
from lungseg_jax.config import Config
from lungseg_jax.runtime.cores import usable_cores
from lungseg_jax.runtime.cpu_devices import use_all_cores
# Divides by any number up to 8.
use_all_cores(Config(batch_size=840))
print(jax.device_count(), min(8, usable_cores()))
"""


@pytest.mark.parametrize(
    ("cores", "batch_size", "accumulation_steps", "devices"),
    [(1, 8, 1, 1), (2, 8, 1, 2), (6, 16, 1, 4), (12, 16, 1, 8), (4, 8, 4, 2), (4, 7, 1, 1)],
)
def test_a_batch_divides_over_the_devices(cores, batch_size, accumulation_steps, devices):
    """Fault: a laptop of six cores that cannot train the default batch."""
    config = small_config(batch_size=batch_size, accumulation_steps=accumulation_steps)
    assert devices_for(config, cores) == devices


@pytest.mark.parametrize(("batch_size", "told"), [(7, True), (8, False)])
def test_cores_that_a_batch_leaves_idle_are_told(monkeypatch, capsys, batch_size, told):
    """Fault: a run of half the speed for an image more in a batch, without a word."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr("lungseg_jax.runtime.cpu_devices.usable_cores", lambda: 4)
    # Devices are found already: nothing is changed.
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    use_all_cores(small_config(batch_size=batch_size))
    assert ("do not divide over this machine's 4 cores" in capsys.readouterr().err) == told


def test_rows_that_are_spread_find_their_devices():
    """Fault: rows spread over three devices, of which there are four."""
    config = small_config(parallel="mesh", space_shards=3, data__image_size=48, batch_size=1)
    assert devices_for(config, 4) == 3


@pytest.mark.parametrize(("found", "told"), [(2, True), (4, False)])
def test_idle_cores_are_told_only_where_there_are_some(monkeypatch, capsys, found, told):
    """Fault: a machine all of whose cores compute is said to be slow."""

    def refuse(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr("lungseg_jax.runtime.cpu_devices.usable_cores", lambda: 4)
    monkeypatch.setattr(jax.config, "update", refuse)
    monkeypatch.setattr(jax, "local_device_count", lambda: found)
    use_all_cores(small_config(batch_size=8))
    assert ("JAX is already in use" in capsys.readouterr().err) == told


def test_devices_that_are_in_use_are_kept(monkeypatch):
    """Fault: training in a notebook that has segmented an image ends in an error of JAX's."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    used = SHOW.replace("# Divides", "jax.devices(); usable_cores = lambda: 2\n# Divides")
    patch = "import lungseg_jax.runtime.cpu_devices as m; m.usable_cores = lambda: 2\n"
    found = subprocess.run(
        [sys.executable, "-c", patch + used], check=True, capture_output=True, text=True
    )
    assert found.stdout.split() == ["1", "2"]
    assert "JAX is already in use with 1 of this machine's 2 cores" in found.stderr


@pytest.mark.parametrize(
    ("variable", "value", "chosen"),
    [
        ("XLA_FLAGS", "", None),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=3", 3),
        ("JAX_NUM_CPU_DEVICES", "3", 3),
    ],
)
def test_every_core_is_a_device_unless_the_user_says_otherwise(
    monkeypatch, variable, value, chosen
):
    """Fault: a core that idles, or a number of devices that the user chose overruled."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv(variable, value)
    found = subprocess.run([sys.executable, "-c", SHOW], check=True, capture_output=True, text=True)
    devices, cores = map(int, found.stdout.split())
    assert devices == (chosen or cores)
