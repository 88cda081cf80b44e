"""The hosts of a job, which are started together and must do the same."""

import collections
import contextlib
import dataclasses
import hashlib
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Mapping

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from lungseg_jax.config import Config, to_json
from lungseg_jax.errors import ConfigError, DataError

# How often, a second each, a host looks for what another one wrote: network file systems show
# it late.
LOOKS = 60


def join_hosts() -> None:
    """Makes this process one of a job's processes.

    Raises:
      ConfigError: nothing says which other processes there are, or they cannot be reached.
    """
    # JAX itself reads only the address from the environment, not these two.
    count, process_id = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(num_processes=count, process_id=process_id)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            "distributed",
            str(error).partition("\n")[0].rstrip("."),
            "start it on Cloud TPUs or under Slurm, Open MPI or GKE, set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave it out on a single host",
        ) from error
    if jax.default_backend() == "cpu":
        # JAX lets only the first process cache programs. If it has them cached, its first step
        # waits for the others to compile, but only for the 30 seconds of Gloo, which connects CPUs.
        jax.config.update("jax_enable_compilation_cache", False)


def end_with_hosts(command: Callable[[], int]) -> int:
    """Returns a command's exit code, unless it fails as one of a job's processes.

    Then it ends the process: at its exit, Python would wait for the others to get there, for which
    JAX allows five minutes, while they wait for this one in the middle of a step.
    """
    try:
        code = command()
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        with contextlib.suppress(OSError):
            traceback.print_exc()
        code = 1
    if not code or not jax.distributed.is_initialized():
        return code
    # Others may end for the same reason and have to print it, too. They cannot once the first
    # process, which connects them, is gone.
    time.sleep(4 if jax.process_index() == 0 else 2)
    # Whoever reads them may be gone.
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _number(variable: str) -> int | None:
    value = os.environ.get(variable)
    try:
        return int(value) if value else None
    except ValueError as error:
        raise ConfigError(variable, f"is {value!r}", "give a whole number") from error


def check_hosts_agree(**facts: str | None) -> None:
    """Checks that every host states the same.

    Otherwise steps would silently combine the work of hosts that do different things.

    Args:
      **facts: this host's facts, by the names that errors call them; `None` if it does not know.

    Raises:
      ConfigError: hosts differ; raised on all of them.
    """
    if jax.process_count() == 1:
        return
    # JAX only gathers from hosts with equally many devices.
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        numbers = ", ".join(str(counts[host]) for host in sorted(counts))
        raise ConfigError(
            "distributed",
            f"the hosts of the job have {numbers} devices",
            "give all as many; of CPUs, by JAX_NUM_CPU_DEVICES",
        )
    if different := _differing(facts):
        raise ConfigError(
            "distributed",
            f"the hosts of the job differ in {different.replace('_', ' ')}",
            "start all with the same command, code and libraries, on the same data",
        )


def _differing(facts: Mapping[str, str | None]) -> str | None:
    """Returns the first fact in which hosts differ, the same one on all of them."""
    digests = [hashlib.sha256((fact or "").encode()).digest() for fact in facts.values()]
    digests = np.array([list(digest) for digest in digests], np.uint8)
    known = np.array([fact is not None for fact in facts.values()])
    all_digests, all_known = map(np.asarray, multihost_utils.process_allgather((digests, known)))
    for place, name in enumerate(facts):
        stated = all_digests[all_known[:, place], place]
        if len(np.unique(stated, axis=0)) > 1:
            return name
    return None


def wait_until_all_see(read: Callable[[], str], folder: epath.Path) -> None:
    """Waits until every host reads the same in a folder, which network file systems show late.

    Args:
      read: what this host sees there.
      folder: the folder.

    Raises:
      ConfigError: they still differ after a minute; raised on all of them.
    """
    if jax.process_count() == 1:
        return
    for _ in range(LOOKS):
        # All leave at the same time, because all learn of the same difference.
        if not _differing({"content": read()}):
            return
        time.sleep(1)
    raise ConfigError(
        folder,
        "the hosts of the job see different files in it",
        "give a folder that all hosts share, in a bucket or on mounted storage",
    )


def check_folder_is_shared(folder: epath.Path) -> None:
    """Checks that what the first host writes to a folder is seen by the others.

    Otherwise each would save its part of a checkpoint to a disk of its own, and wait for the rest.

    Raises:
      ConfigError: it is not; raised on all of them.
      DataError: the first host cannot write to it; raised on all of them.
    """
    if jax.process_count() == 1:
        return
    token = np.frombuffer(secrets.token_bytes(8), np.uint8)
    failed = None
    if jax.process_index() == 0:
        # Before the others know its name: who looks too early is told for long that it is absent.
        try:
            _sign(folder, token).write_bytes(b"")
        except OSError as error:
            failed = DataError(folder, f"cannot be written to ({error.strerror})", "give another")
    token = np.asarray(multihost_utils.broadcast_one_to_all(token)).astype(np.uint8)
    if in_any_process(failed is not None):
        raise failed or DataError(folder, "cannot be written to by the first host", "give another")
    sign = _sign(folder, token)
    try:
        wait_until_all_see(lambda: str(sign.exists()), folder)
    finally:
        if jax.process_index() == 0:
            sign.unlink(missing_ok=True)


def _sign(folder: epath.Path, token: np.ndarray) -> epath.Path:
    return folder / f".seen-{token.tobytes().hex()}"


def without_folders(config: Config) -> str:
    """Returns a configuration as text, without what may differ between hosts."""
    data = dataclasses.replace(config.data, manual_dir="", data_dir="", splits="")
    return to_json(dataclasses.replace(config, data=data))


def in_any_process(is_so: bool) -> bool:
    """Returns whether it is so in any process, once all have called this function."""
    if jax.process_count() == 1:
        return is_so
    return bool(np.any(multihost_utils.process_allgather(np.asarray(is_so))))
