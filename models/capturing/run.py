"""One input on its way through a captured model: its code runs until it needs a value.

The model's `forward` runs in a greenlet: it stands still inside of the PyTorch call that needs a
value, and goes on from there when the value has come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from greenlet import error as GreenletError
from greenlet import getcurrent, greenlet
from torch import Tensor

from dynpartition.errors import ModelError
from dynpartition.models.capturing.evaluation import Evaluation, Given, unknown
from dynpartition.models.capturing.recorder import Recorder
from dynpartition.models.capturing.structure import Arguments, replaced, tensors_in
from dynpartition.models.capturing.values import ACTIVE, Handle, Ref, TaskNode
from dynpartition.models.tasks import ModelRun, NewTask, TaskBlock, stack_outputs

if TYPE_CHECKING:
    from dynpartition.models.capturing.model import CapturedModel


class CapturedRun(ModelRun):
    """Goes on in the thread in which it began.

    What runs in the greenlet knows nothing of the run, so that a run that nobody holds any longer
    ends at once, wherever its code stands still.
    """

    def __init__(self, model: CapturedModel, sample: Any) -> None:
        self._story = _Story(Recorder(model, sample, _wait), sample)
        self._greenlet = greenlet(_tell)

    def __del__(self) -> None:
        """End code that stands still; it leaves modes of its own, but none of the thread's."""
        left = getattr(self, "_greenlet", None)  # none where making it has failed
        if left and not left.dead:
            with suppress(GreenletError, ValueError):  # of another thread, which ends it itself
                left.parent = getcurrent()
                # The mode that is on, once more: at the end all modes are as they are now.
                with torch.inference_mode(torch.is_inference_mode_enabled()):
                    left.throw()

    def opening(self) -> list[NewTask]:
        """Return the tasks up to the first value that Python needs."""
        return self.opening_block().tasks()

    def opening_block(self) -> TaskBlock:
        """Return the tasks up to the first value that Python needs, as arrays."""
        return self._resume(self._story)

    def expand(self, task: int, output: Tensor) -> list[NewTask]:
        """Give the model the value that it waits for; return the tasks up to the next one."""
        return self.expansion_block(task, output).tasks()

    def expansion_block(self, task: int, output: Tensor) -> TaskBlock:
        """Return the same as arrays."""
        awaited = self._story.recorder.awaited
        if awaited is None or task != awaited.number:
            raise ModelError(f"task {task} reveals nothing; expand only tasks with reveals=True")
        return self._resume(output)

    def answer(self, outputs: Mapping[int, Tensor]) -> Any:
        """Return what the model's forward returns."""
        evaluation = Evaluation(given=_returned(self._story.returned, outputs))
        with torch.no_grad():
            return replaced(
                self._story.result,
                lambda t: evaluation.value(t._ref) if isinstance(t, Handle) else t,
            )

    def _resume(self, given: _Story | Tensor) -> TaskBlock:
        """Let the model's code go on until it needs a value or returns."""
        before, ACTIVE.recorder = ACTIVE.recorder, self._story.recorder
        is_grad = torch.is_grad_enabled()
        try:
            self._greenlet.parent = getcurrent()
            block: TaskBlock = self._greenlet.switch(given)
        except GreenletError as error:
            raise ModelError(
                f"a run of {self._story.recorder.model.name} was begun in another thread; go on"
                " with it there"
            ) from error
        finally:
            ACTIVE.recorder = before
            torch.set_grad_enabled(is_grad)
        return block


@dataclass
class _Story:
    """What comes of a run."""

    recorder: Recorder
    sample: Any
    result: Any = None
    returned: Sequence[TaskNode] = ()
    """Tasks that the result is made of."""


def _tell(story: _Story) -> TaskBlock:
    """Run the model's code; return the last tasks that it asks for."""
    recorder, given = story.recorder, Arguments.of(story.sample)
    with torch.no_grad():
        story.result = recorder.model.module(*given.args, **given.kwargs)
        recorder.awaited = None
        story.returned = _brought(recorder, _handles(story.result))
    return recorder.told()


def _wait(recorder: Recorder, task: TaskNode) -> Tensor:
    """Tell of what has been recorded, and stand still until a task's output is there."""
    block, recorder.awaited = recorder.told(), task
    is_grad, parent = torch.is_grad_enabled(), getcurrent().parent
    assert parent is not None
    # These modes belong to the thread, and whoever resumes this code has modes of its own.
    with torch.inference_mode(False):
        output: Tensor = parent.switch(block)
    torch.set_grad_enabled(is_grad)
    return output


def _brought(recorder: Recorder, handles: Sequence[Handle]) -> list[TaskNode]:
    """Let the tasks return that a result needs, and at least one; return those that do."""
    for handle in handles:
        _bring(recorder, handle._ref)
    if not recorder.pending:
        # A revealed value has to call for something: the result once more, by itself.
        last = handles[0]._ref if handles else recorder.last_forced
        if last is None:
            model = recorder.model
            raise ModelError(
                f"{model.name} has called none of its cells ({', '.join(model.cells)}) for this"
                " sample, so nothing can be placed; name other cells"
            )
        recorder.glue([last]).returns = True
    return [task for task in recorder.pending if task.returns]


def _bring(recorder: Recorder, ref: Ref) -> None:
    """Let what a part of the result needs return to the host, if it is not there."""
    needed = unknown(ref)
    if needed and _only_moves(ref) and all(task.number < 0 for task in needed):
        for task in needed:
            task.returns = True
    elif needed:
        recorder.glue([ref]).returns = True


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
