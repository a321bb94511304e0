"""Computes recorded values on the host, from the outputs of tasks that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from dynpartition.models.capturing.values import Const, OpNode, Ref, TaskNode, filled

Outputs = Mapping[int, Tensor]
"""Outputs of a task, by their number."""


Given = tuple[TaskNode | OpNode, int]
"""A node and which of its outputs."""


class Evaluation:
    """Computes values, each once."""

    def __init__(
        self,
        outputs_of: Callable[[TaskNode, Evaluation], Outputs] | None = None,
        given: Mapping[Given, Tensor] | None = None,
    ) -> None:
        """`outputs_of`: what a task outputs that has not come to the host; None: all have.

        `given`: values that are known besides.
        """
        self._outputs_of = outputs_of
        self._given = given or {}
        self._outputs: dict[TaskNode, Outputs] = {}
        self._made: dict[OpNode, Any] = {}

    def value(self, leaf: Ref | Const) -> Tensor:
        """Return the value of a ref or a constant."""
        if isinstance(leaf, Const):
            return leaf.tensor
        node, index = leaf.node, leaf.index
        if index in node.known:
            return node.known[index]
        given = self._given.get((node, index))
        if given is not None:
            return given
        if isinstance(node, TaskNode):
            return self._task_outputs(node)[index]
        task = node.task
        if task is not None and max(0, index) in task.known:
            return task.known[max(0, index)]
        if task is not None and self._outputs_of is not None:
            return self._task_outputs(task)[max(0, index)]
        made = self._made_by(node)
        result: Tensor = made if index < 0 else made[index]
        return result

    def _task_outputs(self, task: TaskNode) -> Outputs:
        if task not in self._outputs:
            assert self._outputs_of is not None, "the task has not come to the host"
            self._outputs[task] = self._outputs_of(task, self)
        return self._outputs[task]

    def _made_by(self, node: OpNode) -> Any:
        if node not in self._made:
            calling = node.calling
            leaves = [self.value(leaf) for leaf in node.leaves]
            args, kwargs = filled(calling.args, leaves), filled(calling.kwargs, leaves)
            if calling.in_place:
                target = args[0].clone()
                calling.function(target, *args[1:], **kwargs)
                self._made[node] = target
            else:
                self._made[node] = calling.function(*args, **kwargs)
        return self._made[node]


def unknown(ref: Ref) -> list[TaskNode]:
    """Return the tasks that a value needs and whose outputs have not come to the host."""
    found: dict[TaskNode, None] = {}
    seen: set[OpNode] = set()
    pending: list[Ref | Const] = [ref]
    while pending:
        leaf = pending.pop()
        if isinstance(leaf, Const) or leaf.index in leaf.node.known:
            continue
        node = leaf.node
        task = node if isinstance(node, TaskNode) else node.task
        if task is not None:
            if max(0, leaf.index) not in task.known:
                found[task] = None
        elif isinstance(node, OpNode) and node not in seen:
            seen.add(node)
            pending += node.leaves
    return list(found)
