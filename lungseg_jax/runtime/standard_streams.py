"""Standard input, output and error of a process that was started without them."""

import os
import sys


def open_missing_streams() -> None:
    """Opens the null device for each standard stream that the process was started without.

    Detached jobs are started so (`nohup COMMAND <&- >&- 2>&- &`). Python has `None` in place of
    such a stream, and the next file that is opened, perhaps a checkpoint, would get the stream's
    number: what libraries in C++ print would go there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It gets the lowest free number, which is the stream's own.
            null = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(null, True)
            stream = os.fdopen(null, mode, encoding="utf-8", errors="backslashreplace")
            setattr(sys, name, stream)
