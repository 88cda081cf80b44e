"""Passes command-line arguments to the scripts of this package."""

import inspect
import sys
from collections.abc import Callable

from lungseg_jax.errors import UserError


def call_with_arguments(main: Callable[..., None], usage: str | None) -> None:
    """Calls a script's function with its command-line words; prints the usage if they do not fit.

    Args:
      main: the script's function, which takes the words.
      usage: the script's docstring.
    """
    words = sys.argv[1:]
    if {"--help", "-h"} & set(words):
        print(usage)
        return
    try:
        inspect.signature(main).bind(*words)
    except TypeError as error:
        sys.exit(f"{usage}\nError: {error}")
    try:
        main(*words)
    except UserError as error:
        sys.exit(f"Error: {error}")
