"""Compiled lowering gives the readable one's programs, number for number."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from dynpartition import Launch, Plan, Program, TaskGraph, lower
from dynpartition.errors import DynPartitionError, PlanError
from dynpartition.lowering import lower_quickly
from dynpartition.merging import merged
from dynpartition.sim.worlds import random_world
from dynpartition.types import Ragged, frozen


def without_secrets(graph: TaskGraph) -> TaskGraph:
    """Return the graph with everything known from the start."""
    nothing = frozen(np.zeros(len(graph), dtype=np.int64))
    return dataclasses.replace(graph, revealed_by=frozen(nothing - 1), arrival_ns=nothing)


def assert_same(quick: Program, readable: Program) -> None:
    for field in dataclasses.fields(Program):
        a, b = getattr(quick, field.name), getattr(readable, field.name)
        if isinstance(b, Ragged):
            assert a.rows == b.rows, field.name
        elif isinstance(b, tuple):
            assert [rows.tolist() for rows in a] == [rows.tolist() for rows in b]
        else:
            assert a.tolist() == b.tolist(), field.name


def test_programs_are_the_same_in_random_worlds() -> None:
    n_copies = n_batches = 0
    for seed in range(400):
        world = random_world(seed)
        graph, cluster = without_secrets(world.graph), world.profile.cluster
        try:
            readable = lower(graph, cluster, world.plan)
        except PlanError as error:
            with pytest.raises(PlanError) as caught:
                lower_quickly(graph, cluster, world.plan)
            assert str(caught.value) == str(error)
            continue
        assert_same(lower_quickly(graph, cluster, world.plan), readable)
        together = Plan(tuple(merged(graph, world.plan.launches)))
        assert_same(lower_quickly(graph, cluster, together), lower(graph, cluster, together))
        n_copies += readable.n_copies
        n_batches += sum(b - a > 1 for a, b in pairwise(readable.launch_tasks.start.tolist()))
    assert n_copies > 1000
    assert n_batches > 100


@pytest.mark.parametrize(
    "rows",
    [
        [("cpu:0", (0,)), ("cpu:0", (1, 2)), ("cpu:0", (3,))],  # different cells
        [("cpu:0", (0, 1)), ("cpu:0", (3,)), ("cpu:0", (2,))],  # read before it is made
        [("cpu:0", (0, 1)), ("cpu:0", (2,))],  # incomplete
        [("cpu:0", (0, 0)), ("cpu:0", (1,)), ("cpu:0", (2,)), ("cpu:0", (3,))],  # twice
        [("cpu:0", (0, 1)), ("gpu:0", (2,)), ("cpu:0", (3,))],  # no such device
        [("cpu:0", (0, 1)), ("cpu:0", (2,)), ("cpu:0", (4,))],  # no such task
        [("cpu:0", (0, 1)), ("cpu:0", ()), ("cpu:0", (2,)), ("cpu:0", (3,))],  # an empty launch
    ],
)
def test_illegal_plans_get_the_same_words(diamond, profile, rows) -> None:
    graph = without_secrets(diamond)
    plan = Plan(tuple(Launch(device, tasks) for device, tasks in rows))
    with pytest.raises(DynPartitionError) as readable:
        lower(graph, profile.cluster, plan)
    with pytest.raises(DynPartitionError) as quick:
        lower_quickly(graph, profile.cluster, plan)
    assert str(quick.value) == str(readable.value)


def test_a_plan_with_secrets_goes_to_the_readable_one(diamond, profile, plan) -> None:
    assert_same(
        lower_quickly(diamond, profile.cluster, plan), lower(diamond, profile.cluster, plan)
    )
