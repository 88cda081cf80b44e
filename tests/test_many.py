"""Many images through a segmenter: in order, at the same time, and over at once after a fault."""

import threading

import numpy as np
import pytest

from lungseg_jax.prediction.many import segment_many

SQUARE = np.full((32, 32, 1), 30000, np.uint16)


def test_answers_are_of_their_items(untrained):
    """Fault: what the networks say about one image given to the next, where one has no input."""
    greys = {number: np.full_like(SQUARE, 6000 * number) for number in range(10) if number % 3}
    alone = {number: untrained.predict([square])[0] for number, square in greys.items()}

    def finish(number, reading, prediction):
        assert reading == str(number)
        assert (prediction is None) == (number not in greys)
        if prediction is not None:
            np.testing.assert_allclose(prediction.square, alone[number].square, atol=1e-6)
        return number

    answers = segment_many(
        untrained, range(10), lambda number: (greys.get(number), str(number)), finish, int
    )
    assert list(answers) == list(range(10))


@pytest.mark.parametrize("stage", ["read", "finish"])
def test_every_core_works(untrained, monkeypatch, stage: str):
    """Fault: a batch at a time read or finished, while most of a server's cores wait."""
    together = threading.Barrier(8, timeout=30)
    monkeypatch.setattr("lungseg_jax.runtime.cores.usable_cores", lambda: 8)

    def at(which: str):
        return together.wait if which == stage else int

    def read(_):
        at("read")()
        return None, ""

    answers = segment_many(untrained, range(16), read, lambda *_: at("finish")(), int)
    assert len(list(answers)) == 16


@pytest.mark.parametrize("stage", ["read", "finish"])
def test_a_fault_stops_what_is_being_read(untrained, stage: str):
    """Fault: a fault in the first image of an archive that is told when the last is read."""
    stopped = threading.Event()

    def fail(*_):
        raise ValueError("a fault")

    def read(number: int):
        # What is finished is looked at once enough is under way.
        if number < 40:
            return fail() if stage == "read" else (None, "")
        assert stopped.wait(timeout=30), "reading was not stopped"
        return None, ""

    answers = segment_many(untrained, range(100), read, fail, stopped.set)
    with pytest.raises(ValueError, match="a fault"):
        list(answers)


def test_who_needs_no_more_answers_stops_what_is_being_read(untrained, monkeypatch):
    """Fault: Ctrl-C that waits for images nobody needs."""
    monkeypatch.setattr("lungseg_jax.runtime.cores.usable_cores", lambda: 1)
    stopped = threading.Event()

    def read(number: int):
        assert number < 20 or stopped.wait(timeout=30), "reading was not stopped"
        return None, ""

    answers = segment_many(untrained, range(100), read, lambda number, *_: number, stopped.set)
    assert next(answers) == 0
    answers.close()
    assert stopped.is_set()
