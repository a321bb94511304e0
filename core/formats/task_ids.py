"""Task ids, which files hold, and task indices, which memory holds."""

from __future__ import annotations

from collections.abc import Iterable

from dynpartition.errors import FileFormatError
from dynpartition.graph import TaskGraph


class TaskIds:
    """Translates both ways for one graph."""

    def __init__(self, graph: TaskGraph) -> None:
        self._ids: list[int] = graph.ids.tolist()
        self._index_of = {task_id: index for index, task_id in enumerate(self._ids)}
        self.graph = graph

    def indices(self, ids: Iterable[int], place: str) -> tuple[int, ...]:
        """Return the indices of `ids`; FileFormatError naming `place` when one is unknown."""
        return tuple(
            self.index(task_id, f"{place}[{position}]") for position, task_id in enumerate(ids)
        )

    def index(self, task_id: int, place: str) -> int:
        """Return the index of `task_id`; FileFormatError naming `place` when it is unknown."""
        if task_id not in self._index_of:
            raise FileFormatError(
                f"task {task_id} is not in graph {self.graph.name!r}; give the graph that this"
                f" file was made for – at `{place}`"
            )
        return self._index_of[task_id]

    def ids(self, indices: Iterable[int]) -> tuple[int, ...]:
        """Return the ids of task indices; FileFormatError when one is not in the graph."""
        return tuple(self.id(index) for index in indices)

    def id(self, index: int) -> int:
        """Return the id of a task index; FileFormatError when it is not in the graph."""
        if not 0 <= index < len(self._ids):
            raise FileFormatError(
                f"task index {index} is not in graph {self.graph.name!r}, which has"
                f" {len(self._ids)} tasks"
            )
        return self._ids[index]
