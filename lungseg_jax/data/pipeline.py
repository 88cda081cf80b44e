"""The order of training examples, and their way to the device.

The order is an endless Grain pipeline of global batches: positions, shuffled anew each epoch. It is
the same on any number of processes and devices and whether or not the images live on the
device, so one checkpointed iterator resumes all of them.
"""

import functools

import grain
import jax
import numpy as np
from jaxtyping import Int

from lungseg_jax.config import Config
from lungseg_jax.data.labels import num_classes
from lungseg_jax.data.records import Records
from lungseg_jax.data.samples import Batch, Samples
from tfds_builder.fields import READING_THREADS

# Share of a device's memory that resident images may take: activations need the rest.
RESIDENT_SHARE_OF_MEMORY = 0.2

# CPUs report no such limit; this one, for all devices of a CPU together, keeps a laptop usable.
RESIDENT_BYTES_ON_CPU = 2**31

# Host memory that batches read ahead may take, if there are more than two.
READ_AHEAD_BYTES = 2**32


def training_batches(
    records: Records, config: Config, *, resident: bool
) -> grain.DatasetIterator[Batch]:
    """Returns the endless, checkpointable iterator over this process's part of each batch.

    A batch holds `position` (in the records) and `slot` (in the global batch; augmentation is
    seeded by it), and, unless the images are resident, `image` and `mask`.

    Args:
      records: training split.
      config: gives `batch_size` and `seed`.
      resident: leave images out, because the device has them.
    """
    part = _process_part(config.batch_size)
    slots = np.arange(config.batch_size, dtype=np.int32)[part]

    def to_batch(positions: Int[np.ndarray, " b"]) -> Batch:
        """Returns this process's part of the global batch at these positions."""
        host_positions = positions[part]
        batch = {"position": host_positions, "slot": slots}
        if resident:
            return batch
        samples = records.samples(host_positions.tolist())
        return batch | {"image": samples.image, "mask": samples.mask}

    order = Order(len(records), config.batch_size, config.seed)
    positions = grain.MapDataset.source(order)
    threads = 0 if resident else reading_threads(len(slots) * _bytes_per_sample(records))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(positions.map(to_batch).to_iter_dataset(options))


def reading_threads(batch_bytes: int) -> int:
    """Returns how many threads read batches: each has one in progress and one ready."""
    return max(1, min(READING_THREADS, READ_AHEAD_BYTES // (2 * batch_bytes)))


class Order:
    """The positions of each global batch, cut from successive permutations of the records.

    Not Grain's own `shuffle`, which computes each position separately: on an H200's host, 16 of
    them took longer than the step they were for.

    Args:
      num_records: number of records in the split.
      batch_size: positions per batch; batches continue across the ends of epochs.
      seed: seed of all permutations.
    """

    def __init__(self, num_records: int, batch_size: int, seed: int) -> None:
        self._num_records, self._batch_size, self._seed = num_records, batch_size, seed
        # A batch may span an epoch's end.
        self._permutation = functools.lru_cache(maxsize=2)(self._new_permutation)

    def __len__(self) -> int:
        """Returns a number of batches that no run reaches."""
        return 2**48

    def __getitem__(self, index: int) -> Int[np.ndarray, " b"]:
        """Returns the positions of a batch by its number."""
        numbers = index * self._batch_size + np.arange(self._batch_size)
        epochs, places = np.divmod(numbers, self._num_records)
        parts = [self._permutation(int(e))[places[epochs == e]] for e in np.unique(epochs)]
        return np.concatenate(parts)

    def _new_permutation(self, epoch: int) -> Int[np.ndarray, " n"]:
        # `Generator.permutation` may change between versions of NumPy; these words do not.
        keys = np.random.SeedSequence((self._seed, epoch)).generate_state(self._num_records)
        return np.argsort(keys, kind="stable").astype(np.int32)


def use_resident(records: Records, config: Config) -> bool:
    """Whether to keep the decoded split in device memory, according to `data.resident`."""
    if config.data.resident != "auto":
        return config.data.resident == "true"
    return len(records) * _bytes_per_sample(records) <= _resident_budget()


def read_store(records: Records) -> Samples:
    """Returns every image of a split, decoded by all cores."""
    positions = np.array_split(np.arange(len(records)), max(1, len(records) // 16))
    chunks = [chunk.tolist() for chunk in positions]
    dataset = grain.MapDataset.source(chunks).map(records.samples)  # type: ignore[arg-type]
    parts = list(dataset.to_iter_dataset(grain.ReadOptions(num_threads=READING_THREADS)))
    return Samples(
        np.concatenate([part.image for part in parts]),
        np.concatenate([part.mask for part in parts]),
    )


def _bytes_per_sample(records: Records) -> int:
    """Returns the size of a decoded 16-bit image and its 8-bit masks."""
    return records.image_size**2 * (2 + num_classes(records.labels))


def _process_part(batch_size: int) -> slice:
    """This process's contiguous block of a global batch."""
    local = batch_size // jax.process_count()
    return slice(jax.process_index() * local, (jax.process_index() + 1) * local)


def _resident_budget() -> int:
    stats = jax.local_devices()[0].memory_stats()
    if not stats or "bytes_limit" not in stats:
        # Each device has a copy.
        return RESIDENT_BYTES_ON_CPU // jax.local_device_count()
    return int(RESIDENT_SHARE_OF_MEMORY * stats["bytes_limit"])
