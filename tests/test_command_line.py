"""Commands: how a job's end becomes an exit code."""

import jax
import jax.numpy as jnp
import pytest

from lungseg_jax.command_line import run


def test_a_full_device_is_one_line(capsys):
    """Fault: a traceback of XLA's where a smaller batch is all that is wanted."""

    def job() -> None:
        jax.block_until_ready(jnp.zeros(2**44, jnp.float32))

    assert run(["main"], usage="", job=job, resume="", stopped=0) == 1
    assert capsys.readouterr().err.startswith("Error: batch_size: the device's memory")


def test_other_faults_keep_their_traceback():
    """Fault: a fault of the program that is told as one of the user's."""

    def job() -> None:
        raise RuntimeError("INTERNAL: a fault of the program")

    with pytest.raises(RuntimeError, match="INTERNAL"):
        run(["main"], usage="", job=job, resume="", stopped=0)
