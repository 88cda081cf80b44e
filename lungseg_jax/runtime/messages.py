"""Messages between a process and its worker, whose arrays are not copied on the way.

`Connection.send` copies an array into its pickle, and `recv` collects it from up to a thousand
pieces, each with an allocation of all that is missing: for a radiograph of 3000 x 3000 pixels that
takes at least four times as long.
"""

import os
import pickle
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


def send_message(connection: Connection, message: object) -> None:
    """Sends anything that can be pickled.

    Raises:
      OSError: nobody listens.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
    contents = [buffer.raw() for buffer in buffers]
    connection.send((head, [content.nbytes for content in contents]))
    for content in contents:
        while content:
            content = content[os.write(connection.fileno(), content) :]


def receive_message(connection: Connection) -> Any:
    """Waits for a message of `send_message`, from a process that is trusted, and returns it.

    Raises:
      EOFError: the other process has ended.
      OSError: the connection failed.
      MemoryError: the message needs more memory than there is.
    """
    head, sizes = connection.recv()
    # Unlike `bytearray`, NumPy does not fill what is overwritten at once.
    contents = [np.empty(size, np.uint8).data for size in sizes]
    for missing in contents:
        while missing:
            count = os.readv(connection.fileno(), [missing])
            if not count:
                raise EOFError
            missing = missing[count:]
    return pickle.loads(head, buffers=contents)  # noqa: S301
