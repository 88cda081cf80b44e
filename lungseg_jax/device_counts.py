"""Over which numbers of devices a configuration divides."""

from lungseg_jax.config import Config
from lungseg_jax.errors import ConfigError


def divides(config: Config, num_devices: int) -> bool:
    """Whether batches, and the rows of images, divide evenly over devices of one host."""
    groups, rest = divmod(num_devices, config.space_shards)
    return not rest and config.batch_size % (groups * config.accumulation_steps) == 0


def check_devices(config: Config, num_devices: int, num_hosts: int = 1) -> None:
    """Checks that batches, and the rows of images, divide evenly over devices.

    Raises:
      ConfigError: they do not; the message shows the arithmetic.
    """
    check_space_shards(config, num_devices, num_hosts)
    groups = f"{num_devices} devices"
    if config.space_shards > 1:
        groups = f"{num_devices // config.space_shards} groups of {config.space_shards} devices"
    parts = num_devices // config.space_shards * config.accumulation_steps
    if config.batch_size % parts:
        below = config.batch_size // parts * parts
        good = f"{below} or {below + parts}" if below else f"{parts}"
        raise ConfigError(
            "batch_size",
            f"{config.batch_size} images do not divide over {groups} x "
            f"{config.accumulation_steps} accumulation steps = {parts} "
            f"(remainder {config.batch_size % parts})",
            f"{good} would do",
        )


def check_space_shards(config: Config, num_devices: int, num_hosts: int = 1) -> None:
    """Checks that the devices of a host divide into groups that share the rows of images.

    Raises:
      ConfigError: they do not.
    """
    per_host = num_devices // num_hosts
    if per_host % config.space_shards:
        good = [n for n in range(1, per_host + 1) if per_host % n == 0]
        raise ConfigError(
            "space_shards",
            f"{per_host} devices of a host do not divide into groups of {config.space_shards} "
            f"(remainder {per_host % config.space_shards})",
            f"one of {', '.join(map(str, good))} would do",
        )
