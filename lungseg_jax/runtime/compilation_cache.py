"""Compiled programs kept on disk, so that a second run starts without compiling."""

import os
from pathlib import Path

import jax

FOLDER = "~/.cache/lungseg_jax/xla"


def use_compilation_cache() -> None:
    """Keeps programs in `FOLDER`, unless `JAX_COMPILATION_CACHE_DIR` or JAX's configuration is set.

    JAX looks programs up by code, compiler options, versions and devices, and deletes none: the
    folder may be removed at any time. `JAX_ENABLE_COMPILATION_CACHE=false` switches the cache off.
    Programs that compile fast are kept too, unless JAX's own variable says otherwise: prediction
    waits for some that take less than a second.
    """
    chosen = jax.config.jax_compilation_cache_dir is not None  # type: ignore[attr-defined]
    if not chosen and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path(FOLDER).expanduser()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
