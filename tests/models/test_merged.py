"""Inputs in flight together: one workload, every answer as if it had been alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import parse_devices
from dynpartition.errors import InputError
from dynpartition.hardware import HardwareBackend
from dynpartition.models import (
    NewTask,
    TaskBlock,
    build_model,
    generate_inputs,
    merge_inputs,
    run_eagerly,
    unfold,
)
from dynpartition.models.interpreter import Interpreter
from dynpartition.models.merged_runs import MergedRun
from dynpartition.models.tasks import block_graph, graph_of
from dynpartition.types import frozen

MODELS = {
    "treelstm": {"input_dim": 6, "hidden_dim": 4},
    "mathfunc": {"width": 4},
    "moe": {"width": 32},
}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    known = build_model(request.param)
    config = {k: v for k, v in MODELS[request.param].items() if hasattr(known.config, k)}
    return build_model(request.param, config)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6))
def test_the_answers_are_those_of_each_input(model, count, seed):
    inputs = generate_inputs(model, count, seed=seed)
    interpreter = Interpreter(model.cells, merge_inputs(inputs).start())
    for task in interpreter.revealing():
        interpreter.compute(interpreter.missing(task))
        interpreter.expand(task)
    interpreter.compute(range(len(interpreter.tasks)))  # what has been computed stays the same
    returned = {
        t: interpreter.outputs[t] for t, task in enumerate(interpreter.tasks) if task.returns
    }
    answers = interpreter.run.answers(returned)
    for one, answer in zip(inputs, answers, strict=True):
        torch.testing.assert_close(answer, run_eagerly(one))


def test_the_graph_is_the_union_and_tells_requests(model):
    inputs = generate_inputs(model, 4, seed=3)
    graph = merge_inputs(inputs).graph
    assert len(graph) == sum(len(one.graph) for one in inputs)
    first = 0
    for number, one in enumerate(inputs):
        part = range(first, first + len(one.graph))
        assert set(graph.request[part].tolist()) == {number}
        assert [tuple(s - first for s in graph.input_lists[t]) for t in part] == list(
            one.graph.input_lists
        )
        revealers = [r - first if r >= 0 else r for r in graph.revealed_by[part].tolist()]
        assert revealers == one.graph.revealed_by.tolist()
        first += len(one.graph)


def test_a_block_says_the_same_as_its_tasks(model):
    tasks, revealed_by = unfold(model.cells, generate_inputs(model, 1, seed=5)[0].start())
    again = TaskBlock.of(tasks).tasks()
    for old, new in zip(tasks, again, strict=True):
        assert (old.kind, old.inputs) == (new.kind, new.inputs)
        assert old.host_input is new.host_input
    block = block_graph(model.graph_cells, TaskBlock.of(tasks), frozen(revealed_by))
    assert block.digest == graph_of(model.graph_cells, tasks, revealed_by).digest
    assert block.output_bytes.tolist() == [task.output_bytes for task in tasks]
    assert block.host_bytes.tolist() == [task.host_bytes for task in tasks]


def test_what_cannot_be_merged_is_refused(model):
    other = build_model("mathfunc")
    with pytest.raises(InputError, match="at least one"):
        merge_inputs([])
    mixed = generate_inputs(model, 1, seed=0) + generate_inputs(other, 1, seed=0)
    with pytest.raises(InputError, match="one and the same model"):
        merge_inputs(mixed)
    run = merge_inputs(generate_inputs(model, 2, seed=0)).start()
    run.opening()
    with pytest.raises(InputError, match="answers"):
        run.answer({})


def test_only_outputs_that_are_there_are_seen():
    model = build_model("treelstm", MODELS["treelstm"])
    inputs = generate_inputs(model, 2, seed=1)
    runs = [one.start() for one in inputs]
    seen = []
    for single in runs:
        single.answers = lambda outputs: (seen.append(sorted(outputs)), [])[1]
    run, n_first = MergedRun(runs), len(inputs[0].graph)
    assert len(run.opening()) == n_first + len(inputs[1].graph)
    run.answers({1: torch.zeros(3), n_first + 3: torch.zeros(3)})
    assert seen == [[1], [3]]


def test_trees_together_are_as_trees_one_by_one():
    model = build_model("treelstm", MODELS["treelstm"])
    samples = [one.sample for one in generate_inputs(model, 5, seed=9)]
    together = model.start_together(samples).opening_block()
    apart = MergedRun([model.start(sample) for sample in samples]).opening_block()
    assert together.inputs.rows == apart.inputs.rows
    for a, b in zip(together.tasks(), apart.tasks(), strict=True):
        assert a.kind == b.kind
        assert (a.host_input is None) == (b.host_input is None)
        assert a.host_input is None or torch.equal(a.host_input, b.host_input)


def test_kinds_of_equal_tasks_are_one():
    task = NewTask(cell="a", output_shape=(2,), host_input=torch.zeros(3))
    other = NewTask(cell="a", output_shape=(2,), host_input=torch.zeros(3, dtype=torch.float64))
    block = TaskBlock.of([task, other, task])
    assert block.kind_of.tolist() == [0, 1, 0]
    assert np.array_equal(block.inputs.start, [0, 0, 0, 0])


def test_sessions_tell_requests_too():
    model = build_model("treelstm", MODELS["treelstm"])
    merged = merge_inputs(generate_inputs(model, 3, seed=4))
    with HardwareBackend(model, parse_devices("cpu:0")) as backend, backend.open(merged) as session:
        assert session.graph.request.tolist() == merged.graph.request.tolist()
        assert session.graph.digest == merged.graph.digest
