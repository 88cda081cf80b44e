"""How many files a process may have open: records have one for each of their shards."""

import contextlib
import resource

# Enough for 3 million images of 1024 x 1024. Without a bound, programs that close every possible
# file descriptor, as they do before they start another program, would take long.
ENOUGH = 65_536


def allow_many_open_files() -> None:
    """Raises the limit as far as is useful and the system allows.

    Many systems begin with 1,024, which the shards of some 50,000 images of 1024 × 1024 exceed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems have bounds that they do not report.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
