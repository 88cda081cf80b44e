"""Parameters and statistics as two long vectors instead of an array for each layer.

Each call of a compiled step passes every array of the state in and out on the host, and on a GPU
the update starts kernels for each of them: with a small network both take longer than what the
network computes. On a TPU a step takes longer than the call, and taking the vectors apart costs
more than the update saves; see "The step on a GPU" in `benchmarks/NOTES.md`.
"""

import dataclasses
import functools
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the arrays of a tree lie: what is known when a program is compiled.

    Attributes:
      structure: of the tree.
      shapes: of its arrays, in the tree's order.
    """

    structure: Hashable
    shapes: tuple[tuple[int, ...], ...]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["kernels", "others"], meta_fields=["places"]
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """A tree of float32 arrays as vectors; a tree itself, so that its leaves may be other things.

    Attributes:
      kernels: (k) all arrays of two dimensions and more, which weight decay pulls, one after
        another; `None` if there is none.
      others: (n) the others, likewise.
      places: where each array lies in them.
    """

    kernels: Any
    others: Any
    places: Places


def pack(tree: PyTree) -> Packed:
    """Returns a tree of arrays as vectors."""
    arrays, structure = jax.tree.flatten(tree)
    return Packed(
        kernels=_joined(x for x in arrays if is_kernel(x.shape)),
        others=_joined(x for x in arrays if not is_kernel(x.shape)),
        places=_places(structure, tuple(x.shape for x in arrays)),
    )


def unpack(tree: PyTree) -> PyTree:
    """Returns the tree with each packed part unpacked; unchanged if nothing in it is packed."""
    return jax.tree.map(lambda x: _unpack(x) if _is_packed(x) else x, tree, is_leaf=_is_packed)


def pack_like(tree: PyTree, example: PyTree) -> PyTree:
    """Returns the tree, packed where an example of the same structure is packed."""
    return jax.tree.map(
        lambda same, own: pack(own) if _is_packed(same) else own, example, tree, is_leaf=_is_packed
    )


def pack_each(tree: PyTree, structures: Iterable[Hashable]) -> PyTree:
    """Returns the tree with each part that has one of these structures packed."""
    wanted = set(structures)

    def is_wanted(part: Any) -> bool:  # noqa: ANN401
        return jax.tree.structure(part) in wanted

    return jax.tree.map(lambda x: pack(x) if is_wanted(x) else x, tree, is_leaf=is_wanted)


def is_kernel(shape: Sequence[int]) -> bool:
    """Whether an array is a kernel, and neither a scale nor a bias."""
    return len(shape) > 1


# One and the same object for the same places: each call of a compiled step compares what it is
# given with what it was compiled for, and that costs nothing where both are identical.
_places = functools.cache(Places)


def _is_packed(x: Any) -> bool:  # noqa: ANN401
    return isinstance(x, Packed)


def _unpack(packed: Packed) -> PyTree:
    shapes = packed.places.shapes
    kernels = _cut(packed.kernels, [shape for shape in shapes if is_kernel(shape)])
    others = _cut(packed.others, [shape for shape in shapes if not is_kernel(shape)])
    arrays = [next(kernels if is_kernel(shape) else others) for shape in shapes]
    return jax.tree.unflatten(packed.places.structure, arrays)


def _joined(arrays: Iterable[Array]) -> Float[Array, " n"] | None:
    vectors = [x.ravel() for x in arrays]
    return jnp.concatenate(vectors) if vectors else None


def _cut(
    vector: Float[Array, " n"] | None, shapes: Sequence[tuple[int, ...]]
) -> Iterator[Float[Array, "..."]]:
    if vector is None:
        return iter(())
    parts = jax.lax.split(vector, [math.prod(shape) for shape in shapes])
    return (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
