"""Checkpoints on disk."""

import errno
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from lungseg_jax.checkpoint import Checkpoints
from lungseg_jax.errors import CheckpointError
from lungseg_jax.network import abstract_variables
from lungseg_jax.optim import make_optimizer
from lungseg_jax.parallel import Parallel, all_devices
from lungseg_jax.state import create_state, state_layout
from tests.small import (
    REPOSITORY,
    assert_trees_equal,
    compilations_counted,
    cut,
    small_config,
)

VARIABLES = abstract_variables(small_config())


@pytest.fixture(scope="module")
def states():
    """States of steps 1 to 6, all different, on eight devices."""
    config = small_config()
    state = create_state(config, make_optimizer(config))
    parallel = all_devices("mesh")

    def at(step: int):
        moved = jax.tree.map(lambda x: x + step, state)
        return parallel.replicate(moved._replace(step=np.int32(step)))

    return {step: at(step) for step in range(1, 7)}


def save_all(path, states, dice, keep=2) -> None:
    checkpoints = Checkpoints(path, keep, all_devices("mesh"))
    for step, state in states.items():
        checkpoints.save(state, {"next_index": step}, dice.get(step))
    checkpoints.close()


@pytest.fixture(scope="module")
def copy_saved(states, tmp_path_factory):
    """Puts checkpoints of all states into a folder: copies of those that are saved only once."""

    @functools.cache
    def original(*dice: tuple[int, float]) -> Path:
        path = tmp_path_factory.mktemp("saved")
        save_all(path, states, dict(dice))
        return path

    def copy(path: Path, dice: dict[int, float]) -> None:
        shutil.copytree(original(*dice.items()), path, dirs_exist_ok=True)

    return copy


def test_state_and_iterator_come_back_bit_for_bit(tmp_path, states, copy_saved):
    """Fault: a leaf that is not saved, or saved in a narrower type."""
    copy_saved(tmp_path, {})
    restored = Checkpoints(tmp_path, 2, all_devices("mesh")).restore_latest(states[1])
    assert restored is not None
    assert_trees_equal(restored[0], states[6])
    assert restored[1] == {"next_index": 6}


@pytest.mark.parametrize("kind", ["pmap", "mesh"])
def test_saving_compiles_nothing(tmp_path, states, eight_devices, kind):
    """Fault: compiling a program for each array and device delays a preempted machine's save."""
    with compilations_counted() as count:
        jax.jit(lambda x: x + len(states))(1.0).block_until_ready()
    assert count(), "compilations are not heard of"
    parallel = Parallel(kind, eight_devices)
    state = parallel.replicate(jax.device_get(states[1]))
    checkpoints = Checkpoints(tmp_path, 2, parallel)
    with compilations_counted() as count:
        checkpoints.save(state, {"next_index": 1}, 0.5)
        checkpoints.close()
    assert not count()


