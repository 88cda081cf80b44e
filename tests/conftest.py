"""Eight virtual CPU devices, and array types checked at every call of the code under test."""

import os
import tempfile

# Read once, when JAX first looks for devices; processes that tests start inherit it.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

from jaxtyping import install_import_hook

install_import_hook(["lungseg_jax", "tfds_builder"], "beartype.beartype")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# How long an example takes depends on what else the machine does, and on what must be compiled.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    """Compiles a program once for all tests, their processes and the runs after this one.

    Where slow tests are left out, without most optimizations, which halves the time it takes.
    """
    if config.option.markexpr == "not slow":
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    cache = getattr(config, "cache", None)
    if cache is None:
        # Under `-p no:cacheprovider`.
        temporary = tempfile.TemporaryDirectory(prefix="xla-")
        config.add_cleanup(temporary.cleanup)
        folder = temporary.name
    else:
        folder = str(cache.mkdir("xla"))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture(scope="session")
def untrained():
    """A network that was not trained, with its program."""
    from lungseg_jax.prediction.segmenter import Segmenter
    from lungseg_jax.weights import Calibration
    from tests.untrained import untrained_weights

    return Segmenter(untrained_weights(Calibration(0.0)))


@pytest.fixture(scope="session")
def eight_devices() -> tuple:
    devices = jax.devices()
    assert len(devices) == 8, "tests need 8 virtual CPU devices; another module started JAX first"
    return tuple(devices)
