"""Conformance check of a model: what executors and schedulers rely on, tried on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynpartition.errors import ModelError
from dynpartition.models.interpreter import Interpreter, call_cell, task_arguments
from dynpartition.models.model import DynamicModel, ModelInput, NewTask
from dynpartition.models.variants import variant_of

RTOL, ATOL = 1e-4, 1e-5
"""Tolerances between two ways of computing the same in float32."""


def check_model(model: DynamicModel[Any], samples: Sequence[Any]) -> None:
    """Raise ModelError where `model` breaks its contract on one of `samples`.

    Checked: tasks name cells and read smaller numbers; outputs have the declared shape and type;
    cells write to no argument and give a row the same result in a batch as alone;
    revealing tasks reveal something; the answer of the tasks equals `eager`.
    """
    for number, sample in enumerate(samples):
        place = f"model {model.name}, sample {number}"
        answer = _checked_run(model, ModelInput(model, sample), place)
        if not agrees(answer, model.eager(sample)):
            raise ModelError(f"{place}: tasks and eager give different answers")


def agrees(answer: Any, expected: Any) -> bool:
    """Whether two answers are the same up to rounding: tensors, plain values, or structures."""
    if isinstance(expected, Tensor):
        is_alike = isinstance(answer, Tensor) and answer.shape == expected.shape
        if not is_alike or not expected.is_floating_point():
            return is_alike and torch.equal(answer, expected)
        return torch.allclose(answer, expected, rtol=RTOL, atol=ATOL, equal_nan=True)
    if isinstance(expected, Mapping):
        pairs = [(answer.get(key), one) for key, one in expected.items()]
        return len(answer) == len(expected) and all(agrees(*pair) for pair in pairs)
    if isinstance(expected, tuple | list):
        pairs = list(zip(answer, expected, strict=False))
        return len(answer) == len(expected) and all(agrees(*pair) for pair in pairs)
    if isinstance(expected, float):
        return bool(abs(answer - expected) <= ATOL + RTOL * abs(expected))
    return bool(answer == expected)


def _checked_run(model: DynamicModel[Any], model_input: ModelInput, place: str) -> Any:
    interpreter = Interpreter(model.cells, model_input.start())
    for number, task in enumerate(interpreter.tasks):  # the list grows at reveals
        where = f"{place}, task {number} ({task.cell})"
        _check_task(model, task, number, where)
        _check_call(interpreter, number, where)
        if task.reveals:
            before = len(interpreter.tasks)
            interpreter.expand(number)
            if len(interpreter.tasks) == before:
                raise ModelError(f"{where}: reveals no task; expand must return at least one")
    return interpreter.answer()


def _check_task(model: DynamicModel[Any], task: NewTask, number: int, where: str) -> None:
    if task.cell not in model.cells:
        raise ModelError(f"{where}: the model has no such cell")
    if not all(0 <= source < number for source in task.inputs):
        raise ModelError(f"{where}: inputs {task.inputs} must be tasks before it")
    if not task.inputs and task.host_input is None:
        raise ModelError(f"{where}: a task needs an input or a host input")


def _check_call(interpreter: Interpreter, number: int, where: str) -> None:
    task = interpreter.tasks[number]
    arguments = task_arguments(task, interpreter.outputs)
    cell = variant_of(interpreter.cells[task.cell], task.variant)
    _check_pure(cell, arguments, where)
    interpreter.compute([number])
    output = interpreter.outputs[number]
    found = _format(output.dtype, output.shape)
    wanted = _format(task.output_dtype, task.output_shape)
    if found != wanted:
        raise ModelError(f"{where}: gives {found}, not {wanted}")
    _check_rows(cell, arguments, where)


def _format(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"


@torch.inference_mode()
def _check_pure(cell: nn.Module, arguments: list[Tensor], where: str) -> None:
    given = [argument.unsqueeze(0).clone() for argument in arguments]
    cell(*given)
    if not all(torch.equal(a[0], b) for a, b in zip(given, arguments, strict=True)):
        raise ModelError(f"{where}: writes to its arguments; cells must be pure")


def _turned(argument: Tensor) -> Tensor:
    # Bytes stand for packed tensors: turned around they would be any numbers, for indices too.
    is_turnable = argument.dim() and argument.dtype != torch.uint8
    return torch.flip(argument, (0,)) if is_turnable else argument


@torch.inference_mode()
def _check_rows(cell: nn.Module, arguments: list[Tensor], where: str) -> None:
    """Compare a batch of three rows with the rows alone; the middle row is another one."""
    other = [_turned(argument) for argument in arguments]
    rows = [arguments, other, arguments]
    for batched, row in zip(call_cell(cell, rows), rows, strict=True):
        if not torch.allclose(batched, call_cell(cell, [row])[0], rtol=RTOL, atol=ATOL):
            raise ModelError(f"{where}: a row depends on the other rows of its batch")
