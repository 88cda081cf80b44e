"""Parameters and statistics as two long vectors instead of an array for each layer.

Each call of a compiled step passes every array of the state in and out on the host, and on a GPU
the update launches kernels for each of them: with a small network, both take longer than the
network's computations. On a TPU a step takes longer than the call, and splitting the vectors costs
more than the update saves; see "The step on a GPU" in `benchmarks/NOTES.md`.

Three forms are distinguished by name:
  plain: a tree of arrays, such as the parameters of a network;
  packed: a `Packed`, which holds what one plain tree of float32 holds, as two vectors;
  mixed: a tree of which any part, none or all may be packed, such as a `TrainState`.
"""

import dataclasses
import functools
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# mypy takes a `PyTree` by another name for no type unless that is declared.
Plain: TypeAlias = PyTree
Mixed: TypeAlias = PyTree


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the arrays of a plain tree lie in a packed one: known when a program is compiled.

    Attributes:
      structure: the plain tree's structure.
      shapes: the shapes of its arrays, in the tree's order.
    """

    structure: Hashable
    shapes: tuple[tuple[int, ...], ...]


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["kernels", "others"], meta_fields=["places"]
)
@dataclasses.dataclass(frozen=True)
class Packed:
    """A plain tree as vectors; itself a pytree, so that its leaves may be other things.

    Attributes:
      kernels: (k) all arrays of two or more dimensions, to which weight decay applies,
        concatenated; `None` if there is none.
      others: (n) scales, biases and running statistics, likewise.
      places: where each array of the plain tree lies in them.
    """

    kernels: Any
    others: Any
    places: Places


def pack(plain: Plain) -> Packed:
    """Returns a whole plain tree as one `Packed`."""
    arrays, structure = jax.tree.flatten(plain)
    return Packed(
        kernels=_join(array for array in arrays if is_kernel(array.shape)),
        others=_join(array for array in arrays if not is_kernel(array.shape)),
        places=_places(structure, tuple(array.shape for array in arrays)),
    )


def unpack(mixed: Mixed) -> Plain:
    """Returns the plain tree: each packed part as `pack` got it, and all else unchanged."""
    return jax.tree.map(
        lambda part: _unpack_whole(part) if _is_packed(part) else part, mixed, is_leaf=_is_packed
    )


def pack_like(plain: Plain, example: Mixed) -> Mixed:
    """Returns the plain tree with those parts packed that are packed in the example.

    Args:
      plain: the tree to pack.
      example: a tree to which `unpack` gives the structure of `plain`.
    """
    return jax.tree.map(
        lambda in_example, part: pack(part) if _is_packed(in_example) else part,
        example,
        plain,
        is_leaf=_is_packed,
    )


def pack_each(plain: Plain, structures: Iterable[Hashable]) -> Mixed:
    """Returns the plain tree with each part that has one of these structures packed by itself."""
    wanted = set(structures)

    def is_wanted(part: Any) -> bool:
        return jax.tree.structure(part) in wanted

    return jax.tree.map(
        lambda part: pack(part) if is_wanted(part) else part, plain, is_leaf=is_wanted
    )


def is_kernel(shape: Sequence[int]) -> bool:
    """Whether an array is a kernel, and neither a scale nor a bias."""
    return len(shape) > 1


# The very same object for equal places: each call of a compiled step compares what it is given
# with what it was compiled for, and that costs nothing where both are identical.
_places = functools.cache(Places)


def _is_packed(part: Any) -> bool:
    return isinstance(part, Packed)


def _unpack_whole(packed: Packed) -> Plain:
    """Returns the plain tree that `pack` was given."""
    shapes = packed.places.shapes
    kernels = _cut(packed.kernels, [shape for shape in shapes if is_kernel(shape)])
    others = _cut(packed.others, [shape for shape in shapes if not is_kernel(shape)])
    arrays = [next(kernels if is_kernel(shape) else others) for shape in shapes]
    return jax.tree.unflatten(packed.places.structure, arrays)


def _join(arrays: Iterable[Array]) -> Float[Array, " n"] | None:
    """Returns arrays one after another, as one vector."""
    vectors = [array.ravel() for array in arrays]
    return jnp.concatenate(vectors) if vectors else None


def _cut(
    vector: Float[Array, " n"] | None, shapes: Sequence[tuple[int, ...]]
) -> Iterator[Float[Array, "..."]]:
    """Returns the arrays of these shapes that `_join` was given."""
    if vector is None:
        return iter(())
    parts = jax.lax.split(vector, [math.prod(shape) for shape in shapes])
    return (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
