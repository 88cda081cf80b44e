"""Two processes as two hosts of a pod: one job on loopback."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lungseg_jax.runtime.alone import alone_in
from lungseg_jax.train import train_and_evaluate
from tests.bucket import Bucket, serve_bucket
from tests.small import REPOSITORY, cut, small_config_with_data, write_small_data
from tests.test_run import losses

# What a host of a pod runs; there JAX finds coordinator and ranks itself.
HOST = """
import sys, time, jax
from etils import epath
from lungseg_jax.runtime.hosts import join_hosts
from lungseg_jax.train import train_and_evaluate
from tests.small import small_config
root, kind, resident, space_shards, rename_seconds, rate, workdir = sys.argv[1:]
kind_of_path = type(epath.Path(root))
rename = kind_of_path.rename
kind_of_path.rename = lambda path, to: (time.sleep(float(rename_seconds)), rename(path, to))[1]
join_hosts()
assert len(jax.local_devices()) == 4 and len(jax.devices()) == 8
config = small_config(
    num_steps=10, evaluation__every=5, parallel=kind,
    data__source="kaggle", data__manual_dir=root + "/archive",
    data__data_dir=root + "/records", data__resident=resident, space_shards=int(space_shards),
    shard_optimizer=kind == "mesh", optimizer__learning_rate=float(rate),
)
train_and_evaluate(config, workdir)
"""

# A host that does no more than compile a program and run it.
COMPILER = """
import jax
from lungseg_jax.runtime.compilation_cache import use_compilation_cache
from lungseg_jax.runtime.hosts import join_hosts
use_compilation_cache()
join_hosts()
jax.jit(lambda x: 2 * x + 1)(jax.numpy.ones(3)).block_until_ready()
"""

# A host that does no more than compare itself with the others.
COMPARER = """
from lungseg_jax.runtime.hosts import check_hosts_agree, join_hosts
join_hosts()
check_hosts_agree(commit="one")
"""

# A host that does no more than enter the folder of a run.
ENTRANT = """
import sys
from etils import epath
from lungseg_jax.runtime.hosts import join_hosts
from lungseg_jax.workdir import alone_in_run
join_hosts()
with alone_in_run(epath.Path(sys.argv[1])):
    print("entered")
"""


# Of a job whose hosts meet, the one that fails between two meetings, and the others.
ONE_FAILS = """
import sys, jax
from jax.experimental import multihost_utils
from lungseg_jax import main, train
from lungseg_jax.errors import DataError
failing, how, workdir = sys.argv[1:]
def job(config, workdir):
    multihost_utils.sync_global_devices("begun")
    if jax.process_index() == int(failing):
        if how == "interrupt":
            raise KeyboardInterrupt
        raise DataError("an image", "is damaged", "replace it")
    multihost_utils.sync_global_devices("never reached")
