"""The loop's bookkeeping; whole runs are in test_run.py."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import SessionLog
from tqdm import tqdm

from lungseg_jax.config import Config
from lungseg_jax.errors import DivergedError
from lungseg_jax.log import Log
from lungseg_jax.train import Pending, Training, train_and_evaluate
from tests.events import events_in
from tests.small import small_config_with_data


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "parameter_norm"])
def test_each_figure_that_is_not_finite_ends_the_run(tmp_path, name):
    """Fault: weights that overflowed are trained on, as long as loss and gradient are finite."""
    run = object.__new__(Training)
    run.config = Config(batch_size=2)
    run.records = {"train": SimpleNamespace(id_and_source=lambda i: (f"p{i}", "folder"))}
    run.checkpoints = SimpleNamespace(wait=lambda: None, latest_step=lambda: None)
    named = {"loss": 0.5, "dice": 0.25, "gradient_norm": 1.0, "parameter_norm": 1.0, name: np.inf}
    with Log(epath.Path(tmp_path), first_step=1) as log:
        pending = Pending(run, log, tqdm(disable=True))
        pending.add(7, np.arange(2), {key: jnp.float32(value) for key, value in named.items()})
        with pytest.raises(DivergedError, match=f"step 7.*{name} inf.* on the batch of p0, p1;"):
            pending.drain()


def test_a_resumed_run_keeps_the_validation_that_it_begins_after(tmp_path):
    """Fault: the validation of the last checkpoint hidden, although it is not done again."""
    config = small_config_with_data(tmp_path, num_steps=2, evaluation__every=2)
    workdir, starts = tmp_path / "run", []
    for _ in range(2):
        train_and_evaluate(config, workdir)
        sessions = [x for x in events_in(workdir) if x.session_log.status == SessionLog.START]
        starts.append(sessions[-1].step)
    # From there on TensorBoard hides what was logged before.
    assert starts == [1, 3]
