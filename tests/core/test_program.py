"""Lowering of small plans. The diamond has tasks 0, 1 (leaves), 2 (composer), 3 (output)."""

import pytest

from dynpartition import Cluster, Launch, Plan, lower
from dynpartition.errors import PlanError
from dynpartition.program import COPY, RECORD, RUN, WAIT


def test_the_programs_of_a_plan_on_two_devices(diamond, profile, plan):
    """Task 0 has an input from the host; the leaves' outputs come back as one transfer."""
    program = lower(diamond, profile.cluster, plan)
    on_cpu, on_cuda = (code.tolist() for code in program.code)
    assert on_cuda == [[WAIT, 0], [RUN, 0], [RECORD, 0], [COPY, 1]]
    assert on_cpu == [[COPY, 0], [WAIT, 1], [RUN, 1], [RECORD, 1], [RUN, 2], [RECORD, 2]]
    assert program.copy_bytes.tolist() == [8, 2400]
    assert program.copy_tasks.rows == ((0,), (0, 1))
    assert program.copy_is_input.tolist() == [1, 0]
    assert program.launch_gates.rows == ((), (), (2,))


def test_lists_say_the_same_without_records(diamond, profile, plan):
    """Only task 3 may have to become known; nothing has to arrive later."""
    lists = lower(diamond, profile.cluster, plan).lists
    assert lists.code == (
        ((COPY, 0), (WAIT, 1), (RUN, 1), (RUN, 2)),
        ((WAIT, 0), (RUN, 0), (COPY, 1)),
    )
    assert lists.launch_device == [1, 0, 0]
    assert lists.copy_key == [(0, 1, 1), (0, 0, 0)]
    assert lists.copy_bytes == [8, 2400]
    assert lists.held_launches == {2}
    assert not lists.held_copies


def test_on_one_device_nothing_travels(diamond, profile):
    rows = [(0, 1), (2,), (3,)]
    plan = Plan(tuple(Launch("cpu:0", tasks) for tasks in rows))
    program = lower(diamond, profile.cluster, plan)
    assert program.n_copies == 0
    assert program.code[0].tolist() == [[op, n] for n in range(3) for op in (RUN, RECORD)]


def test_every_wait_has_one_copy(diamond, profile):
    devices = ["cuda:0", "cpu:0", "cuda:0", "cpu:0"]
    plan = Plan(tuple(Launch(device, (task,)) for task, device in enumerate(devices)))
    program = lower(diamond, profile.cluster, plan)
    pairs = [tuple(pair) for code in program.code for pair in code.tolist()]
    waits = sorted(number for opcode, number in pairs if opcode == WAIT)
    copies = sorted(number for opcode, number in pairs if opcode == COPY)
    assert copies == list(range(program.n_copies))
    assert set(waits) <= set(copies)


def test_a_missing_link_is_a_plan_error(diamond, profile, plan):
    alone = Cluster(profile.cluster.devices)
    with pytest.raises(PlanError, match=r"must travel from cpu:0 to cuda:0, but .* no such link"):
        lower(diamond, alone, plan)


def test_appending_launches_keeps_the_numbers_of_the_shorter_plan(diamond, profile, plan):
    short = lower(diamond, profile.cluster, Plan(plan.launches[:2]), complete=False)
    whole = lower(diamond, profile.cluster, plan)
    assert whole.launch_tasks.rows[:2] == short.launch_tasks.rows
    assert whole.copy_tasks.rows[: short.n_copies] == short.copy_tasks.rows
    added = [code.tolist() for code in whole.segment(short.n_launches, short.n_copies)]
    assert added == [[[RUN, 2], [RECORD, 2]], []]
