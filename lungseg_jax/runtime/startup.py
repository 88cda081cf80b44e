"""What is special while a command imports, which takes seconds.

Ctrl-C ends it without a traceback, and garbage is rarely collected: nearly all that imports
allocate stays, and looking through it again and again takes a fifth of their time.
"""

import contextlib
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# Objects between two collections while importing, and as Python has it.
_RARELY, _USUALLY = 50_000, gc.get_threshold()

_begun = False


def begin_imports(package: str) -> None:
    """Makes a package's command import as this module says; the package calls this first.

    Python's own handler of SIGINT would end imports in a traceback, or not at all where a library
    catches whatever its imports raise. In other programs nothing is changed.

    Args:
      package: the package whose modules are commands.
    """
    global _begun
    # What `argv` holds while `python -m` imports the packages that a module is in.
    if sys.argv[:1] == ["-m"] and _module_called().startswith(f"{package}."):
        _begun = True
        gc.set_threshold(_RARELY)
        _exchange(signal.default_int_handler, signal.SIG_DFL)


def end_imports() -> None:
    """Ends what `begin_imports` began; what was imported is left out of later collections, too."""
    if _begun:
        _exchange(signal.SIG_DFL, signal.default_int_handler)
        gc.freeze()
        gc.set_threshold(*_USUALLY)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within the context, later imports of a command are treated as its first ones were."""
    if _begun:
        gc.set_threshold(_RARELY)
        _exchange(signal.default_int_handler, signal.SIG_DFL)
    try:
        yield
    finally:
        end_imports()


def _exchange(before: object, after: signal.Handlers | Callable) -> None:
    """Gives SIGINT another handler, if it has the one that is expected."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is before:
        signal.signal(signal.SIGINT, after)


def _module_called() -> str:
    """Returns the module that `python -m` was given, or nothing."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word.startswith("-m"):
            return word[2:] or next(words, "")
    return ""
