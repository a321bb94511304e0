"""Whatever is written reads back equal, and the same content gives the same bytes."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    Dispatch,
    DispatchSpan,
    Launch,
    LaunchSpan,
    Link,
    MonitorSample,
    Plan,
    Profile,
    Reveal,
    TableCost,
    Task,
    TaskGraph,
    Trace,
    TransferSpan,
)
from dynpartition.formats import (
    read_graph,
    read_plan,
    read_profile,
    read_trace,
    write_graph,
    write_plan,
    write_profile,
    write_trace,
)

FEWER = settings(max_examples=50)  # every example writes two files
AMOUNT = st.integers(0, 10**15)
POSITIVE = st.integers(1, 10**15)
NAME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
NAMES = st.lists(NAME, min_size=1, max_size=3, unique=True)


def through_file(write, read, *context):
    """Write, read back, write again; return what was read."""
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder, "one.json"), Path(folder, "two.json")
        write(one)
        result = read(one, *context)
        write(two)
        assert one.read_bytes() == two.read_bytes()
        assert one.read_bytes().endswith(b"}\n")
        assert sorted(path.name for path in Path(folder).iterdir()) == ["one.json", "two.json"]
    return result


@st.composite
def graphs(draw):
    cells = [Cell(name, draw(AMOUNT)) for name in draw(NAMES)]
    ids = sorted(draw(st.sets(AMOUNT, min_size=1, max_size=6)))
    tasks = [draw(task_of(cells, task_id, ids[:n])) for n, task_id in enumerate(ids)]
    return TaskGraph.from_tasks(draw(NAME), cells, tasks)


@st.composite
def task_of(draw, cells, task_id, before):
    earlier = st.sampled_from(before) if before else st.nothing()
    return Task(
        id=task_id,
        cell=draw(st.sampled_from(cells)).name,
        inputs=tuple(draw(st.lists(earlier, max_size=3))) if before else (),
        output_bytes=draw(AMOUNT),
        duration_ns=draw(st.dictionaries(NAME, AMOUNT, max_size=2)),
        revealed_by=draw(st.none() | earlier),
        arrival_ns=draw(AMOUNT),
        request=draw(AMOUNT),
        host_bytes=draw(AMOUNT),
        returns=draw(st.booleans()),
    )


@FEWER
@given(graphs())
def test_graphs(graph):
    again = through_file(lambda path: write_graph(path, graph), read_graph)
    assert again.name == graph.name
    assert again.digest == graph.digest
    assert again.tasks() == graph.tasks()


AFFINE = st.builds(AffineCost, AMOUNT, POSITIVE)
TABLE = st.dictionaries(POSITIVE, POSITIVE, min_size=1, max_size=4).map(
    lambda points: TableCost(tuple(sorted(points.items())))
)
CURVE = st.dictionaries(POSITIVE, AMOUNT, min_size=1, max_size=4).map(
    lambda points: Curve(tuple(sorted(points)), tuple(points[k] for k in sorted(points)))
)
JSON = st.recursive(
    st.none() | st.booleans() | AMOUNT | st.floats(allow_nan=False, allow_infinity=False) | NAME,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAME, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def profiles(draw):
    names = draw(NAMES)
    device = st.sampled_from(names)
    devices = [
        Device(
            name,
            draw(st.sampled_from(["cpu", "cuda"])),
            draw(st.none() | POSITIVE),
            draw(st.floats(0.01, 1)),
        )
        for name in names
    ]
    ends = [(src, dst) for src in names for dst in names if src != dst]
    links = [
        Link(
            src,
            dst,
            draw(AFFINE | TABLE),
            tuple(draw(st.lists(NAME, max_size=2, unique=True))),
            draw(st.sampled_from([None, "src", "dst", "both"])),
        )
        for src, dst in ends
        if draw(st.booleans())
    ]
    cluster = Cluster(tuple(devices), tuple(links), draw(device))
    cells = draw(st.dictionaries(NAME, st.dictionaries(device, CURVE), max_size=3))
    provenance = draw(st.dictionaries(NAME, JSON, max_size=2))
    return Profile(cluster, cells, draw(dispatches(device)), provenance)


def dispatches(device):
    per_device = st.dictionaries(device, AMOUNT, max_size=2)
    affine_per_device = st.dictionaries(device, AFFINE, max_size=2)
    return st.builds(
        Dispatch,
        host_mode=st.sampled_from(["none", "single", "threads", "processes", "replay"]),
        h=AMOUNT | per_device | st.dictionaries(NAME, per_device, max_size=2),
        h_copy=AMOUNT,
        lock=st.floats(0, 1),
        handoff_ns=AMOUNT,
        queue_depth=st.none() | POSITIVE,
        bookkeeping_ns=AMOUNT | per_device,
        copy_in=affine_per_device,
        copy_out=affine_per_device,
        sync_ns=AMOUNT,
        decision_ns=AMOUNT,
    )


@FEWER
@given(profiles())
def test_profiles(profile):
    assert through_file(lambda path: write_profile(path, profile), read_profile) == profile


@FEWER
@given(graphs(), st.data())
def test_plans(graph, data):
    tasks = st.lists(st.integers(0, len(graph) - 1), min_size=1, max_size=3).map(tuple)
    plan = Plan(tuple(data.draw(st.lists(st.builds(Launch, NAME, tasks), max_size=4))))
    assert through_file(lambda path: write_plan(path, plan, graph), read_plan, graph) == plan


@FEWER
@given(graphs(), st.data())
def test_traces(graph, data):
    task = st.integers(0, len(graph) - 1)
    tasks = st.lists(task, min_size=1, max_size=3).map(tuple)
    times = st.tuples(AMOUNT, AMOUNT).map(sorted)

    def some(one):
        return tuple(data.draw(st.lists(one, max_size=3)))

    trace = Trace(
        data.draw(AMOUNT),
        some(st.builds(lambda d, k, t: LaunchSpan(d, k, *t), NAME, tasks, times)),
        some(
            st.builds(
                lambda s, d, k, b, t, h: TransferSpan(s, d, k, b, *t, h),
                *(NAME, NAME, tasks, AMOUNT, times, st.booleans()),
            )
        ),
        some(st.builds(lambda d, k, t: DispatchSpan(d, k, *t), NAME, tasks, times)),
        some(st.builds(lambda k, t: Reveal(k, *t), task, times)),
        monitor=some(
            st.builds(
                MonitorSample,
                *(NAME, AMOUNT, *([st.none() | AMOUNT] * 2), st.none() | st.floats(0, 1e6)),
                *([st.none() | AMOUNT] * 2),
                st.lists(NAME, max_size=2).map(tuple),
            )
        ),
    )
    assert through_file(lambda path: write_trace(path, trace, graph), read_trace, graph) == trace


def test_files_hold_ids_and_memory_holds_indices(tmp_path, diamond, plan):
    path = tmp_path / "plan.json"
    write_plan(path, plan, diamond)
    assert path.read_text() == (
        '{\n "format": "dynpartition-plan",\n "version": 1,\n "launches": [\n'
        '  {"device": "cuda:0", "tasks": [10, 20]},\n'
        '  {"device": "cpu:0", "tasks": [30]},\n'
        '  {"device": "cpu:0", "tasks": [40]}\n ]\n}\n'
    )
    assert read_plan(path, diamond) == plan


def test_a_trace_always_lists_loads(tmp_path, diamond):
    path = tmp_path / "trace.json"
    write_trace(path, Trace(0, ()), diamond)
    for key in ("launches", "transfers", "dispatches", "loads", "reveals"):
        assert f'"{key}": []' in path.read_text()


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"cells": {"leaf": {"cpu:0": Curve((1,), (-1,))}}}, '$.cells["leaf"]["cpu:0"]'),
        ({"dispatch": Dispatch(lock=float("nan"))}, "$.dispatch.lock"),
        ({"dispatch": Dispatch(bookkeeping_ns={"cpu:7": 1})}, "no device is named 'cpu:7'"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, profile, change, fragment):
    from dataclasses import replace

    from dynpartition import DynPartitionError

    path = tmp_path / "profile.json"
    with pytest.raises(DynPartitionError) as caught:
        write_profile(path, replace(profile, **change))
    assert fragment in str(caught.value)
    assert str(path) in str(caught.value)
    assert not list(tmp_path.iterdir())
