"""One step on many devices: `pmap` and `mesh` as two wrappers of the same function.

A step maps (state, store, batch) to (state, metrics). The state and the store are the same on
every device; the batch is spread. Under `pmap` a step sees its device's part of the batch and
reduces over the axis `AXIS` itself; under `mesh` it sees the global batch and XLA's partitioner
inserts the reductions.
"""

import dataclasses
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

    @property
    def mesh(self) -> Mesh:
        """The devices as a mesh with the one axis `AXIS`."""
        return Mesh(np.asarray(self.devices), (AXIS,))

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def _spread(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    def replicate(self, tree: PyTree) -> PyTree:
        """Returns the tree with a copy on every device."""
        sharding = self.replicated
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
        )

    def shard(self, batch: PyTree) -> PyTree:
        """Returns this process's part of a batch spread over its devices.

        Under `pmap` a leading axis over devices is added.
        """
        sharding = self._spread
        local = sum(device.process_index == jax.process_index() for device in self.devices)

        def spread(x: np.ndarray) -> jax.Array:
            if self.kind == "pmap":
                x = x.reshape(local, x.shape[0] // local, *x.shape[1:])
            return jax.make_array_from_process_local_data(sharding, x)

        return jax.tree.map(spread, batch)

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


def all_devices(kind: str) -> Parallel:
    """Returns the way of `kind` (`pmap` or `mesh`) over every device of every process."""
    return Parallel(kind, tuple(jax.devices()))
