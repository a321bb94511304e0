from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynpartition import Cell, Task, TaskGraph
from dynpartition.errors import GraphError

CELLS = [Cell("leaf"), Cell("composer")]


def graph_of(*tasks, cells=CELLS):
    return TaskGraph.from_tasks("g", cells, tasks)


def leaf(task_id, **fields):
    return Task(id=task_id, cell="leaf", **fields)


def composer(task_id, *inputs, **fields):
    return Task(id=task_id, cell="composer", inputs=inputs, **fields)


def test_tasks_are_ordered_by_id_and_inputs_become_indices():
    graph = graph_of(composer(9, 7, 5, 7), leaf(7, output_bytes=3), leaf(5))
    assert graph.ids.tolist() == [5, 7, 9]
    assert graph.inputs.start.tolist() == [0, 0, 0, 3]
    assert graph.inputs.values.tolist() == [1, 0, 1]
    assert graph.input_lists == ((), (), (1, 0, 1))
    assert graph.reader_lists == ((2,), (2,), ())
    assert graph.output_bytes.tolist() == [0, 3, 0]
    assert graph.label(2) == "task 9 (composer)"


def test_arrays_are_read_only():
    graph = graph_of(leaf(0))
    for array in (graph.ids, graph.cell_of, graph.output_bytes, graph.inputs.values):
        with pytest.raises(ValueError):
            array[...] = 1


def test_records_give_the_same_graph_back():
    graph = graph_of(
        leaf(4, host_bytes=8, arrival_ns=3, request=2, duration_ns={"cpu:0": 0}),
        composer(6, 4, revealed_by=4, returns=True),
    )
    again = TaskGraph.from_tasks("other name", graph.cells, graph.tasks())
    assert again.digest == graph.digest
    assert again.tasks() == graph.tasks()


def test_topological_order_takes_the_smallest_index_first():
    graph = graph_of(composer(0, 3), leaf(1), leaf(2, revealed_by=1), leaf(3))
    assert graph.topological_order == (1, 2, 3, 0)


@pytest.mark.parametrize(
    ("tasks", "fragment"),
    [
        ((), "graph 'g' has no tasks"),
        ((leaf(3), composer(3)), "task id 3 is used twice"),
        ((composer(1, 1),), "task 1 (composer) reads its own output"),
        ((composer(1, 2),), "task 1 (composer): input 2 is no task"),
        ((leaf(1, revealed_by=2),), "revealed_by 2 is no other task"),
        ((leaf(1, revealed_by=1),), "revealed_by 1 is no other task"),
        ((Task(id=1, cell="composr"),), "did you mean 'composer'?"),
        ((leaf(1, output_bytes=-1),), "output_bytes is -1"),
        ((leaf(1, host_bytes=10**15 + 1),), "host_bytes is 1000000000000001"),
        ((leaf(1, arrival_ns=-5),), "arrival_ns is -5"),
        ((leaf(1, duration_ns={"cpu:0": -2}),), "duration_ns['cpu:0'] is -2"),
        ((leaf(-1),), "id is -1"),
        ((composer(1, 2), composer(2, 1)), "tasks form a cycle: "),
        ((leaf(1, revealed_by=2), composer(2, 1)), "tasks form a cycle: "),
    ],
)
def test_what_is_no_graph_is_refused(tasks, fragment):
    with pytest.raises(GraphError) as caught:
        graph_of(*tasks)
    assert fragment in str(caught.value)


def test_a_cell_listed_twice_is_refused():
    with pytest.raises(GraphError, match="cell 'leaf' is listed twice"):
        graph_of(leaf(0), cells=[Cell("leaf"), Cell("leaf")])


def test_a_cycle_is_named_in_reading_order():
    tasks = [leaf(0), composer(1, 0, 4), composer(2, 1), composer(4, 2), composer(5, 4)]
    with pytest.raises(GraphError) as caught:
        graph_of(*tasks)
    names = str(caught.value).split(": ")[1].split(";")[0].split(" → ")
    assert names[0] == names[-1]
    assert set(names) == {"1", "2", "4"}
    pairs = set(pairwise(names))
    assert pairs == {("1", "2"), ("2", "4"), ("4", "1")}


def test_a_long_cycle_is_shortened():
    tasks = [composer(i, (i + 1) % 50) for i in range(50)]
    with pytest.raises(GraphError, match="…") as caught:
        graph_of(*tasks)
    assert len(str(caught.value)) < 150


def test_gates_are_closed_over_revealers_and_inputs():
    graph = graph_of(
        leaf(0),
        leaf(1, revealed_by=0),
        leaf(2, revealed_by=1),
        composer(3, 2),
        composer(4, 0),
    )
    assert graph.gates == ((), (0,), (0, 1), (0, 1), ())
    assert graph.revealers == (0, 1)


def test_a_subgraph_is_renumbered_in_the_order_given():
    graph = graph_of(leaf(5), leaf(7), composer(9, 5, 7, revealed_by=7))
    part = graph.subgraph([1, 0, 2])
    assert part.ids.tolist() == [0, 1, 2]
    assert part.input_lists == ((), (), (1, 0))
    assert part.revealed_by.tolist() == [-1, -1, 0]


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 12))
    ids = sorted(draw(st.sets(st.integers(0, 99), min_size=count, max_size=count)))
    tasks = []
    for position, task_id in enumerate(ids):
        before = st.sampled_from(ids[:position]) if position else st.nothing()
        inputs = draw(st.lists(before, max_size=3)) if position else []
        revealer = draw(st.none() | before) if position else None
        size = draw(st.integers(0, 10**15))
        tasks.append(composer(task_id, *inputs, output_bytes=size, revealed_by=revealer))
    return tasks


@given(graphs(), st.randoms(use_true_random=False))
def test_digest_ignores_the_name_and_the_order_of_tasks(tasks, random):
    shuffled = list(tasks)
    random.shuffle(shuffled)
    one = TaskGraph.from_tasks("one", CELLS, tasks)
    other = TaskGraph.from_tasks("other", CELLS, shuffled)
    assert one.digest == other.digest


@given(graphs(), st.data())
def test_digest_sees_every_change(tasks, data):
    graph = graph_of(*tasks)
    position = data.draw(st.integers(0, len(tasks) - 1))
    field = data.draw(st.sampled_from(["host_bytes", "arrival_ns", "request", "returns"]))
    changed = [
        composer(
            task.id,
            *task.inputs,
            output_bytes=task.output_bytes,
            revealed_by=task.revealed_by,
            **({field: 1} if number == position else {}),
        )
        for number, task in enumerate(tasks)
    ]
    assert graph_of(*changed).digest != graph.digest
    assert graph_of(*tasks, cells=[*CELLS, Cell("more")]).digest != graph.digest


@given(graphs())
def test_csr_rows_and_readers_agree(tasks):
    graph = graph_of(*tasks)
    edges = {(s, t) for t, inputs in enumerate(graph.input_lists) for s in inputs}
    assert edges == {(s, t) for s, readers in enumerate(graph.reader_lists) for t in readers}
    assert int(graph.inputs.start[-1]) == len(graph.inputs.values)
    assert np.all(np.diff(graph.inputs.start) >= 0)
    assert sorted(graph.topological_order) == list(range(len(graph)))
