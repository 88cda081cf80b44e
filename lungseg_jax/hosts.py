"""Whether all hosts of a job were started to do the same."""

import dataclasses
import hashlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from lungseg_jax.config import Config, to_json
from lungseg_jax.data.records import Records, identity
from lungseg_jax.environment import revision
from lungseg_jax.errors import ConfigError


def check_hosts_agree(config: Config, records: dict[str, Records]) -> None:
    """Checks that every host has the same configuration, code and records.

    Otherwise steps would silently combine the work of hosts that do different things.

    Args:
      config: of this host; folders may differ.
      records: of this host.

    Raises:
      ConfigError: they differ; raised on all hosts.
    """
    if jax.process_count() == 1:
        return
    data = dataclasses.replace(config.data, manual_dir="", data_dir="", splits="")
    facts = {
        "the configuration": to_json(dataclasses.replace(config, data=data)),
        "the commit": str(revision()),
        "the content of the records": identity(records)["content"],
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
