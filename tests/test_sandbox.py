"""Files that stop, exhaust or end the process that reads them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from lungseg_jax.errors import DataError, UserError
from lungseg_jax.imaging.radiograph import ReadOptions
from lungseg_jax.imaging.structures import Structure
from lungseg_jax.runtime.sandbox import Sandbox, Sandboxes, SandboxStoppedError
from tests.images import chest, png_bytes
from tests.small import REPOSITORY
from tfds_builder.convert_case import ConvertSettings, convert_case
from tfds_builder.sources import Case, Clinical, MaskFile

SETTINGS = ConvertSettings(32, b"key", ReadOptions())
MEMORY_BYTES = SETTINGS.reading.memory_bytes


def make_case(folder: Path, name: str, image: bytes | None) -> Case:
    """A case whose image, where it has no content, is a pipe that nobody writes to."""
    image_path, mask = (folder / f"{name}{part}.png" for part in ("", "_mask"))
    if image is None:
        os.mkfifo(image_path)
    else:
        image_path.write_bytes(image)
    mask.write_bytes(png_bytes(chest(80, 80, 0)[1]))
    masks = (MaskFile(epath.Path(mask), Structure.LUNGS),)
    return Case(name, "p", "folder", epath.Path(image_path), masks, Clinical())


@pytest.fixture
def good(tmp_path) -> Case:
    return make_case(tmp_path, "good", png_bytes(chest(80, 80, 0)[0]))


def children() -> set[int]:
    """Processes that this one started."""
    return children_of(os.getpid())


def children_of(parent: int) -> set[int]:
    """Processes that another one started, by the kernel's own list."""
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return {int(child) for task in tasks for child in task.read_text().split()}


def convert_in(sandbox: Sandbox, case: Case):
    return sandbox.call(case.image, convert_case, case, SETTINGS)


def readers(pipe: Path) -> set[int]:
    """Processes that this one started and that have a pipe open."""
    found = set()
    for child in children():
        with contextlib.suppress(OSError):
            opened = [os.path.realpath(path) for path in Path(f"/proc/{child}/fd").iterdir()]
            if os.path.realpath(pipe) in opened:
                found.add(child)
    return found


def kill_readers(pipe: Path, *numbers: int) -> None:
    """Kills the worker that reads from a pipe, by each of the signals in turn."""
    left = list(numbers)
    while left:
        time.sleep(0.05)
        with contextlib.suppress(OSError):
            # Opens only where a reader waits at the other end.
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            # The reader's own opening is finished by this one.
            while not (found := readers(pipe)):
                time.sleep(0.01)
            for worker in found:
                os.kill(worker, left[0])
            os.close(descriptor)
            del left[0]


def test_one_death_is_forgiven(tmp_path, good):
    """Fault: a good file called bad because the machine killed its worker for want of memory."""
    content = Path(good.image).read_bytes()
    case = make_case(tmp_path, "unlucky", None)
    with Sandbox(MEMORY_BYTES, convert_case) as sandbox:

        def kill_once_and_write() -> None:
            kill_readers(Path(case.image), signal.SIGSEGV)
            Path(case.image).unlink()
            Path(case.image).write_bytes(content)

        killer = threading.Thread(target=kill_once_and_write)
        killer.start()
        assert convert_in(sandbox, case)[0].status == "taken"
        killer.join()


def test_the_answer_is_that_of_the_plain_call(good):
    """Fault: a record that depends on where it is made."""
    with Sandbox(MEMORY_BYTES, convert_case) as sandbox:
        # As text, for an unknown age is NaN.
        assert repr(convert_in(sandbox, good)) == repr(convert_case(good, SETTINGS))


def test_a_file_that_never_ends_is_bad_and_the_next_one_is_read(tmp_path, good):
    """Fault: one file holds up an archive's build for good."""
    with Sandbox(MEMORY_BYTES, convert_case, seconds=1.0) as sandbox:
        with pytest.raises(DataError, match=r"endless\.png: takes more than 1 s"):
            convert_in(sandbox, make_case(tmp_path, "endless", None))
        assert convert_in(sandbox, good)[0].status == "taken"


def test_a_file_that_ends_the_process_is_bad_and_the_next_one_is_read(tmp_path, good):
    """Fault: a crash of a decoder ends the build."""
    case = make_case(tmp_path, "deadly", None)
    with Sandbox(MEMORY_BYTES, convert_case) as sandbox:
        assert convert_in(sandbox, good)[0].status == "taken"
        signals = (signal.SIGSEGV, signal.SIGSEGV)
        killer = threading.Thread(target=kill_readers, args=(Path(case.image), *signals))
        killer.start()
        with pytest.raises(DataError, match=r"deadly\.png: .*SIGSEGV"):
            convert_in(sandbox, case)
        killer.join()
        assert convert_in(sandbox, good)[0].status == "taken"


@pytest.mark.parametrize(
    ("signals", "told"),
    [
        ((signal.SIGKILL, signal.SIGKILL), r"\(SIGKILL\): memory is short; free some, or raise"),
        ((signal.SIGSEGV, signal.SIGKILL), r"\(SIGKILL\): memory is short; free some, or raise"),
        # Fault: a file that crashes its reader kept, with the advice to free memory.
        ((signal.SIGKILL, signal.SIGSEGV), r"\(SIGSEGV\); leave it out$"),
    ],
)
def test_a_worker_that_the_system_kills_is_told_from_a_crash(tmp_path, signals, told: str):
    """Fault: advice to leave out good files, because a container's memory is too small."""
    case = make_case(tmp_path, "pipe", None)
    with Sandbox(MEMORY_BYTES, convert_case) as sandbox:
        killer = threading.Thread(target=kill_readers, args=(Path(case.image), *signals))
        killer.start()
        with pytest.raises(DataError, match=told):
            convert_in(sandbox, case)
        killer.join()