train.train_and_evaluate = job
keys = ["--config=configs/unet.py", "--config.distributed=true", f"--workdir={workdir}"]
sys.exit(main.main(["main", *keys]))
"""


def outputs_of_hosts(
    program: str,
    arguments: Sequence[Sequence[str]],
    environments: Sequence[dict[str, str]],
    code: int | None,
    limit_seconds: float = 900,
) -> list[str]:
    """Returns what the two hosts of a job printed.

    Args:
      program: in Python, which joins them.
      arguments: of each host.
      environments: of each host, beside that of this process.
      code: that each exits with; `None` for any but 0.
      limit_seconds: for all of it.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    job = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments[rank]],
            cwd=REPOSITORY,
            env=os.environ | job | {"JAX_PROCESS_ID": str(rank)} | environments[rank],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        outputs = [host.communicate(timeout=limit_seconds)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    for host, output in zip(hosts, outputs, strict=True):
        if code is None:
            assert host.returncode != 0, output[-3000:]
        else:
            assert host.returncode == code, output[-3000:]
    return outputs


def run_hosts(
    root: Path,
    kind: str,
    resident: str,
    space_shards: int,
    rename_seconds: float = 0,
    rates: str = "2e-3 2e-3",
    code: int = 0,
    bucket: Bucket | None = None,
    before: str = "",
) -> str:
    """Returns what both hosts printed.

    Args:
      root: of images, records and the run.
      kind: of parallelism, which names the run.
      resident: whether images stay on the devices.
      space_shards: devices that share the rows of an image.
      rename_seconds: how long a renaming takes.
      rates: the learning rate of each host.
      code: that each exits with.
      bucket: that the run is in instead, while each host has images and records of its own.
      before: what each host executes first.
    """
    roots, workdir = [str(root)] * 2, str(root / kind)
    if bucket is not None:
        roots, workdir = [f"{root}/{rank}" for rank in range(2)], f"{bucket.address}/{kind}"
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    environment |= bucket.environment if bucket else {}
    job = [kind, resident, str(space_shards), str(rename_seconds)]
    arguments = [
        [own_root, *job, rate, workdir] for own_root, rate in zip(roots, rates.split(), strict=True)
    ]
    return "".join(outputs_of_hosts(before + HOST, arguments, [environment] * 2, code))


@pytest.mark.parametrize(
    ("kind", "resident", "space_shards"),
    [("pmap", "false", 1), pytest.param("mesh", "true", 2, marks=pytest.mark.slow)],
)
def test_two_processes_train_as_one(tmp_path, kind, resident, space_shards):
    """Fault: a host that trains on another's examples, reports only its own, or waits for ever.

    The mesh spreads rows over pairs of devices and its optimizer over both hosts; the run that it
    is compared with does neither.
    """
    write_small_data(tmp_path / "archive")
    run_hosts(tmp_path, kind, resident, space_shards)
    together = json.loads((tmp_path / kind / "metrics.json").read_text())
    config = small_config_with_data(
        tmp_path / "one", num_steps=10, evaluation__every=5, parallel=kind
    )
    alone = train_and_evaluate(config, tmp_path / "alone")
    assert alone is not None
    assert together["test"]["num_examples"] == alone["test"]["num_examples"] == 6
    # The loss is of the whole batch: a host with other examples would show in the first.
    assert losses(tmp_path / kind) == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
    assert together["test"]["dice"] == pytest.approx(alone["test"]["dice"], abs=0.01)
    assert references(tmp_path / kind) == references(tmp_path / "alone")
    assert together["val"]["assd_px"] == pytest.approx(alone["val"]["assd_px"], abs=0.1)


@pytest.mark.slow
def test_two_processes_share_a_bucket_and_no_disk(tmp_path):
    """Fault: hosts of a pod that need a disk in common, or do not see what the others wrote."""
    write_small_data(tmp_path / "0" / "archive")
    run_hosts(tmp_path / "0", "mesh", "true", 1)
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    with serve_bucket() as bucket:
        run_hosts(tmp_path, "mesh", "true", 1, bucket=bucket)
        on_disk = tmp_path / "0" / "mesh"
        for name in ("metrics.json", "eval/test.csv", "overlays/worst.png"):
            assert bucket.read(f"mesh/{name}") == (on_disk / name).read_bytes(), name


def references(workdir: Path) -> dict[str, int]:
    """The size of each test image's reference, which must not have passed through rounding."""
    with (workdir / "eval" / "test.csv").open() as table:
        return {row["id"]: int(row["reference_px"]) for row in csv.DictReader(table)}


# What a host is given besides: another commit, other records.
OTHER_COMMIT = """
import lungseg_jax.train, jax
environment = lungseg_jax.train.environment
lungseg_jax.train.environment = lambda: environment() | {"revision": str(jax.process_index())}
"""
OTHER_RECORDS = """
import lungseg_jax.train, jax
lungseg_jax.train.identity = lambda records: {"content": str(jax.process_index())}
"""


OTHER_CODE = """
import lungseg_jax.train, jax
lungseg_jax.train.digest_of_program = lambda: str(jax.process_index())
"""
OTHER_WEIGHTS = """
import lungseg_jax.train, jax
from lungseg_jax.weights import Calibration
from tests.untrained import untrained_weights
def variables(config):
    weights = untrained_weights(Calibration(), seed=jax.process_index())
    return weights.variables
lungseg_jax.train.variables_to_start_from = variables
"""
# A job of the command of which one host's disk is full once training has begun.
FULL_DISK = """
import resource, signal, sys, jax, lungseg_jax.train
from lungseg_jax.main import main
from tests.small import SMALL
loop = lungseg_jax.train.loop
def limited(*arguments):
    if jax.process_index() == 1:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
    return loop(*arguments)
lungseg_jax.train.loop = limited
keys = SMALL | {
    "data.source": "kaggle", "data.manual_dir": sys.argv[1] + "/archive",
    "data.data_dir": sys.argv[1] + "/records", "distributed": "true", "num_steps": 15,
    "evaluation.every": 5,
}
given = [f"--config.{key}={value}" for key, value in keys.items()]
sys.exit(main(["main", "--config=configs/unet.py", f"--workdir={sys.argv[1]}/run", *given]))
"""


@pytest.mark.parametrize(
    ("before", "rates", "fact"),
    [
        ("", "2e-3 3e-3", "configuration"),
        (OTHER_COMMIT, "2e-3 2e-3", "commit"),
        pytest.param(OTHER_CODE, "2e-3 2e-3", "code", marks=pytest.mark.slow),
        pytest.param(OTHER_RECORDS, "2e-3 2e-3", "records", marks=pytest.mark.slow),
    ],
)
def test_hosts_that_were_started_differently_do_not_train(tmp_path, before, rates, fact):
    """Fault: a host whose gradients, of another job, are taken for the job's."""
    write_small_data(tmp_path / "archive")
    said = run_hosts(tmp_path, "pmap", "true", 1, rates=rates, code=1, before=before)
    told = f"ConfigError: distributed: the hosts of the job differ in {fact}"
    assert said.count(told) == 2
    assert not (tmp_path / "pmap").exists()


@pytest.mark.slow
def test_hosts_that_begin_with_other_weights_do_not_train(tmp_path):
    """Fault: replicas that differ, found out when none of the run's checkpoints can be read."""
    write_small_data(tmp_path / "archive")
    said = run_hosts(tmp_path, "mesh", "true", 1, code=1, before=OTHER_WEIGHTS)
    assert said.count("the hosts of the job differ in weights to start from") == 2


@pytest.mark.slow
def test_a_host_that_cannot_save_ends_the_job(tmp_path):
    """Fault: twenty minutes in which every host waits for the others, and none says why."""
    write_small_data(tmp_path / "archive")
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    arguments = [[str(tmp_path)]] * 2
    outputs = outputs_of_hosts(FULL_DISK, arguments, [environment] * 2, None, limit_seconds=400)
    assert "free some of the quota" in outputs[1]
    assert "Traceback" not in outputs[1]


@pytest.mark.slow
def test_two_processes_pass_over_a_damaged_checkpoint_together(tmp_path):
    """Fault: one that looks before the other has set the damage aside, and never meets it again."""
    write_small_data(tmp_path / "archive")
    run_hosts(tmp_path, "pmap", "true", 1)
    expected = (tmp_path / "pmap" / "metrics.json").read_bytes()
    (tmp_path / "pmap" / "metrics.json").unlink()
    cut(tmp_path / "pmap" / "checkpoints" / "10")
    said = run_hosts(tmp_path, "pmap", "true", 1, rename_seconds=2)
    assert "Resuming after step 5 of 10" in said
    assert [path.name for path in (tmp_path / "pmap").glob("damaged-*")] == ["damaged-0-10"]
    assert (tmp_path / "pmap" / "checkpoints" / "10").exists()
    assert (tmp_path / "pmap" / "metrics.json").read_bytes() == expected


def test_all_hosts_of_a_second_job_are_refused(tmp_path):
    """Fault: a first host that is refused, while the others wait for it until JAX gives them up."""
    arguments = [[str(tmp_path / "run")]] * 2
    for output in outputs_of_hosts(ENTRANT, arguments, [{}] * 2, code=0):
        assert "entered" in output
    with alone_in(tmp_path / "run", ""):
        for output in outputs_of_hosts(ENTRANT, arguments, [{}] * 2, code=1):
            assert "is in use by" in output


# What a host does first whose view of a network file system is a second behind.
LATE = """
import jax
from etils import epath
kind, asked = type(epath.Path("/")), []
exists = kind.exists
def late(path):
    asked.append(path)
    return exists(path) and (jax.process_index() == 0 or len(asked) > 1)
kind.exists = late
"""


@pytest.mark.parametrize(("shared", "said"), [(True, "entered"), (False, "see different files in")])
def test_hosts_train_in_a_folder_that_they_share(tmp_path, shared: bool, said: str):
    """Fault: hosts that save to disks of their own, and wait for each other's part for ever."""
    program = "from lungseg_jax.runtime import hosts\nhosts.LOOKS = 4\n" + LATE + ENTRANT
    arguments = [[str(tmp_path / ("0" if shared else str(rank)))] for rank in range(2)]
    for output in outputs_of_hosts(program, arguments, [{}] * 2, code=0 if shared else 1):
        assert said in output
    assert not list(tmp_path.rglob(".seen-*"))


@pytest.mark.parametrize(
    ("failing", "how", "said"),
    [
        (0, "error", "Error: an image: is damaged; replace it"),
        (1, "error", "Error: an image: is damaged; replace it"),
        (1, "interrupt", "Interrupted; run the same command again"),
    ],
)
def test_a_host_that_fails_ends_the_job(tmp_path, failing, how, said):
    """Fault: a pod that is paid for five minutes, while one host waits for others that wait for it.

    Then its one line is lost among stack traces.
    """
    arguments = [[str(failing), how, str(tmp_path / "run")]] * 2
    # Of five minutes; starting takes half of one on a busy machine.
    outputs = outputs_of_hosts(ONE_FAILS, arguments, [{}] * 2, code=None, limit_seconds=150)
    assert said in outputs[failing]
    assert "Traceback" not in outputs[failing]
    assert said not in outputs[1 - failing]


def test_no_host_on_cpus_starts_with_a_program_that_the_others_compile(tmp_path):
    """Fault: of a job that is resumed, the first host gives up while the others compile."""
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    outputs_of_hosts(COMPILER, [[], []], [environment] * 2, code=0)
    assert not list(tmp_path.iterdir())


def test_hosts_of_unequal_cores_are_told():
    """Fault: a job whose hosts have more and fewer cores ends in an error inside JAX."""
    environments = [{"XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": number} for number in ("1", "2")]
    for output in outputs_of_hosts(COMPARER, [[], []], environments, code=1):
        assert "the hosts of the job have 1, 2 devices" in output
