"""What calls of cells and modules do, counted while they run; the arithmetic of operator models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dynpartition.calibration.operators import Work
from dynpartition.models import DynamicModel, ModelInput
from dynpartition.models.interpreter import Interpreter, task_arguments
from dynpartition.models.variants import variant_of
from dynpartition.models.weights import parameter_bytes

ResultT = TypeVar("ResultT")


def count_work(model: DynamicModel[Any], inputs: Iterable[ModelInput]) -> dict[str, Work]:
    """Return what the calls of each cell do, as the first of them in `inputs` is shaped.

    Cells that no input calls are missing.
    """
    calls: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {}
    for item in inputs:
        if len(calls) == len(model.cells):
            break
        _note_calls(model, item, calls)
    return {name: _work_of(model.cells[name], *call) for name, call in calls.items()}


@torch.inference_mode()
def _note_calls(
    model: DynamicModel[Any],
    item: ModelInput,
    calls: dict[str, tuple[nn.Module, tuple[Any, ...]]],
) -> None:
    """Note the first call of every cell, with its arguments (1, *shape)."""
    interpreter = Interpreter(model.cells, item.start())
    for number, task in enumerate(interpreter.tasks):  # the list grows at reveals
        if task.cell not in calls:
            arguments = task_arguments(task, interpreter.outputs)
            cell = variant_of(model.cells[task.cell], task.variant)
            calls[task.cell] = cell, tuple(argument.unsqueeze(0) for argument in arguments)
        interpreter.compute([number])
        if task.reveals:
            interpreter.expand(number)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def _work_of(owner: nn.Module, cell: nn.Module, arguments: tuple[Any, ...]) -> Work:
    """Return what a call does; `owner` has the weights."""
    result, ops, flops = counted(lambda: cell(*arguments))
    size = len(arguments[0])
    moved = sum(tensor.numel() * tensor.element_size() for tensor in (*arguments, result))
    return Work(ops, flops / size, parameter_bytes(owner), moved / size)


def counted(call: Callable[[], ResultT]) -> tuple[ResultT, int, int]:
    """Return what `call` returns, how many operators it called, and its floating-point operations.

    Those of products, as PyTorch counts them: a multiplication with an addition is two.
    """
    flops, counting = FlopCounterMode(display=False), _Counting()
    with flops, counting:
        result = call()
    return result, counting.count, flops.get_total_flops()
