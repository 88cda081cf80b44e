"""How many cores a process may use."""

import os

import pytest

from lungseg_jax.runtime import cores


@pytest.mark.parametrize(
    ("content", "allowed"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("max 100000\n", None),
        ("", None),
    ],
)
def test_a_containers_quota_bounds_the_cores(tmp_path, content: str, allowed: int | None):
    """Fault: eight devices and sixty-four threads in a container of two processors."""
    (tmp_path / "cpu.max").write_text(content)
    assert cores._cores_of_container(tmp_path / "cpu.max") == allowed
    assert cores._cores_of_container(tmp_path / "absent") is None


def test_the_smaller_of_quota_and_affinity_counts(monkeypatch):
    """Fault: a quota that is read and not used, or one that gives more than there are."""
    every = len(os.sched_getaffinity(0))
    for allowed, expected in ((1, 1), (every + 1, every), (None, every)):
        monkeypatch.setattr(cores, "_cores_of_container", lambda allowed=allowed: allowed)
        assert cores.usable_cores() == expected
