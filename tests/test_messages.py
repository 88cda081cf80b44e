"""Messages between processes, whose arrays travel beside the pickle."""

import os
import socket
import threading
from multiprocessing.connection import Connection

import numpy as np
import pytest

from lungseg_jax.imaging.radiograph import Radiograph
from lungseg_jax.runtime.messages import receive_message, send_message

# Far beyond what a socket holds: it arrives in many pieces.
LARGE = np.arange(3 * 10**6, dtype=np.float32).reshape(1500, 2000)


def connect() -> tuple[Connection, Connection]:
    here, there = socket.socketpair()
    return Connection(here.detach()), Connection(there.detach())


def through(*messages: object) -> list:
    """What arrives of messages that a thread sends."""
    here, there = connect()
    with there:

        def send() -> None:
            with here:
                for message in messages:
                    send_message(here, message)

        sender = threading.Thread(target=send)
        sender.start()
        received = [receive_message(there) for _ in messages]
        sender.join()
    return received


@pytest.mark.parametrize(
    "array",
    [
        LARGE,
        LARGE[::-1, 1::2],
        LARGE.T,
        np.zeros((0, 3), np.uint16),
        np.array(1.5),
        np.array(["a", None], object),
        np.array([(1, 2.0)], [("n", "<i2"), ("x", ">f8")]),
    ],
)
def test_arrays_arrive_as_they_were(array: np.ndarray):
    """Fault: an image in pieces of another order; one that nobody may write to."""
    (received, same), after = through((array, array), "after")
    np.testing.assert_array_equal(received, array, strict=True)
    assert received.dtype == array.dtype
    assert received.flags.writeable
    assert same is received
    assert after == "after"


def test_what_a_socket_takes_in_parts_is_whole(monkeypatch):
    """Fault: the rest of an array dropped where one write does not take all."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda to, content: write(to, content[:99_999]))
    (received,) = through(LARGE)
    np.testing.assert_array_equal(received, LARGE)


def test_several_arrays_keep_their_places():
    """Fault: a mask in the image's place."""
    radiograph = Radiograph(LARGE, (0.1, 0.2), "detector")
    square = np.arange(4, dtype=np.uint16)
    ((received, small),) = through((radiograph, square))
    np.testing.assert_array_equal(received.pixels, LARGE)
    np.testing.assert_array_equal(small, square)
    assert received.spacing_mm == (0.1, 0.2)


def test_what_was_received_is_not_what_was_sent():
    """Fault: an array that changes with the sender's."""
    array = LARGE.copy()
    (received,) = through(array)
    array[:] = 0
    np.testing.assert_array_equal(received, LARGE)


def test_half_an_array_is_an_end():
    """Fault: a worker that dies while it answers is waited for, or its answer believed."""
    here, there = connect()
    with there:

        def send_half() -> None:
            with here:
                head = b"no pickle is read before all has come"
                here.send((head, [1000]))
                here.send_bytes(bytes(300))

        sender = threading.Thread(target=send_half)
        sender.start()
        with pytest.raises(EOFError):
            receive_message(there)
        sender.join()
