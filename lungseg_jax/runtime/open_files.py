"""How many files a process may have open: records have one for each of their shards."""

import contextlib
import resource

# Enough for 3 million images of 1024 x 1024. Without bound, programs that close all numbers that
# a file may have, as they do before they start another, would take long.
ENOUGH = 65_536


def allow_many_open_files() -> None:
    """Raises the limit as far as is of use and the system lets the process.

    Many systems begin with 1,024, which the shards of some 50,000 images of 1024 × 1024 exceed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems have bounds that they do not tell.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
