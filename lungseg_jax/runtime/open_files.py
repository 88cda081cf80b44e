"""How many files a process may have open: records have one for each of their shards."""

import resource


def allow_many_open_files() -> None:
    """Raises the limit as far as the system lets the process.

    Many systems begin with 1,024, which the shards of some 50,000 pictures of 1024 × 1024 exceed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Where there is no bound, as on macOS, the system refuses to be asked for that.
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
