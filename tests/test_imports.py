"""Imports point one way."""

import ast
import graphlib
from pathlib import Path

import pytest

from tests.small import REPOSITORY

PACKAGES = ("lungseg_jax", "tfds_builder")

# What a part may import of the two packages: itself, and what stands below it.
BELOW = {
    "lungseg_jax.models": (),
    "lungseg_jax.imaging": ("errors", "config"),
    "lungseg_jax.runtime": (
        "errors", "config", "device_counts", "paths", "terminal", "imaging.opencv_memory",
    ),
    "lungseg_jax.data": ("errors", "config", "imaging", "tfds_builder"),
    "lungseg_jax.prediction": (
        "errors", "config", "imaging", "data.labels", "network", "weights", "paths", "runtime",
        "file_digest", "terminal",
    ),
    "lungseg_jax.performance": (
        "config", "data", "network", "optim", "parallel", "state", "step", "terminal",
    ),
    "tfds_builder": (
        "errors", "config", "file_digest", "paths", "imaging", "runtime", "terminal", "command",
    ),
}  # fmt: skip

# What the step is made of, and what stands below that.
CORE = (
    "config", "errors", "models", "network", "packing", "parallel", "random_keys", "state", "step",
    "appearance", "augment", "losses", "optim", "resampling", "data.labels", "data.samples",
    "imaging.structures",
)  # fmt: skip


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


def whole_name(name: str) -> str:
    return name if name.startswith("tfds_builder") else f"lungseg_jax.{name}"


def test_no_module_imports_itself_through_others():
    """Fault: two modules that can only be understood, and loaded, together."""
    assert sum(map(len, GRAPH.values())) > 200
    list(graphlib.TopologicalSorter(GRAPH).static_order())


@pytest.mark.parametrize("part", BELOW)
def test_a_part_imports_what_stands_below_it(part):
    """Fault: training code that has to be installed to read an image or to build records."""
    allowed = tuple(f"{name}." for name in (part, *map(whole_name, BELOW[part])))
    inside = [name for name in GRAPH if f"{name}.".startswith(f"{part}.")]
    assert len(inside) > 3
    for name in inside:
        others = {other for other in GRAPH[name] if not f"{other}.".startswith(allowed)}
        assert others <= {"lungseg_jax"}, name


def test_the_step_imports_the_core_alone():
    """Fault: a loss or an optimizer that cannot be read without prediction, records or timing."""
    needed, left = set(), ["lungseg_jax.step"]
    while left:
        needed |= {(name := left.pop())}
        left += GRAPH[name] - needed
    core = tuple(f"{whole_name(name)}." for name in CORE)
    assert {name for name in needed if not f"{name}.".startswith(core)} <= {"lungseg_jax"}
    assert len(needed) > 15
