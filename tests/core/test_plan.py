import pytest

from dynpartition import Launch, Plan, check_plan, single_task_plan
from dynpartition.errors import PlanError, ProfileError


def plan_of(*rows):
    return Plan(tuple(Launch(device, tasks) for device, tasks in rows))


def test_a_legal_plan_passes(diamond, profile, plan):
    check_plan(diamond, profile.cluster, plan)
    assert plan.placement() == {0: "cuda:0", 1: "cuda:0", 2: "cpu:0", 3: "cpu:0"}


def test_plans_grow_by_launches(plan):
    more = [Launch("cpu:0", (9,))]
    longer = plan + more
    assert longer.launches == (*plan.launches, *more)
    assert len(longer) == len(plan) + 1
    assert single_task_plan([(0, "a"), (1, "b")]) == plan_of(("a", (0,)), ("b", (1,)))


def test_a_part_of_a_plan_is_legal_when_not_complete(diamond, profile, plan):
    part = Plan(plan.launches[:1])
    check_plan(diamond, profile.cluster, part, complete=False)
    with pytest.raises(PlanError, match=r"2 tasks are in no launch, first task 30 \(composer\)"):
        check_plan(diamond, profile.cluster, part)


@pytest.mark.parametrize(
    ("rows", "fragment"),
    [
        ([("cpu:0", ())], "launch 0 on cpu:0 has no tasks"),
        ([("cpu:0", (4,))], "launch 0 on cpu:0: task 4 is not in the graph"),
        ([("cpu:0", (-1,))], "task -1 is not in the graph"),
        ([("cpu:0", (0, 2))], "mixes cells: task 10 (leaf) and task 30 (composer)"),
        ([("cpu:0", (0, 0))], "task 10 (leaf) was launched before"),
        ([("cpu:0", (0,)), ("cpu:0", (0,))], "launch 1 on cpu:0: task 10 (leaf) was launched"),
        ([("cpu:0", (0,)), ("cpu:0", (2,))], "task 30 (composer) needs task 20 (leaf)"),
        ([("cpu:0", (0, 1)), ("cpu:0", (3,))], "task 40 (output) needs task 30 (composer)"),
    ],
)
def test_what_cannot_run_is_refused(diamond, profile, rows, fragment):
    with pytest.raises(PlanError) as caught:
        check_plan(diamond, profile.cluster, plan_of(*rows))
    assert fragment in str(caught.value)


def test_an_unknown_device_is_named_with_the_nearest(diamond, profile):
    with pytest.raises(ProfileError, match=r"launch 0 on cuda:1: .* did you mean 'cuda:0'"):
        check_plan(diamond, profile.cluster, plan_of(("cuda:1", (0,))))
