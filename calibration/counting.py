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
from dynpartition.models.interpreter import Interpreter

ResultT = TypeVar("ResultT")


def count_work(model: DynamicModel[Any], inputs: Iterable[ModelInput]) -> dict[str, Work]:
    """Return what the calls of each cell do, as the first of them in `inputs` is shaped.

    Cells that no input calls are missing.
    """
    calls: dict[str, tuple[Any, ...]] = {}
    handles = [
        cell.register_forward_pre_hook(_keeper(calls, name)) for name, cell in model.cells.items()
    ]
    try:
        for item in inputs:
            if len(calls) == len(model.cells):
                break
            _run_once(model, item)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _work_of(model.cells[name], arguments) for name, arguments in calls.items()}


def _keeper(
    calls: dict[str, tuple[Any, ...]], name: str
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        calls.setdefault(name, arguments)

    return keep


@torch.inference_mode()
def _run_once(model: DynamicModel[Any], item: ModelInput) -> None:
    interpreter = Interpreter(model.cells, item.start())
    for task in interpreter.revealing():
        interpreter.compute(range(len(interpreter.outputs), task + 1))
        interpreter.expand(task)
    interpreter.compute(range(len(interpreter.outputs), len(interpreter.tasks)))


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def _work_of(cell: nn.Module, arguments: tuple[Any, ...]) -> Work:
    result, ops, flops = counted(lambda: cell(*arguments))
    size = len(arguments[0])
    moved = sum(tensor.numel() * tensor.element_size() for tensor in (*arguments, result))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in cell.parameters())
    return Work(ops, flops / size, weights, moved / size)


def counted(call: Callable[[], ResultT]) -> tuple[ResultT, int, int]:
    """Return what `call` returns, how many operators it called, and its floating-point operations.

    Those of products, as PyTorch counts them: a multiplication with an addition is two.
    """
    flops, counting = FlopCounterMode(display=False), _Counting()
    with flops, counting:
        result = call()
    return result, counting.count, flops.get_total_flops()
