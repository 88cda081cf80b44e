"""Which numbers of devices a configuration divides over."""

import dataclasses

import pytest

from lungseg_jax.config import Config
from lungseg_jax.device_counts import check_devices
from lungseg_jax.errors import ConfigError
from tests.small import small_config


def test_batch_that_does_not_divide_shows_the_arithmetic():
    """Fault: a reshape error inside pmap."""
    config = dataclasses.replace(Config(), batch_size=12, accumulation_steps=2)
    with pytest.raises(ConfigError, match=r"4 devices x 2 .* = 8 \(remainder 4\); 8 or 16"):
        check_devices(config, 4)
    check_devices(config, 3)


def test_groups_that_do_not_divide_show_the_arithmetic():
    """Fault: a sharding error from inside XLA, or an image spread over two hosts' devices."""
    config = small_config(parallel="mesh", space_shards=4, batch_size=6)
    with pytest.raises(ConfigError, match=r"6 images .* 4 groups of 4 devices .* 4 or 8"):
        check_devices(config, 16, num_hosts=2)
    with pytest.raises(ConfigError, match=r"2 devices of a host .* groups of 4 .* 1, 2 would do"):
        check_devices(config, 16, num_hosts=8)
    check_devices(config, 8, num_hosts=2)
