"""The README against what it speaks of."""

import re

import pytest

from benchmarks.readme_tables import with_tables
from lungseg_jax.config import default_config
from tests.small import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_tables_are_those_of_the_result_files():
    """Fault: figures in the README that no committed measurement has."""
    assert with_tables(README) == README


def test_every_key_exists():
    """Fault: a command copied from the README that is refused."""
    keys = set(re.findall(r"--config\.([a-z_.]+)=", README))
    assert len(keys) > 8
    flat = {key.lower() for key in _flat(default_config().to_dict())}
    assert keys <= flat


PATHS = r"(?:configs|benchmarks|docs|examples|lungseg_jax)/[\w/]+\.(?:py|md|json|svg|ipynb)"


@pytest.mark.parametrize("path", sorted(set(re.findall(PATHS, README))))
def test_every_file_exists(path):
    """Fault: a renamed file or a missing picture."""
    assert (REPOSITORY / path).is_file()


def _flat(tree: dict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return keys
