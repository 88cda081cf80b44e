"""Which folder compiled programs are kept in, and which are kept."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lungseg_jax.runtime.compilation_cache import use_compilation_cache

KEY = "jax_compilation_cache_dir"


@pytest.fixture
def not_chosen(monkeypatch):
    before = getattr(jax.config, KEY)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    jax.config.update(KEY, None)
    yield
    jax.config.update(KEY, before)


@pytest.mark.usefixtures("not_chosen")
def test_default_folder_is_in_the_users_cache(monkeypatch, tmp_path):
    """Fault: every start compiles anew, or a folder named `~` in the working directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    use_compilation_cache()
    assert getattr(jax.config, KEY) == str(tmp_path / ".cache" / "lungseg_jax" / "xla")


@pytest.mark.usefixtures("not_chosen")
def test_users_choice_stands(monkeypatch):
    """Fault: a folder, or none, that the user chose, overruled."""
    jax.config.update(KEY, "chosen")
    use_compilation_cache()
    assert getattr(jax.config, KEY) == "chosen"
    jax.config.update(KEY, None)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    use_compilation_cache()
    assert getattr(jax.config, KEY) is None


@pytest.mark.parametrize(("least_seconds", "kept"), [(None, True), ("1000", False)])
def test_programs_that_compile_fast_are_kept(tmp_path, least_seconds: str | None, kept: bool):
    """Fault: a command that compiles for a second compiles in each start, or a limit overruled."""
    program = (
        "import jax; from lungseg_jax.runtime.compilation_cache import use_compilation_cache;"
        "use_compilation_cache(); jax.jit(lambda x: x * 2 + 1)(jax.numpy.ones(3))"
    )
    variables = {name: text for name, text in os.environ.items() if not name.startswith("JAX_")}
    variables |= {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    if least_seconds is not None:
        variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = least_seconds
    subprocess.run([sys.executable, "-c", program], check=True, env=variables)
    assert any("lambda" in path.name for path in tmp_path.iterdir()) == kept


@pytest.mark.usefixtures("not_chosen")
def test_without_a_home_there_is_no_cache(monkeypatch):
    """Fault: a prediction that fails for want of a cache, in a container without such a user."""

    def fail(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", fail)
    use_compilation_cache()
    assert getattr(jax.config, KEY) is None


@pytest.mark.usefixtures("not_chosen")
def test_a_home_that_is_no_folder_holds_no_cache(monkeypatch, tmp_path):
    """Fault: a warning of JAX's at every program that it compiles."""
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    use_compilation_cache()
    assert getattr(jax.config, KEY) is None
