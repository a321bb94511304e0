"""One input on its way through a captured model: its code runs until it needs a value.

The model's `forward` runs in a greenlet: it stands still inside of the PyTorch call that needs a
value, and goes on from there when the value has come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from dynpartition.errors import ModelError
from dynpartition.models.capturing.evaluation import Evaluation, Given, unknown
from dynpartition.models.capturing.recorder import Recorder
from dynpartition.models.capturing.stage import Stage
from dynpartition.models.capturing.structure import Arguments, replaced, tensors_in
from dynpartition.models.capturing.values import ACTIVE, Handle, Ref, TaskNode
from dynpartition.models.tasks import ModelRun, NewTask, TaskBlock, stack_outputs

if TYPE_CHECKING:
    from dynpartition.models.capturing.model import CapturedModel


class CapturedRun(ModelRun):
    """Goes on in the thread in which it began."""

    def __init__(self, model: CapturedModel, sample: Any) -> None:
        self._model = model
        self._sample = sample
        self._recorder = Recorder(model, sample, self._wait)
        self._greenlet = greenlet(self._forward)
        self._n_tasks = 0
        self._awaited: TaskNode | None = None
        self._result: Any = None
        self._returned: list[TaskNode] = []
        self._is_inference = False

    def opening(self) -> list[NewTask]:
        """Return the tasks up to the first value that Python needs."""
        return self.opening_block().tasks()

    def opening_block(self) -> TaskBlock:
        """Return the tasks up to the first value that Python needs, as arrays."""
        return self._resume(None)

    def expand(self, task: int, output: Tensor) -> list[NewTask]:
        """Give the model the value that it waits for; return the tasks up to the next one."""
        return self.expansion_block(task, output).tasks()

    def expansion_block(self, task: int, output: Tensor) -> TaskBlock:
        """Return the same as arrays."""
        if self._awaited is None or task != self._awaited.number:
            raise ModelError(f"task {task} reveals nothing; expand only tasks with reveals=True")
        return self._resume(output)

    def answer(self, outputs: Mapping[int, Tensor]) -> Any:
        """Return what the model's forward returns."""
        evaluation = Evaluation(given=_returned(self._returned, outputs))
        with torch.no_grad():
            return replaced(
                self._result,
                lambda t: evaluation.value(t._ref) if isinstance(t, Handle) else t,
            )

    # The greenlet of the model's code, and what goes in and out

    def _resume(self, value: Tensor | None) -> TaskBlock:
        """Let the model's code go on until it needs a value or returns."""
        before, ACTIVE.recorder = ACTIVE.recorder, self._recorder
        grad = torch.is_grad_enabled()
        self._greenlet.parent = getcurrent()
        try:
            block: TaskBlock = self._greenlet.switch(value)
        finally:
            ACTIVE.recorder = before
            torch.set_grad_enabled(grad)
        self._n_tasks += len(block)
        return block

    def _forward(self, _: None) -> TaskBlock:
        given = Arguments.of(self._sample)
        with torch.no_grad():
            self._result = self._model.module(*given.args, **given.kwargs)
            self._awaited = None
            self._return()
        return Stage(self._recorder, self._n_tasks).block()

    def _wait(self, task: TaskNode) -> Tensor:
        """Tell of what has been recorded, and stand still until a task's output is there."""
        block = Stage(self._recorder, self._n_tasks).block()
        self._awaited = task
        is_grad = torch.is_grad_enabled()
        parent = self._greenlet.parent
        assert parent is not None
        # These modes belong to the thread, and whoever resumes this code has modes of its own.
        with torch.inference_mode(False):
            output: Tensor = parent.switch(block)
        torch.set_grad_enabled(is_grad)
        return output

    def _return(self) -> None:
        """Let the tasks return that the result needs, and at least one."""
        recorder, handles = self._recorder, _handles(self._result)
        for handle in handles:
            self._bring(handle._ref)
        if not recorder.pending:
            # A revealed value has to call for something: the result once more, by itself.
            refs = [handle._ref for handle in handles] or self._last_refs()
            recorder.glue(refs[:1]).returns = True
        self._returned += [task for task in recorder.pending if task.returns]

    def _last_refs(self) -> list[Ref]:
        last = self._recorder.last_forced
        if last is None:
            raise ModelError(
                f"{self._model.name} has called none of its cells ({', '.join(self._model.cells)})"
                " for this sample, so nothing can be placed; name other cells"
            )
        return [last]

    def _bring(self, ref: Ref) -> None:
        """Let what a part of the result needs return to the host, if it is not there."""
        needed = unknown(ref)
        if not needed:
            return
        is_there = all(task.number < 0 for task in needed)
        if is_there and _only_moves(ref):
            for task in needed:
                task.returns = True
            return
        self._recorder.glue([ref]).returns = True


def _handles(result: Any) -> list[Handle]:
    return [tensor for tensor in tensors_in(result) if isinstance(tensor, Handle)]


def _only_moves(ref: Ref) -> bool:
    """Whether the host only has to put outputs together to have the value."""
    return isinstance(ref.node, TaskNode) or ref.node.work == 0


def _returned(tasks: Sequence[TaskNode], outputs: Mapping[int, Tensor]) -> dict[Given, Tensor]:
    """Return the outputs of tasks that return, and the values that they stand for."""
    alike: dict[int, list[TaskNode]] = {}
    for task in tasks:
        alike.setdefault(id(task.packing), []).append(task)
    given: dict[Given, Tensor] = {}
    for group in alike.values():
        stacked = stack_outputs(outputs, [task.number for task in group])
        for number, rows in enumerate(group[0].packing.unpack(stacked)):
            for task, value in zip(group, rows.unbind(0), strict=True):
                given[task, number] = value
                if task.outputs:
                    made = task.outputs[number]
                    given[made.node, made.index] = value
    return given
