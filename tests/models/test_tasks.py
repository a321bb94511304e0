import pytest
import torch

from dynpartition.errors import ModelError
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.models.tasks import NewTask, StaticRun, graph_of

CELLS = (Cell("a", 40), Cell("b"))


def small_tasks():
    """0 ─ 1 ─ 2, where 1 reveals 2."""
    host = torch.zeros(3, dtype=torch.int64)
    return [
        NewTask(cell="a", output_shape=(2, 5), host_input=host),
        NewTask(cell="b", inputs=(0,), output_shape=(), reveals=True),
        NewTask(cell="a", inputs=(1, 0), output_shape=(7,), returns=True),
    ]


def test_sizes_in_bytes():
    first, second, third = small_tasks()
    assert (first.output_bytes, first.host_bytes) == (40, 24)
    assert (second.output_bytes, second.host_bytes) == (4, 0)
    assert third.output_bytes == 28


def test_graph_equals_the_one_that_is_checked_task_by_task():
    checked = TaskGraph.from_tasks(
        "other name",
        CELLS,
        [
            Task(id=0, cell="a", output_bytes=40, host_bytes=24),
            Task(id=1, cell="b", inputs=(0,), output_bytes=4),
            Task(id=2, cell="a", inputs=(1, 0), output_bytes=28, revealed_by=1, returns=True),
        ],
    )
    graph = graph_of(CELLS, small_tasks(), [-1, -1, 1])
    assert graph.digest == checked.digest


def test_a_growing_list_gives_growing_graphs():
    tasks = small_tasks()
    graph = graph_of(CELLS, tasks[:2], [-1, -1])
    assert len(graph) == 2
    assert graph.tasks() == graph_of(CELLS, tasks, [-1, -1, 1]).tasks()[:2]


def test_a_static_run_reveals_nothing():
    run = StaticRun(small_tasks(), lambda outputs: outputs[2])
    with pytest.raises(ModelError, match="task 1 reveals nothing"):
        run.expand(1, torch.zeros(1))
