"""Eight virtual CPU devices, and array types checked at every call of the code under test."""

import os

# Read once, when JAX first looks for devices; processes that tests start inherit it.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

from jaxtyping import install_import_hook

install_import_hook(["lungseg_jax", "tfds_builder"], "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(scope="session")
def eight_devices() -> tuple:
    devices = jax.devices()
    assert len(devices) == 8, "tests need 8 virtual CPU devices; another module started JAX first"
    return tuple(devices)
