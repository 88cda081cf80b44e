"""Imports point one way."""

import ast
import graphlib
from pathlib import Path

import pytest

from tests.small import REPOSITORY

PACKAGES = ("lungseg_jax", "tfds_builder")

# What a part may import of the two packages: itself, and what stands below it.
BELOW = {
    "lungseg_jax.models": ("runtime",),
    "lungseg_jax.imaging": ("errors", "config"),
    "tfds_builder": ("errors", "config", "imaging", "runtime", "terminal", "command"),
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for name in PACKAGES for path in (REPOSITORY / name).rglob("*.py")}


def imported_by(path: Path) -> set[str]:
    """The modules of ours that one imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found & MODULES.keys()


GRAPH = {name: imported_by(path) - {name} for name, path in MODULES.items()}


def test_no_module_imports_itself_through_others():
    """Fault: two modules that can only be understood, and loaded, together."""
    assert sum(map(len, GRAPH.values())) > 200
    list(graphlib.TopologicalSorter(GRAPH).static_order())


@pytest.mark.parametrize("part", BELOW)
def test_a_part_imports_what_stands_below_it(part):
    """Fault: training code that has to be installed to read an image or to build records."""
    allowed = tuple(f"{name}." for name in (part, *(f"lungseg_jax.{x}" for x in BELOW[part])))
    inside = [name for name in GRAPH if f"{name}.".startswith(f"{part}.")]
    assert len(inside) > 3
    for name in inside:
        others = {other for other in GRAPH[name] if not f"{other}.".startswith(allowed)}
        assert others <= {"lungseg_jax"}, name
