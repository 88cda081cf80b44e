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
    assert cores._cores_of_container(tmp_path, tmp_path / "absent") == allowed
    assert cores._cores_of_container(tmp_path / "absent", tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("quota", "allowed"), [("200000", 2), ("150000", 2), ("50000", 1), ("-1", None)]
)
def test_a_quota_of_the_older_kind_counts(tmp_path, quota: str, allowed: int | None):
    """Fault: eight devices in a container of two processors where the system is some years old."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores._cores_of_container(tmp_path, tmp_path / "absent") == allowed


@pytest.mark.parametrize(
    ("limited", "own", "allowed"),
    [
        ("user.slice", "0::/user.slice/user-1000.slice\n", 2),
        ("user.slice/user-1000.slice", "0::/user.slice/user-1000.slice\n", 2),
        ("user.slice/user-1001.slice", "0::/user.slice/user-1000.slice\n", None),
        ("cpu/job_1", "5:memory:/\n4:cpuacct,cpu:/job_1/step_0\n0::/\n", 2),
        ("cpu/job_1", "5:memory:/job_1\n4:cpu:/\n", None),
    ],
)
def test_a_quota_of_a_user_or_a_job_counts(tmp_path, limited: str, own: str, allowed: int | None):
    """Fault: a shared machine's limit, which is not at the top of what is seen, or another's."""
    (tmp_path / limited).mkdir(parents=True)
    (tmp_path / limited / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "own").write_text(own)
    assert cores._cores_of_container(tmp_path, tmp_path / "own") == allowed


def test_the_smaller_of_quota_and_affinity_counts(monkeypatch):
    """Fault: a quota that is read and not used, or one that gives more than there are."""
    every = len(os.sched_getaffinity(0))
    for allowed, expected in ((1, 1), (every + 1, every), (None, every)):
        monkeypatch.setattr(cores, "_cores_of_container", lambda allowed=allowed: allowed)
        assert cores.usable_cores() == expected
