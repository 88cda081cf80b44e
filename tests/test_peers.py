"""Races between programs, and the image of their results."""

import os
import re
from types import SimpleNamespace

import pytest

from benchmarks import programs
from benchmarks import race as race_module
from benchmarks.peers_plot import PLOT, Row, chart, read_results, sections_of
from benchmarks.programs import Program
from benchmarks.race import _quiet_turn, compare, race

FAILED = {"library": "pytorch", "dtype": "float32", "error": "out of memory"}


def figures(library, dtype, rates):
    return {
        "library": library,
        "dtype": dtype,
        "images_per_second": rates,
        "median": sorted(rates)[len(rates) // 2],
    }


def test_ratios_are_of_the_same_turn_and_the_fastest_variant():
    """Fault: a slow variant taken for the peer, or ratios of medians on a machine that slows."""
    result = {
        "ours": figures("lungseg_jax", "float32", [12.0, 6.0, 3.0]),
        "slow": figures("pytorch", "float32", [1.0, 1.0, 1.0]),
        "fast": figures("pytorch", "float32", [8.0, 4.0, 2.0]),
        "other type": figures("pytorch", "bfloat16", [99.0, 99.0, 99.0]),
        "failed": FAILED,
    }
    ratio = compare(result, ["float32"], ["float32"])
    assert ratio is not None
    assert ratio["theirs"] == "fast"
    assert ratio["by_turn"] == [1.5, 1.5, 1.5]
    assert ratio["median"] == 1.5


def test_no_ratio_without_a_peer_that_finished():
    """Fault: a comparison with nothing."""
    result = {
        "ours": figures("lungseg_jax", "float32", [1.0]),
        "failed": FAILED,
    }
    assert compare(result, ["float32"], ["float32"]) is None


def test_a_rate_is_of_all_images_of_all_calls(monkeypatch):
    """Fault: batches a second called images; the machine's own work taken for that of others."""
    clock = {"perf_counter": 0.0, "process_time": 0.0}
    busy = [0.0]

    def run(calls: int) -> None:
        clock["perf_counter"] += 0.5 * calls
        clock["process_time"] += 0.75 * calls
        busy[0] += 1.0 * calls

    for name in clock:
        monkeypatch.setattr(programs.time, name, lambda name=name: clock[name])
    monkeypatch.setattr(programs, "busy_seconds", lambda: busy[0])
    monkeypatch.setattr(programs, "_own_cores", lambda: {0, 1})
    found = programs.turn(run, 4, 8)
    assert found["images_per_second"] == pytest.approx(16)
    # A quarter of a second of each call's half, on two cores.
    assert found["others_share"] == pytest.approx(0.25)


def test_time_of_others_is_of_this_process_cores(tmp_path, monkeypatch):
    """Fault: idle time or waiting for a disk taken for work; another container's core counted."""
    lines = [f"cpu{core} {10**core} 1 2 5000 600 3 4 7 0 0" for core in range(3)]
    (tmp_path / "stat").write_text("\n".join(["cpu 9 9 9 9 9 9 9 9 0 0", *lines, "intr 5"]))
    monkeypatch.setattr(programs, "_own_cores", lambda: {0, 2})
    ticks = 1 + 100 + 2 * (1 + 2 + 3 + 4 + 7)
    found = programs.busy_seconds(tmp_path / "stat")
    assert found == pytest.approx(ticks / os.sysconf("SC_CLK_TCK"))


def test_a_disturbed_turn_is_repeated_until_the_machine_is_quiet(monkeypatch):
    """Fault: another job's time in one side of a ratio."""
    shares = iter([0.4, 0.2, 0.01, 0.3])
    runner = SimpleNamespace(
        turn=lambda _: {"images_per_second": 1.0, "others_share": next(shares)}
    )
    monkeypatch.setattr(race_module, "PAUSE_SECONDS", 0)
    assert _quiet_turn(runner, lambda: 60.0)["others_share"] == 0.01
    assert next(shares) == 0.3


def test_program_that_fails_does_not_end_the_race():
    """Fault: one program out of memory takes the figures of the others with it."""
    size = {"width": 2, "depth": 1, "dtype": "float32", "library": "lungseg_jax"}
    programs = [
        # A side of 15 pixels does not halve.
        Program(task="train", image_size=15, batch_size=1, **size),
        Program(task="inference", image_size=16, batch_size=1, **size | {"dtype": "bfloat16"}),
    ]
    failed, finished = race(programs, turns=2, limit_seconds=120.0).values()
    assert "image_size" in failed["error"]
    assert len(finished["images_per_second"]) == 2


def test_program_that_takes_too_long_is_ended():
    """Fault: a program that hangs holds up all that come after it."""
    program = Program(
        library="lungseg_jax", task="train", width=2, depth=1, image_size=16, batch_size=1,
        dtype="float32",
    )  # fmt: skip
    (figures,) = race([program], turns=1, limit_seconds=0.1).values()
    assert "over 0.1 s" in figures["error"]


def test_places_on_the_axis():
    """Fault: dots that the axis belies. Twice and half as fast lie equally far from as fast."""
    rows = [Row("float32", [ratio], ratio) for ratio in (0.5, 1.0, 2.0)]
    dots = re.findall(r'<circle cx="([\d.]+)" cy="[\d.]+" r="2.5"', chart({"": {"": rows}}))
    places = [float(x) for x in dots]
    assert places[0] < places[1] < places[2]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)


def test_image_is_that_of_the_result_files():
    """Fault: an image in the README that no committed measurement has."""
    if not read_results():
        assert not PLOT.exists()
        pytest.skip("no comparison is committed")
    assert PLOT.read_text() == chart(sections_of(read_results()))
