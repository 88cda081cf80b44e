"""One step on many devices: `pmap` and `mesh` as two wrappers of the same function.

A step maps (state, store, batch) to (state, metrics). The store is the same on every device; the
batch is spread. Under `pmap` a step sees its device's part of the batch and reduces over the axis
`DATA` itself; under `mesh` it sees the global batch and XLA's partitioner inserts the reductions.

A mesh has a second axis, `SPACE`: each image's rows are spread over `space_shards` neighbouring
devices, for images whose activations one device cannot hold. The partitioner turns a convolution
into one over a device's own rows and the border rows of its two neighbours.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from lungseg_jax.config import ParallelKind

# Most calls in flight: XLA aborts if one CPU device has more than 32 queued that another has not
# received.
MAX_PENDING = 16

DATA = "data"
SPACE = "space"

Step = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


@dataclasses.dataclass(frozen=True)
class Parallel:
    """How steps are spread over devices.

    Attributes:
      kind: `pmap` or `mesh`.
      devices: all devices of all processes.
      space_shards: devices that share the rows of an image; more than 1 under `mesh` only.
      shard_optimizer: shard what only the update reads, instead of holding it on every device
        (ZeRO stage 1, https://arxiv.org/abs/1910.02054); under `mesh` only.
      pack_state: carry parameters and statistics from step to step as a few long vectors, see
        `lungseg_jax.packing`; not with `shard_optimizer`, which shards each array by itself.
    """

    kind: ParallelKind
    devices: tuple[jax.Device, ...]  # pyright: ignore[reportInvalidTypeForm]
    space_shards: int = 1
    shard_optimizer: bool = False
    pack_state: bool = False

    @property
    def axis_name(self) -> str | None:
        """The mapped axis that a step must reduce over; `None` where batches are global."""
        return DATA if self.kind == "pmap" else None

    @property
    def batch_shards(self) -> int:
        """Number of parts into which a batch is spread."""
        return len(self.devices) // self.space_shards

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self._mesh, PartitionSpec())

    def optimizer_sharding(self, array: Any) -> NamedSharding:
        """Returns the sharding of an array that only the update reads.

        Spread over `DATA` along its longest dimension that divides evenly; whole if there is none.
        """
        if not self.shard_optimizer:
            return self.replicated
        even = [i for i, size in enumerate(array.shape) if size % self.batch_shards == 0]
        if not even:
            return self.replicated
        longest = max(even, key=lambda i: array.shape[i])
        return NamedSharding(self._mesh, PartitionSpec(*[None] * longest, DATA))

    def keep_whole(self, tree: PyTree) -> PyTree:
        """Returns traced values that stay whole on every device though the optimizer is sharded.

        Without this, the partitioner carries the optimizer's sharding back into the network, at
        the cost of a message for every vector there.
        """
        if not self.shard_optimizer:
            return tree
        return jax.lax.with_sharding_constraint(tree, self.replicated)

    def replicate(self, tree: PyTree) -> PyTree:
        """Returns the tree with a copy on every device."""
        return self.place(tree, jax.tree.map(lambda _: self.replicated, tree))

    def place(self, tree: PyTree, layout: PyTree) -> PyTree:
        """Returns the tree, which every process holds whole, on the devices.

        Args:
          tree: a tree of arrays.
          layout: the sharding of each array.
        """
        return jax.tree.map(_place_whole, tree, layout)

    def shard(self, batch: PyTree) -> PyTree:
        """Returns this process's part of a batch, spread over its devices.

        Under `pmap` a leading axis over devices is added. Under `mesh` the devices that share an
        image's rows all get the whole image; see `spread_rows`.
        """
        if self.kind == "pmap":
            count = self._mesh.shape[DATA]
            batch = jax.tree.map(
                lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch
            )
        if jax.process_count() == 1:
            # One transfer of all arrays takes the host half as long as one for each.
            return jax.device_put(batch, self._spread)
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(self._spread, np.asarray(x)), batch
        )

    def spread_rows(self, images: PyTree) -> PyTree:
        """Returns images (b h w c) with their rows spread over `SPACE`; for traced values."""
        if self.space_shards == 1:
            return images
        return jax.lax.with_sharding_constraint(
            images, NamedSharding(self._mesh, PartitionSpec(DATA, SPACE))
        )

    @functools.cached_property
    def everywhere(self) -> NamedSharding:
        """The sharding of replicated arrays in a checkpoint: whole on the devices of all hosts."""
        return NamedSharding(self._mesh_of(self.devices), PartitionSpec())

    def in_checkpoint(self, sharding: NamedSharding) -> NamedSharding:
        """Returns how an array of this sharding is saved: held by all processes together."""
        return self.everywhere if sharding == self.replicated else sharding

    def to_checkpoint(self, state: PyTree) -> PyTree:
        """Returns a state as arrays that all processes hold together."""
        if self.replicated == self.everywhere:
            return state
        return jax.tree.map(lambda x: _place_whole(x, self.everywhere), state)

    def from_checkpoint(self, state: PyTree) -> PyTree:
        """Returns what `to_checkpoint` was given."""
        return state if self.replicated == self.everywhere else self.replicate(state)

    @functools.cached_property
    def _mesh(self) -> Mesh:
        """The mesh of arrays: those of a `pmap` belong to one process, of a `mesh` to all."""
        local_devices = [
            device for device in self.devices if device.process_index == jax.process_index()
        ]
        return self._mesh_of(local_devices if self.kind == "pmap" else self.devices)

    def _mesh_of(self, devices: Sequence[jax.Device]) -> Mesh:  # pyright: ignore
        if self.kind == "pmap":
            return Mesh(np.asarray(devices), (DATA,))
        return Mesh(np.reshape(devices, (-1, self.space_shards)), (DATA, SPACE))

    @functools.cached_property
    def _spread(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(DATA))

    def wrap_step(self, step: Step, layout: PyTree = None) -> Callable[..., Any]:
        """Returns the compiled training step over all devices; it takes over the state's memory.

        Args:
          step: see the module's docstring; under `pmap` its results must be the same on every
            device.
          layout: sharding of each of the state's arrays under `mesh`; replicated if not given.
        """
        if self.kind == "pmap":
            return jax.pmap(
                step,
                axis_name=DATA,
                in_axes=(None, None, 0),
                out_axes=None,  # type: ignore[arg-type]
                devices=self.devices,
                donate_argnums=(0,),
            )
        layout = self.replicated if layout is None else layout
        return jax.jit(
            step,
            in_shardings=(layout, self.replicated, self._spread),
            out_shardings=(layout, self.replicated),
            donate_argnums=(0,),
        )

    def wrap_forward(self, forward: Callable[[PyTree, PyTree], PyTree]) -> Callable[..., Any]:
        """Returns the compiled function from (state, batch) to one result per example."""
        if self.kind == "pmap":
            return jax.pmap(forward, axis_name=DATA, in_axes=(None, 0), devices=self.devices)
        return jax.jit(
            lambda state, batch: forward(state, self.spread_rows(batch)),
            in_shardings=(None, self._spread),
            out_shardings=self._spread,
        )

    def collect(self, results: jax.Array) -> np.ndarray:
        """Returns this process's results of `wrap_forward`, in the order of its batch."""
        shards = [shard for shard in results.addressable_shards if shard.replica_id == 0]
        shards.sort(key=lambda shard: shard.index[0].start or 0)
        local = np.concatenate([np.asarray(shard.data) for shard in shards])
        return local.reshape(-1, *local.shape[2:]) if self.kind == "pmap" else local


def _place_whole(x: Any, sharding: NamedSharding) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def sum_over_devices(tree: PyTree[Array], axis_name: str) -> PyTree[Array]:
    """Returns the sums of arrays over a mapped axis, all of them in one message.

    A message has a fixed cost, whatever its size, and compilers merge those of single arrays
    only as far as their order in the program allows.
    """
    flat, restore = ravel_pytree(tree)
    return restore(jax.lax.psum(flat, axis_name))


def all_devices(
    kind: ParallelKind, space_shards: int = 1, *, shard_optimizer: bool = False
) -> Parallel:
    """Returns the `Parallel` of a kind (`pmap` or `mesh`) over every device of every process."""
    devices = tuple(jax.devices())
    pack_state = devices[0].platform == "gpu" and not shard_optimizer
    return Parallel(kind, devices, space_shards, shard_optimizer, pack_state)


def batch_size_over(shards: int, batch_size: int) -> int:
    """Returns the smallest batch size, at least `batch_size`, that divides into `shards` parts."""
    return math.ceil(batch_size / shards) * shards
