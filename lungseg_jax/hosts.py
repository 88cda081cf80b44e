"""The hosts of a job: started together, and to do the same."""

import dataclasses
import hashlib
import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from lungseg_jax.config import Config, to_json
from lungseg_jax.environment import revision
from lungseg_jax.errors import ConfigError


def join_hosts() -> None:
    """Makes this process one of those of a job.

    Raises:
      ConfigError: nothing says which other processes there are, or they cannot be reached.
    """
    # JAX itself reads only the address from the environment, not these two.
    count, own = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=int(count) if count else None, process_id=int(own) if own else None
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            "distributed",
            str(error).partition("\n")[0].rstrip("."),
            "start it on Cloud TPUs or under Slurm, Open MPI or GKE, set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave it out on a single host",
        ) from error


def check_hosts_agree(config: Config, content: str) -> None:
    """Checks that every host has the same configuration, code and records.

    Otherwise steps would silently combine the work of hosts that do different things.

    Args:
      config: of this host; folders may differ.
      content: checksum of the records of this host.

    Raises:
      ConfigError: they differ; raised on all hosts.
    """
    if jax.process_count() == 1:
        return
    data = dataclasses.replace(config.data, manual_dir="", data_dir="", splits="")
    facts = {
        "the configuration": to_json(dataclasses.replace(config, data=data)),
        "the commit": str(revision()),
        "the content of the records": content,
    }
    digests = [
        np.frombuffer(hashlib.sha256(own.encode()).digest(), np.uint8) for own in facts.values()
    ]
    of_hosts = np.asarray(multihost_utils.process_allgather(np.stack(digests)))
    differing = (of_hosts != of_hosts[0]).any(axis=(0, 2))
    if differing.any():
        names = " and ".join(np.array(list(facts))[differing])
        raise ConfigError(
            "distributed",
            f"the hosts of the job differ in {names}",
            "start all with the same command and code, on the same data",
        )
