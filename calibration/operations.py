"""What a launch of a cell does: its operators, with the numbers they add and the bytes they move.

Found by running the cell once under PyTorch's dispatcher, so any model will do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from dynpartition.calibration.sheet_costs import Operation
from dynpartition.errors import CalibrationError
from dynpartition.models.interpreter import Interpreter, task_arguments
from dynpartition.models.model import DynamicModel
from dynpartition.models.variants import VariedCell, variant_of


def count_operations(
    model: DynamicModel[Any], samples: Iterable[Any], batches: Sequence[int]
) -> dict[str, dict[int, tuple[Operation, ...]]]:
    """Return cell → tasks in a launch → its operations, for every cell of `model`.

    Each cell is looked at with the arguments of its first task in `samples`, stacked. Raises
    CalibrationError for a cell that no sample calls.
    """
    calls = _first_calls(model, samples)
    missing = [name for name, cell in model.cells.items() if name not in calls and _is_due(cell)]
    if missing:
        raise CalibrationError(f"no sample calls {', '.join(missing)}; give more samples")
    return {
        name: {k: _operations(*calls[name], k) for k in batches}
        for name in model.cells
        if name in calls
    }


def _is_due(cell: nn.Module) -> bool:
    return not (isinstance(cell, VariedCell) and cell.is_optional)


def _first_calls(
    model: DynamicModel[Any], samples: Iterable[Any]
) -> Mapping[str, tuple[nn.Module, Sequence[Tensor]]]:
    found: dict[str, tuple[nn.Module, Sequence[Tensor]]] = {}
    for sample in samples:
        if len(found) == len(model.cells):
            break
        interpreter = Interpreter(model.cells, model.start(sample))
        for number, task in enumerate(interpreter.tasks):  # grows when it is expanded
            if task.cell not in found:
                interpreter.compute([n for n in interpreter.missing(number) if n != number])
                cell = variant_of(model.cells[task.cell], task.variant)
                found[task.cell] = cell, task_arguments(task, interpreter.outputs)
            if task.reveals:
                interpreter.compute(interpreter.missing(number))
                interpreter.expand(number)
    return found


def _operations(cell: nn.Module, arguments: Sequence[Tensor], k: int) -> tuple[Operation, ...]:
    stacked = [torch.stack([argument] * k) for argument in arguments]
    # Not in inference mode: there operators made of others would not be taken apart.
    with torch.no_grad():
        cell(*stacked)  # cells of captured models try a batch out when its shape first comes
        with _Counter() as counter:
            cell(*stacked)
    return tuple(counter.operations)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator that computes something, as opposed to a view."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if func._schema.is_mutable or not _is_view(read, written):
            flops = _flops(func, args, kwargs or {}, written)
            moved = sum(tensor.numel() * tensor.element_size() for tensor in (*read, *written))
            self.operations.append(Operation(flops, moved))
        return result


def _is_view(read: Sequence[Tensor], written: Sequence[Tensor]) -> bool:
    places = {tensor.untyped_storage().data_ptr() for tensor in read}
    return all(tensor.untyped_storage().data_ptr() in places for tensor in written)


def _flops(func: Any, args: Any, kwargs: Any, written: Sequence[Tensor]) -> int:
    """Return the operations of products by PyTorch's own formulas, one per number elsewhere."""
    packet = func.overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=written[0]))
    if "scaled_dot_product" in packet.__name__:
        query, key, value = (tensor.shape for tensor in args[:3])
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]
    return sum(math.prod(tensor.shape) for tensor in written)
