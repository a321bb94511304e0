"""Expressions of vectors as nodes in an order of evaluation, and a random generator of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dynpartition.errors import InputError, ModelError, did_you_mean
from dynpartition.models.seeds import sample_rng

ARITY: Mapping[str, tuple[int, int]] = {
    "value": (0, 0),
    "sin": (1, 1),
    "cos": (1, 1),
    "add": (2, 64),
    "mul": (2, 64),
}
"""Operation → least and largest number of arguments."""

DEPTH_MAX = 200
"""Deeper expressions are an error: they are evaluated by recursion."""

# What may stand below what in random expressions. Every value then stays within ±arity, so that
# results do not overflow and the sine of a huge argument never magnifies rounding.
_BELOW: Mapping[str, tuple[str, ...]] = {
    "sin": ("sin", "cos", "add", "mul"),
    "cos": ("sin", "cos", "add", "mul"),
    "add": ("sin", "cos", "mul"),
    "mul": ("sin", "cos"),
}


@dataclass(frozen=True, eq=False)
class Expression:
    """An expression whose nodes are numbered so that arguments come first; the last is the root.

    Raises InputError for unknown operations, wrong argument counts, arguments that do not come
    first, depths beyond `DEPTH_MAX`, and values that are not finite float32 vectors of one width.
    """

    operations: tuple[str, ...]
    arguments: tuple[tuple[int, ...], ...]
    values: Mapping[int, Tensor]
    """Node of each operation `value` → float32 (W,)."""

    def __post_init__(self) -> None:
        if not self.operations or len(self.operations) != len(self.arguments):
            raise InputError("an expression needs nodes, each with a tuple of arguments")
        depths: list[int] = []
        for node, operation in enumerate(self.operations):
            _check_node(node, operation, self.arguments[node])
            depths.append(1 + max((depths[a] for a in self.arguments[node]), default=-1))
        if max(depths) > DEPTH_MAX:
            raise InputError(f"the expression is {max(depths)} deep; the limit is {DEPTH_MAX}")
        self._check_values()

    def _check_values(self) -> None:
        leaves = {node for node, name in enumerate(self.operations) if name == "value"}
        if leaves != set(self.values):
            raise InputError("values must be given for exactly the nodes with operation 'value'")
        shapes = {value.shape for value in self.values.values()}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            raise InputError("all values must be vectors of one width")
        for node, value in self.values.items():
            if value.dtype != torch.float32 or not bool(torch.isfinite(value).all()):
                raise InputError(f"node {node}: the value must be finite and float32")

    def __len__(self) -> int:
        return len(self.operations)


def _check_node(node: int, operation: str, arguments: tuple[int, ...]) -> None:
    if operation not in ARITY:
        remedy = did_you_mean(operation, ARITY)
        raise InputError(f"node {node}: no operation is named {operation!r}; {remedy}")
    least, most = ARITY[operation]
    if not least <= len(arguments) <= most:
        count = len(arguments)
        raise InputError(f"node {node}: {operation} has {count} arguments, not {least} to {most}")
    if not all(0 <= argument < node for argument in arguments):
        raise InputError(f"node {node}: arguments {arguments} must be nodes before it")


def generate_expressions(
    count: int,
    seed: int,
    *,
    width: int,
    depths: tuple[int, int] = (2, 7),
    arities: tuple[int, int] = (2, 4),
) -> list[Expression]:
    """Return `count` random expressions; expression i depends on (seed, i) and the options alone.

    Depths (edges from the root) and arities of sums and products are drawn from the given ranges,
    ends included. Values are uniform in ±1.
    """
    if not 1 <= depths[0] <= depths[1] <= DEPTH_MAX or not 2 <= arities[0] <= arities[1] <= 64:
        raise ModelError(f"depths {depths} or arities {arities} are no usable range (low, high)")
    growers = (_Grower(sample_rng(seed, index), width, arities) for index in range(count))
    return [grower.expression(depths) for grower in growers]


@dataclass(slots=True)
class _Grower:
    """Grows one random expression from the root down, and numbers its nodes from the leaves up."""

    rng: np.random.Generator
    width: int
    arities: tuple[int, int]
    operations: list[str] = field(default_factory=list)
    arguments: list[tuple[int, ...]] = field(default_factory=list)
    values: dict[int, Tensor] = field(default_factory=dict)

    def expression(self, depths: tuple[int, int]) -> Expression:
        depth = int(self.rng.integers(depths[0], depths[1], endpoint=True))
        self._grow(depth, tuple(_BELOW))
        return Expression(tuple(self.operations), tuple(self.arguments), self.values)

    def _grow(self, depth: int, allowed: tuple[str, ...]) -> int:
        """Append an expression `depth` edges deep and return its root."""
        if depth == 0:
            vector = self.rng.uniform(-1.0, 1.0, self.width).astype(np.float32)
            self.values[len(self.operations)] = torch.from_numpy(vector)
            return self._append("value", ())
        operation = str(self.rng.choice(allowed))
        below = [self._grow(child, _BELOW[operation]) for child in self._depths(operation, depth)]
        return self._append(operation, tuple(below))

    def _depths(self, operation: str, depth: int) -> list[int]:
        """Return the depths of the arguments: one goes all the way, at a random place."""
        if ARITY[operation][1] == 1:
            return [depth - 1]
        count = int(self.rng.integers(*self.arities, endpoint=True))
        depths = self.rng.integers(0, depth, size=count)
        depths[self.rng.integers(count)] = depth - 1
        return [int(value) for value in depths]

    def _append(self, operation: str, arguments: tuple[int, ...]) -> int:
        self.operations.append(operation)
        self.arguments.append(arguments)
        return len(self.operations) - 1
