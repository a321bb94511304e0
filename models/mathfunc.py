"""Expressions of sums, products, sines and cosines of vectors: graphs of any shape, known answers.

Axes: k tasks of a launch, W width of the vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from dynpartition.errors import InputError
from dynpartition.models.config import ModelConfig
from dynpartition.models.expressions import Expression, generate_expressions
from dynpartition.models.model import DynamicModel, NewTask, StaticRun


@dataclass(frozen=True)
class MathFuncConfig(ModelConfig):
    """Width of the vectors, and how often each cell repeats its work so that tasks cost more."""

    width: int = 256
    work: int = 1


class Repeated(nn.Module):
    """A function of vectors, (k, W) each → (k, W), computed `work` times for the same result."""

    def __init__(self, function: Callable[..., Tensor], work: int) -> None:
        super().__init__()
        self.function = function
        self.work = work

    def forward(self, *arguments: Tensor) -> Tensor:
        """Return the function of the arguments; all but the last repetition only take time."""
        for _ in range(self.work - 1):
            self.function(*arguments)
        return self.function(*arguments)


def add(*terms: Tensor) -> Tensor:
    """Return the sum of the terms, from left to right."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def mul(*factors: Tensor) -> Tensor:
    """Return the product of the factors, from left to right."""
    product = factors[0]
    for factor in factors[1:]:
        product = product * factor
    return product


FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "value": torch.clone,
    "sin": torch.sin,
    "cos": torch.cos,
    "add": add,
    "mul": mul,
}
"""Cell name → function. `value` hands on a host input; `add` and `mul` take two or more."""


class MathFunc(DynamicModel[Expression]):
    """The sample is an expression; the answer is the value of its root: (W,).

    Task j is node j of the expression, so arguments come before what uses them.
    """

    name = "mathfunc"
    summary = "expressions of sin, cos, add and mul over vectors"
    config_type = MathFuncConfig
    config: MathFuncConfig

    def _make_cells(self) -> dict[str, nn.Module]:
        return {name: Repeated(function, self.config.work) for name, function in FUNCTIONS.items()}

    def start(self, sample: Expression) -> StaticRun:
        """Return the run of an expression: all its tasks are known from the start."""
        self._check_width(sample)
        root = len(sample) - 1
        tasks = [self._task(sample, node, root) for node in range(len(sample))]
        return StaticRun(tasks, lambda outputs: outputs[root])

    def _task(self, expression: Expression, node: int, root: int) -> NewTask:
        value = expression.values.get(node)
        return NewTask(
            cell=expression.operations[node],
            inputs=expression.arguments[node],
            output_shape=(self.config.width,),
            output_dtype=self.config.dtype,
            host_input=None if value is None else value.to(self.config.dtype),
            returns=node == root,
        )

    @torch.inference_mode()
    def eager(self, sample: Expression) -> Tensor:
        """Return the value by recursion from the root, with PyTorch's own functions."""
        self._check_width(sample)
        values = {node: value.to(self.config.dtype) for node, value in sample.values.items()}
        return _evaluated(sample, len(sample) - 1, values)

    def _check_width(self, sample: Expression) -> None:
        width = next(iter(sample.values.values())).numel()
        if width != self.config.width:
            raise InputError(
                f"the expression's values have {width} entries, but the model's width is"
                f" {self.config.width}; generate it with the model's configuration"
            )

    def digest(self, sample: Expression) -> str:
        """Return the digest of operations, structure and values."""
        hasher = hashlib.sha256(repr((sample.operations, sample.arguments)).encode())
        for node in sorted(sample.values):
            hasher.update(sample.values[node].detach().cpu().numpy().astype("<f4").tobytes())
        return hasher.hexdigest()

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[Expression]:
        """Return random expressions 2 to 7 levels deep, with sums and products of 2 to 4."""
        assert isinstance(config, MathFuncConfig)
        return generate_expressions(count, seed, width=config.width)


def _evaluated(expression: Expression, node: int, known: dict[int, Tensor]) -> Tensor:
    if node not in known:  # a node may be used more than once
        arguments = [_evaluated(expression, a, known) for a in expression.arguments[node]]
        known[node] = _applied(expression.operations[node], arguments)
    return known[node]


def _applied(operation: str, arguments: list[Tensor]) -> Tensor:
    if operation in ("add", "mul"):
        return reduce(torch.add if operation == "add" else torch.mul, arguments)
    return torch.sin(arguments[0]) if operation == "sin" else torch.cos(arguments[0])