def test_a_file_beyond_the_memory_is_bad(tmp_path, good):
    """Fault: an image of a few bytes that takes the machine's memory."""
    large = make_case(tmp_path, "large", png_bytes(np.zeros((9000, 9000), np.uint8)))
    with Sandbox(300 * 2**20, convert_case) as sandbox:
        outcome, _ = convert_in(sandbox, large)
        assert outcome.status == "bad"
        assert "MemoryError" in outcome.fault or "memory" in outcome.fault
        assert convert_in(sandbox, good)[0].status == "taken"


def test_no_process_is_left(good):
    """Fault: workers that outlive the build and keep its memory."""
    before = children()
    with Sandbox(MEMORY_BYTES, convert_case) as sandbox:
        convert_in(sandbox, good)
        assert len(children() - before) == 1
    assert children() <= before


def test_an_idle_worker_is_not_ended_by_its_clock(tmp_path):
    """Fault: a worker started anew after each pause, or a file that finds it gone."""
    with Sandbox(MEMORY_BYTES, convert_case, seconds=0.5) as sandbox:
        first = sandbox.call(tmp_path / "x.png", os.getpid)
        time.sleep(1.5)
        assert sandbox.call(tmp_path / "x.png", os.getpid) == first


# Reads for ever, in a worker that has two seconds.
PARENT = """
import sys, types
from lungseg_jax.runtime.sandbox import Sandbox
from tests.deadly_reading import read_for_ever
case = types.SimpleNamespace(image=sys.argv[1])
with Sandbox(2**30, read_for_ever, seconds=2.0) as sandbox:
    sandbox.call(case.image, read_for_ever, case)
"""


def test_a_worker_does_not_outlive_a_parent_that_was_killed(tmp_path):
    """Fault: after the kernel's out-of-memory killer, workers that decode for days."""
    environment = os.environ | {"PYTHONPATH": os.fspath(REPOSITORY)}
    command = [sys.executable, "-c", PARENT, os.fspath(tmp_path / "x.png")]
    with subprocess.Popen(command, env=environment) as parent:
        while parent.poll() is None and not (tmp_path / "started").exists():
            time.sleep(0.05)
        (worker,) = children_of(parent.pid)
        parent.kill()
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and Path(f"/proc/{worker}").exists():
        time.sleep(0.2)
    assert not Path(f"/proc/{worker}").exists()


def test_stop_interrupts_a_read(tmp_path):
    """Fault: an interrupted build that waits for a file, or writes it down as bad."""
    case = make_case(tmp_path, "endless", None)
    with Sandbox(MEMORY_BYTES, convert_case) as sandbox:
        threading.Timer(1.5, sandbox.stop).start()
        start = time.monotonic()
        with pytest.raises(SandboxStoppedError):
            convert_in(sandbox, case)
        # Of a minute that the file has.
        assert time.monotonic() - start < 30
        with pytest.raises(SandboxStoppedError):
            convert_in(sandbox, case)


def test_an_error_that_nobody_expected_tells_the_line_and_not_the_message(tmp_path):
    """Fault: a header quoted in a message, or a traceback that ends a build."""
    path = tmp_path / "secret.png"
    with Sandbox(MEMORY_BYTES, convert_case) as sandbox:
        with pytest.raises(DataError, match=r"secret\.png: ValueError in .*line \d+") as caught:
            sandbox.call(path, np.loadtxt, ["DOE^JANE"])
        assert "DOE" not in str(caught.value)
        assert sandbox.call(path, len, "abc") == 3


def test_a_file_that_asks_for_too_much_memory_is_named(tmp_path):
    """Fault: a list of a thousand files of which "the file" needs too much."""
    message = r"large\.png: needs more memory than there is"
    with Sandbox(MEMORY_BYTES, convert_case) as sandbox, pytest.raises(DataError, match=message):
        sandbox.call(tmp_path / "large.png", bytes, 2**45)


def test_a_worker_that_cannot_start_is_not_the_files_fault(tmp_path, monkeypatch):
    """Fault: every file of an archive left out as bad, for an import that fails in the worker."""
    with Sandbox(MEMORY_BYTES, convert_case) as sandbox:
        monkeypatch.setattr(sandbox, "_module", "no_module_of_this_name")
        with pytest.raises(UserError, match=r"do not start.*no_module_of_this_name") as caught:
            sandbox.call(tmp_path / "good.png", len, "abc")
        assert not isinstance(caught.value, DataError)


def test_a_bad_file_gives_its_worker_back(tmp_path):
    """Fault: a worker fewer after each bad file, until all threads wait for ever."""
    answers = []

    def read_both(sandboxes: Sandboxes) -> None:
        with contextlib.suppress(DataError):
            sandboxes.call(tmp_path / "bad.png", np.loadtxt, ["x"])
        answers.append(sandboxes.call(tmp_path / "good.png", len, "abc"))

    with Sandboxes(1, MEMORY_BYTES, convert_case) as sandboxes:
        reader = threading.Thread(target=read_both, args=(sandboxes,), daemon=True)
        reader.start()
        reader.join(timeout=60)
        assert answers == [3]


def test_stopping_stops_every_worker(tmp_path):
    """Fault: an interrupted job that waits for the files of all workers but one."""
    with Sandboxes(2, MEMORY_BYTES, convert_case) as sandboxes:
        sandboxes.stop()
        for _ in range(2):
            with pytest.raises(SandboxStoppedError):
                sandboxes.call(tmp_path / "any.png", len, "abc")
