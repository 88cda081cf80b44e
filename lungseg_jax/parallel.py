"""One step on many devices: `pmap` and `mesh` as two wrappers of the same function.

A step maps (state, store, batch) to (state, metrics). The state and the store are the same on
every device; the batch is spread. Under `pmap` a step sees its device's part of the batch and
reduces over the axis `AXIS` itself; under `mesh` it sees the global batch and XLA's partitioner
inserts the reductions.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXIS = "data"

Step = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


@dataclasses.dataclass(frozen=True)
class Parallel:
    """How steps spread over devices.

    Attributes:
      kind: `pmap` or `mesh`.
      devices: all devices of all processes.
    """

    kind: str
    devices: tuple[jax.Device, ...]  # pyright: ignore[reportInvalidTypeForm]

    @property
    def axis_name(self) -> str | None:
        """The mapped axis that a step must reduce over; `None` where batches are global."""
        return AXIS if self.kind == "pmap" else None

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self._mesh, PartitionSpec())

    def replicate(self, tree: PyTree) -> PyTree:
        """Returns the tree with a copy on every device."""
        return _place(tree, self.replicated)

    def shard(self, batch: PyTree) -> PyTree:
        """Returns this process's part of a batch spread over its devices.

        Under `pmap` a leading axis over devices is added.
        """
        if self.kind == "pmap":
            count = len(self._mesh.devices)
            batch = jax.tree.map(
                lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch
            )
        return _place(batch, self._spread)

    @functools.cached_property
    def everywhere(self) -> NamedSharding:
        """The sharding of replicated arrays in a checkpoint: whole on the devices of all hosts."""
        return NamedSharding(Mesh(np.asarray(self.devices), (AXIS,)), PartitionSpec())

    def to_checkpoint(self, state: PyTree) -> PyTree:
        """Returns a replicated tree as arrays that all processes hold together."""
        return state if self.replicated == self.everywhere else _place(state, self.everywhere)

    def from_checkpoint(self, state: PyTree) -> PyTree:
        """Returns what `to_checkpoint` was given."""
        return state if self.replicated == self.everywhere else self.replicate(state)

    @functools.cached_property
    def _mesh(self) -> Mesh:
        """Arrays of a `pmap` belong to one process, those of a `mesh` to all of them."""
        own = [device for device in self.devices if device.process_index == jax.process_index()]
        return Mesh(np.asarray(own if self.kind == "pmap" else self.devices), (AXIS,))

    @functools.cached_property
    def _spread(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(AXIS))

    def wrap_step(self, step: Step) -> Callable[..., Any]:
        """Returns the compiled training step over all devices; it takes over the state's memory.

        Args:
          step: see the module's docstring; under `pmap` its results must be the same on every
            device.
        """
        if self.kind == "pmap":
            return jax.pmap(
                step,
                axis_name=AXIS,
                in_axes=(None, None, 0),
                out_axes=None,  # type: ignore[arg-type]
                devices=self.devices,
                donate_argnums=(0,),
            )
        return jax.jit(
            step,
            in_shardings=(self.replicated, self.replicated, self._spread),
            out_shardings=self.replicated,
            donate_argnums=(0,),
        )

    def wrap_forward(self, forward: Callable[[PyTree, PyTree], PyTree]) -> Callable[..., Any]:
        """Returns the compiled function from (state, batch) to one result an example."""
        if self.kind == "pmap":
            return jax.pmap(forward, axis_name=AXIS, in_axes=(None, 0), devices=self.devices)
        return jax.jit(
            forward, in_shardings=(self.replicated, self._spread), out_shardings=self._spread
        )

    def collect(self, results: jax.Array) -> np.ndarray:
        """Returns this process's results of `wrap_forward`, in the order its batch had."""
        shards = sorted(results.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        local = np.concatenate([np.asarray(shard.data) for shard in shards])
        return local.reshape(-1, *local.shape[2:]) if self.kind == "pmap" else local


def _place(tree: PyTree, sharding: NamedSharding) -> PyTree:
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def all_devices(kind: str) -> Parallel:
    """Returns the way of `kind` (`pmap` or `mesh`) over every device of every process."""
    return Parallel(kind, tuple(jax.devices()))
