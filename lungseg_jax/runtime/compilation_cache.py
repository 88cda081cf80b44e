"""Compiled programs kept on disk, so that a second run starts without compiling."""

import contextlib
import os
from pathlib import Path

import jax

FOLDER = "~/.cache/lungseg_jax/xla"


def use_compilation_cache() -> None:
    """Keeps programs in `FOLDER`, unless `JAX_COMPILATION_CACHE_DIR` or JAX's configuration is set.

    JAX looks programs up by code, compiler options, versions and devices, and deletes none: the
    folder may be removed at any time. `JAX_ENABLE_COMPILATION_CACHE=false` switches the cache off.
    Programs that compile fast are kept too, unless JAX's own variable says otherwise: prediction
    waits for some that take less than a second. Without a home directory that can be written to
    there is no cache.
    """
    chosen = jax.config.jax_compilation_cache_dir is not None  # type: ignore[attr-defined]
    is_on = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    if is_on and not chosen and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", _folder())
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _folder() -> str | None:
    """Returns the folder, which is made if need be; `None` if it cannot be written to."""
    # RuntimeError: there is no home directory.
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(FOLDER).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return str(folder)
    return None