def test_newest_and_best_are_kept(tmp_path, states, copy_saved):
    """Fault: the best checkpoint deleted because it is old, or all of them kept."""
    copy_saved(tmp_path, {1: 0.2, 2: 0.9, 4: 0.5})
    kept = sorted(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    assert kept == [2, 5, 6]
    best = Checkpoints(tmp_path, 2, all_devices("mesh")).restore_weights(VARIABLES)
    assert_trees_equal(best.variables, states[2].ema)
    assert (best.step, best.data_state) == (2, {"next_index": 2})


@pytest.mark.parametrize("count", [1, 2, 8])
def test_restores_onto_other_devices(tmp_path, states, copy_saved, eight_devices, count):
    """Fault: a checkpoint bound to the number of devices it was saved from."""
    copy_saved(tmp_path, {})
    parallel = Parallel("pmap", eight_devices[:count])
    restored = Checkpoints(tmp_path, 2, parallel).restore_latest(states[1])
    assert restored is not None
    assert_trees_equal(restored[0], states[6])
    leaf = jax.tree.leaves(restored[0].parameters)[0]
    assert leaf.sharding.device_set == set(eight_devices[:count])


def test_spread_optimizer_restores_onto_other_devices(tmp_path, states, eight_devices):
    """Fault: a checkpoint of a spread optimizer that only the same devices can read, or a part."""
    eight = all_devices("mesh", shard_optimizer=True)
    spread = eight.place(jax.device_get(states[6]), state_layout(states[6], eight))
    saved = Checkpoints(tmp_path, 2, eight)
    saved.save(spread, {"next_index": 6})
    saved.close()
    for parallel in (
        Parallel("pmap", eight_devices[:2]),
        Parallel("mesh", eight_devices[:4], 2, shard_optimizer=True),
    ):
        restored = Checkpoints(tmp_path, 2, parallel).restore_latest(states[1])
        assert restored is not None
        assert_trees_equal(restored[0], states[6])
        layout = state_layout(states[6], parallel)
        for x, sharding in zip(jax.tree.leaves(restored[0]), jax.tree.leaves(layout), strict=True):
            assert x.sharding.is_equivalent_to(sharding, x.ndim)


def test_corrupt_newest_is_skipped_with_a_warning_and_saved_anew(
    tmp_path, states, copy_saved, capfd
):
    """Fault: a run that cannot resume, or whose damaged step is never replaced."""
    directory = tmp_path / "checkpoints"
    copy_saved(directory, {4: 0.5, 6: 0.9})
    cut(directory / "6")
    checkpoints = Checkpoints(directory, 2, all_devices("mesh"))
    restored = checkpoints.restore_latest(states[1])
    assert restored is not None
    assert_trees_equal(restored[0], states[5])
    assert f"{directory}/6 cannot be read" in capfd.readouterr().err
    checkpoints.save(states[6], {"next_index": 6}, 0.9)
    checkpoints.wait()
    assert_trees_equal(checkpoints.restore_weights(VARIABLES).variables, states[6].ema)
    assert len(list(tmp_path.glob("damaged-*"))) == 1


def test_a_changed_bit_is_noticed(tmp_path, states):
    """Fault: figures and resumed runs of weights that no one trained, for a disk that forgets."""
    random = np.random.default_rng(0)
    average = jax.device_get(states[6].ema)
    kernel = max(jax.tree.leaves(average), key=np.size)
    # No compression shortens such bits, so that the file has them as they are in memory.
    noise = random.integers(2**32, size=kernel.shape, dtype=np.uint32).view(np.float32)
    average = jax.tree.map(lambda x: noise if x is kernel else x, average)
    noisy = states[6]._replace(ema=all_devices("mesh").replicate(average))
    saved = {5: states[5], 6: noisy}
    directory = tmp_path / "checkpoints"
    save_all(directory, saved, {})
    paths = (directory / "6" / "state").rglob("d/*")
    (path,) = (path for path in paths if noise.tobytes() in path.read_bytes())
    content = path.read_bytes()
    weight = content.index(noise.tobytes())
    # Of other places nobody knows whether they are read, but what is read is what was saved.
    for place in (weight, *random.integers(len(content), size=3)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        reading = Checkpoints(directory, None, all_devices("mesh"))
        best, newest = reading.restore_weights(VARIABLES), reading.restore_latest(states[1])
        assert newest is not None
        assert_trees_equal(best.variables, saved[best.step].ema)
        assert_trees_equal(newest[0], saved[int(newest[0].step)])
        if place == weight:
            assert best.step == newest[0].step == 5


# As a command reads a checkpoint, in a process of its own: what it prints comes from threads.
READ = """
import sys
from absl import logging
from lungseg_jax.command import run_command
from lungseg_jax.checkpoint import Checkpoints
from lungseg_jax.parallel import all_devices
from tests.test_checkpoint import VARIABLES
def job():
    print(Checkpoints(sys.argv[1], None, all_devices("mesh")).restore_weights(VARIABLES).step)
sys.exit(run_command([], "", job, "again"))
"""


def test_damage_is_told_in_one_line(tmp_path, copy_saved):
    """Fault: a hundred traces of Orbax and TensorStore around the line that says what to do."""
    copy_saved(tmp_path, {})
    cut(tmp_path / "6")
    command = [sys.executable, "-c", READ, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert ended.stdout.strip() == "5"
    (line,) = ended.stderr.strip().splitlines()
    assert "6 cannot be read" in line


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"next_index": 6', '"next_index": 7'),
        ('"next_index": 6', '"next_inder": 6'),
        ('"digests"', '"eigests"'),
        ('"data_state": {', '"data_stata": {'),
        ('"step"', '"stfp"'),
    ],
)
def test_a_changed_bit_of_the_data_state_is_noticed(tmp_path, states, copy_saved, old, new):
    """Fault: other batches than the run's taken on, or a check that is left out for its damage."""
    copy_saved(tmp_path, {})
    path = tmp_path / "6" / "iterator" / "metadata"
    content = path.read_text()
    assert content.count(old) == 1
    path.write_text(content.replace(old, new))
    restored = Checkpoints(tmp_path, None, all_devices("mesh")).restore_latest(states[1])
    assert restored is not None
    assert_trees_equal(restored[0], states[5])


def test_arrays_that_hosts_shared_when_they_were_saved_are_read(tmp_path, states, copy_saved):
    """Fault: a run of several hosts taken for damaged, because none of them had an array whole."""
    copy_saved(tmp_path, {})
    path = tmp_path / "6" / "iterator" / "metadata"
    content = json.loads(path.read_text())
    shared = [name for name in content["digests"] if name.startswith(("ema/", "optimizer/"))]
    assert len(shared) > 10
    content["digests"] |= dict.fromkeys(shared)
    path.write_text(json.dumps(content))
    reading = Checkpoints(tmp_path, None, all_devices("mesh"))
    assert reading.restore_weights(VARIABLES).step == 6
    newest = reading.restore_latest(states[1])
    assert newest is not None
    assert_trees_equal(newest[0], states[6])


def test_the_best_may_still_be_being_saved(tmp_path, states):
    """Fault: an older checkpoint called the best, for the newest one's Dice is not on disk yet."""
    checkpoints = Checkpoints(tmp_path, 3, all_devices("mesh"))
    for step, dice in ((4, 0.5), (5, 0.4), (6, 0.9)):
        checkpoints.save(states[step], {}, dice)
    assert checkpoints.restore_weights(VARIABLES).step == 6
    checkpoints.close()


def test_a_checkpoint_that_is_asked_for_gives_way_to_no_other(tmp_path, states, copy_saved):
    """Fault: weights of another step than was asked for, or a run given up for one damaged file."""
    copy_saved(tmp_path, {4: 0.9, 5: 0.3, 6: 0.5})
    reading = Checkpoints(tmp_path, None, all_devices("mesh"))
    assert_trees_equal(reading.restore_weights(VARIABLES, 5).variables, states[5].ema)
    cut(tmp_path / "5")
    with pytest.raises(CheckpointError, match=r"5 cannot be read; try that of step 6 or 4"):
        reading.restore_weights(VARIABLES, 5)
    with pytest.raises(CheckpointError, match=r"7: does not exist; give 4, 5, 6"):
        reading.restore_weights(VARIABLES, 7)


def test_corrupt_best_gives_way_to_the_next_best(tmp_path, states, copy_saved, capfd):
    """Fault: a finished run that cannot be evaluated because one checkpoint was damaged."""
    directory = tmp_path / "checkpoints"
    copy_saved(directory, {4: 0.9, 5: 0.3, 6: 0.5})
    cut(directory / "4")
    best = Checkpoints(directory, 2, all_devices("mesh")).restore_weights(VARIABLES)
    assert best.step == 6
    assert_trees_equal(best.variables, states[6].ema)
    assert f"{directory}/4 cannot be read" in capfd.readouterr().err


def test_damaged_metrics_do_not_stop_a_resume(tmp_path, states, copy_saved):
    """Fault: a traceback from reading the ranking, before any checkpoint is tried."""
    directory = tmp_path / "checkpoints"
    copy_saved(directory, {5: 0.5, 6: 0.9})
    (directory / "6" / "metrics" / "metrics").write_text('{"di')
    restored = Checkpoints(directory, 2, all_devices("mesh")).restore_latest(states[1])
    assert restored is not None
    assert_trees_equal(restored[0], states[5])


def test_what_a_crash_left_unfinished_does_not_stop_a_resume(tmp_path, states, copy_saved):
    """Fault: Orbax's temporary folder, a file in it cut to nothing, taken for a checkpoint."""
    directory = tmp_path / "checkpoints"
    copy_saved(directory, {5: 0.5, 6: 0.9})
    unfinished = directory / "7.orbax-checkpoint-tmp" / "metrics" / "metrics"
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()
    (directory / "6" / "metrics" / "metrics").write_text('{"dice": "high"}')
    best = Checkpoints(directory, 2, all_devices("mesh")).restore_weights(VARIABLES)
    assert_trees_equal(best.variables, states[5].ema)


def test_reading_changes_nothing_in_the_folder(tmp_path, states):
    """Fault: a prediction or export that renames a run's checkpoints, or makes their folder."""
    directory = tmp_path / "checkpoints"
    save_all(directory, states, {4: 0.9, 5: 0.7, 6: 0.8}, keep=3)
    (directory / "6" / "metrics" / "metrics").write_text('{"di')
    cut(directory / "4")
    before = sorted(tmp_path.rglob("*"))
    best = Checkpoints(directory, None, all_devices("mesh")).restore_weights(VARIABLES)
    assert best.data_state == {"next_index": 5}
    assert_trees_equal(best.variables, states[5].ema)
    with pytest.raises(CheckpointError, match="train first"):
        Checkpoints(tmp_path / "none", None, all_devices("mesh")).restore_weights(VARIABLES)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_worst_dice_is_better_than_none(tmp_path, states):
    """Fault: a checkpoint that found no lung called unvalidated, or one unvalidated the best."""
    save_all(tmp_path, {step: states[step] for step in (4, 5)}, {4: 0.0})
    assert Checkpoints(tmp_path, None, all_devices("mesh")).restore_weights(VARIABLES).step == 4


def test_a_step_that_was_saved_is_not_saved_again(tmp_path, states):
    """Fault: a run that is stopped as soon as it has resumed ends with a traceback."""
    checkpoints = Checkpoints(tmp_path, 2, all_devices("mesh"))
    for _ in range(2):
        checkpoints.save(states[6], {"next_index": 6})
        checkpoints.wait()
    checkpoints.close()
    restored = Checkpoints(tmp_path, None, all_devices("mesh")).restore_latest(states[1])
    assert restored is not None
    assert restored[1] == {"next_index": 6}


def test_a_step_that_is_damaged_again_is_set_aside_again(tmp_path, states):
    """Fault: a resume that ends because an earlier damage of the same step lies where it would."""
    directory = tmp_path / "checkpoints"
    for _ in range(2):
        save_all(directory, {step: states[step] for step in (5, 6)}, {})
        # A file that is absent is damage, unlike one that cannot be reached.
        (directory / "6" / "iterator" / "metadata").unlink()
        restored = Checkpoints(directory, 2, all_devices("mesh")).restore_latest(states[1])
        assert restored is not None
        assert int(restored[0].step) == 5
    names = {path.name for path in tmp_path.glob("damaged-*")}
    assert names == {"damaged-0-6", "damaged-1-6"}


def test_weights_alone_are_those_of_the_best_checkpoint(tmp_path, states):
    """Fault: weights of the newest, of the last step instead of the average, or of another one."""
    averaged = {
        step: state._replace(ema=jax.tree.map(lambda x: x / 2, state.ema))
        for step, state in states.items()
    }
    save_all(tmp_path / "checkpoints", averaged, {1: 0.2, 2: 0.9, 4: 0.5})
    reading = Checkpoints(tmp_path / "checkpoints", None, all_devices("mesh"))
    assert_trees_equal(reading.restore_weights(VARIABLES).variables, averaged[2].ema)
    # Fault: a whole state that cannot be read any more, once a part was, or the other way round.
    newest = reading.restore_latest(states[2])
    assert newest is not None
    assert_trees_equal(newest[0], averaged[6])
    assert_trees_equal(reading.restore_weights(VARIABLES).variables, averaged[2].ema)
    cut(tmp_path / "checkpoints" / "2")
    assert_trees_equal(reading.restore_weights(VARIABLES).variables, averaged[6].ema)


@pytest.mark.parametrize("change", [{"depth": 1}, {"depth": 3}, {"width": 8}])
def test_weights_of_another_network_are_refused(tmp_path, copy_saved, change: dict[str, int]):
    """Fault: as many of its arrays as the network has, or arrays left without numbers."""
    copy_saved(tmp_path, {})
    (name,) = change
    variables = abstract_variables(small_config(**{f"model__{name}": change[name]}))
    with pytest.raises(CheckpointError, match="another optimizer or network"):
        Checkpoints(tmp_path, None, all_devices("mesh")).restore_weights(variables)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        PermissionError("no"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        TimeoutError("no answer"),
        ValueError('UNKNOWN: Error reading local file "6/d/0" [OS error 5: Input/output error]'),
        ValueError("NOT_FOUND: Failed to read from file: No such device [source locations=']"),
        ValueError("FAILED_PRECONDITION: Failed to read: Transport endpoint is not connected"),
        ValueError("ABORTED: Failed to read 12504 bytes from file at offset 0: Stale file handle"),
        ValueError("RESOURCE_EXHAUSTED: 2 GiB"),
        ValueError("PERMISSION_DENIED: Error reading gs://runs/6: HTTP response code: 403"),
        ValueError("ABORTED: All 2 retry attempts failed: UNAVAILABLE"),
        OSError("Forbidden: https://storage.googleapis.com/storage/v1/b/runs"),
    ],
)
def test_a_whole_checkpoint_stays_where_it_is(tmp_path, states, copy_saved, monkeypatch, error):
    """Fault: the newest one thrown out, and steps done again, for want of memory or a login."""
    directory = tmp_path / "checkpoints"
    copy_saved(directory, {})
    before = sorted(tmp_path.rglob("*"))
    checkpoints = Checkpoints(directory, 2, all_devices("mesh"))
    restore = ocp.CheckpointManager.restore

    def short_of_memory(manager, step, **options):
        if step == 6:
            raise error
        return restore(manager, step, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", short_of_memory)
    with pytest.raises(type(error)):
        checkpoints.restore_latest(states[1])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_is_refused_where_no_file_can_be_locked(tmp_path, copy_saved, monkeypatch):
    """Fault: a traceback at the first checkpoint, when all steps before it are lost."""
    copy_saved(tmp_path / "checkpoints", {})

    error = OSError(errno.ENOSYS, "Function not implemented")
    monkeypatch.setattr("fcntl.lockf", _failing(error))
    with pytest.raises(CheckpointError, match="no file can be locked there"):
        Checkpoints(tmp_path / "checkpoints", 2, all_devices("mesh"))
    # What is only read needs no lock.
    reading = Checkpoints(tmp_path / "checkpoints", None, all_devices("mesh"))
    assert reading.latest_step() == 6


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_run_goes_on_where_tensorstore_has_another_kind_of_lock(tmp_path, monkeypatch, code):
    """Fault: a run refused on a file system on which its checkpoints can be saved."""
    monkeypatch.setattr("fcntl.lockf", _failing(OSError(code, "no such lock")))
    Checkpoints(tmp_path / "checkpoints", 2, all_devices("mesh"))
    monkeypatch.setattr("fcntl.flock", _failing(OSError(errno.ENOLCK, "No locks available")))
    with pytest.raises(CheckpointError, match=r"can be locked there \(No locks available\)"):
        Checkpoints(tmp_path / "checkpoints", 2, all_devices("mesh"))


def test_a_run_that_may_not_be_written_to_is_told_from_one_without_locks(tmp_path, monkeypatch):
    """Fault: advice to mount a disk with locks, for another person's run."""
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr("tempfile.TemporaryFile", _failing(denied))
    with pytest.raises(CheckpointError, match=r"cannot be written to \(Permission denied\)"):
        Checkpoints(tmp_path / "checkpoints", 2, all_devices("mesh"))


def _failing(error: OSError) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_all_corrupt_is_an_error_not_a_fresh_start(tmp_path, states, copy_saved):
    """Fault: hours of training silently begun again."""
    copy_saved(tmp_path, {})
    for path in tmp_path.rglob("state/*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        Checkpoints(tmp_path, 2, all_devices("mesh")).restore_latest(states[1])


def test_checkpoints_of_an_earlier_version_are_called_so(tmp_path, states, copy_saved, capfd):
    """Fault: a sound run called unreadable, and its author told to begin anew."""
    copy_saved(tmp_path, {})
    for path in tmp_path.glob("*/iterator/metadata"):
        path.write_text(json.dumps(json.loads(path.read_text())["data_state"]))
    checkpoints = Checkpoints(tmp_path, 2, all_devices("mesh"))
    message = "was saved by an earlier version; use the version that .*environment.json names"
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore_latest(states[1])
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore_weights(VARIABLES)
    assert "KeyError" not in capfd.readouterr().err


def test_empty_folder_starts_afresh(tmp_path, states):
    """Fault: the first start of a run taken for a broken resume."""
    checkpoints = Checkpoints(tmp_path, 2, all_devices("mesh"))
    assert checkpoints.restore_latest(states[1]) is None
    with pytest.raises(CheckpointError, match="train first"):
        checkpoints.restore_weights(VARIABLES)
