"""`simulate --lose`: what is printed and written, and what is refused."""

import json
import subprocess
import sys

import pytest

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Device,
    Launch,
    Link,
    Plan,
    Profile,
    Task,
    TaskGraph,
)
from dynpartition.__main__ import main
from dynpartition.formats import read_graph, read_trace, write_graph, write_plan, write_profile
from dynpartition.trace import LaunchSpan

COSTS = {"cpu:0": 100, "cuda:0": 10, "cuda:1": 20}


def save(folder, tasks, *launches):
    """Write graph, profile and plan, and return the words that name them."""
    graph = TaskGraph.from_tasks("world", [Cell("cell")], tasks)
    devices = tuple(Device(name, name.split(":")[0]) for name in COSTS)
    links = tuple(Link(a, b, AffineCost(5, 10**9)) for a in COSTS for b in COSTS if a != b)
    plan = Plan(tuple(Launch(*launch) for launch in launches))
    write_graph(folder / "g.json", graph)
    write_profile(folder / "p.json", Profile(Cluster(devices, links), {}))
    write_plan(folder / "plan.json", plan, graph)
    names = {"graph": "g", "profile": "p", "plan": "plan", "json": "trace"}
    return [w for o, name in names.items() for w in (f"--{o}", str(folder / f"{name}.json"))]


def task(number, *inputs, **fields):
    own = {"output_bytes": 20, "duration_ns": COSTS} | fields
    return Task(id=number, cell="cell", inputs=inputs, **own)


@pytest.fixture
def world(tmp_path):
    return ["simulate", *save(tmp_path, [task(0), task(1)], ("cuda:0", (0,)), ("cuda:1", (1,)))]


def trace_in(folder):
    return read_trace(folder / "trace.json", read_graph(folder / "g.json"))


def test_the_plan_is_played_until_the_loss_and_then_the_scheduler_decides(capsys, tmp_path, world):
    assert main([*world, "--lose", "cuda:1@12ns", "--scheduler", "single:cuda:0"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("makespan 0.000 ms, 2 launches")
    assert out[2] == "lost: cuda:1 at 0.000 ms; wasted: 1 launch, 0.000 ms of work"
    trace = trace_in(tmp_path)
    assert trace.launches == (
        LaunchSpan("cuda:0", (0,), 0, 10),
        LaunchSpan("cuda:0", (1,), 12, 22),
    )
    assert trace.wasted == (LaunchSpan("cuda:1", (1,), 0, 12),)
    assert json.loads((tmp_path / "trace.json").read_text())["wasted"]


def test_heft_is_asked_unless_another_name_is_given(tmp_path, world):
    assert main([*world, "--lose", "cuda:1@12ns"]) == 0
    assert {span.device for span in trace_in(tmp_path).launches} == {"cuda:0"}


def test_two_losses(capsys, tmp_path, world):
    assert main([*world, "--lose", "cuda:1@5ns", "cuda:0@7ns"]) == 0
    assert "lost: cuda:1 at 0.000 ms, cuda:0 at 0.000 ms; wasted: 2" in capsys.readouterr().out
    assert {span.device for span in trace_in(tmp_path).launches} == {"cpu:0"}


def test_a_loss_after_the_end_leaves_the_trace_as_it_was(capsys, tmp_path, world):
    assert main(world) == 0
    before = (tmp_path / "trace.json").read_text()
    assert main([*world, "--lose", "cuda:1@1s"]) == 0
    assert (tmp_path / "trace.json").read_text() == before
    assert "wasted: 0 launches" in capsys.readouterr().out


def test_a_trace_with_hidden_and_late_tasks_is_in_the_file_s_numbering(tmp_path):
    """Task 5 is revealed by 9, task 7 arrives at 3; the session shows them as 9, 7, 5."""
    tasks = [task(5, 9, revealed_by=9), task(7, arrival_ns=3), task(9)]
    words = save(tmp_path, tasks, ("cuda:1", (2,)), ("cuda:0", (1,)), ("cuda:1", (0,)))
    assert main(["simulate", *words, "--lose", "cuda:1@50ns"]) == 0
    trace = trace_in(tmp_path)
    assert trace.wasted == (LaunchSpan("cuda:1", (2,), 0, 20), LaunchSpan("cuda:1", (0,), 45, 50))
    devices = {span.tasks: span.device for span in trace.launches}
    assert devices == {(2,): "cuda:0", (1,): "cuda:0", (0,): "cuda:0"}


def refusal(capsys, *words):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dynpartition: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["--lose", "cuda:1"], "--lose cuda:1: write DEVICE@TIME with a unit"),
        (["--lose", "cuda:1@5"], "--lose cuda:1@5: write DEVICE@TIME with a unit"),
        (["--lose", "cuda:1@5ms:0.5"], "as in cuda:0@5ms"),
        (["--lose", "@5ms"], "--lose @5ms: write"),
        (["--lose", "cuda:7@5ms"], "no device is named 'cuda:7'; did you mean"),
        (["--lose", "cuda:1@2000000s"], "it must be between 0 and 10^15"),
        (["--lose", "cpu:0@5ns"], "cpu:0 is the host and was lost at 5 ns"),
        (["--lose", "cuda:1@5ns", "--scheduler", "hef"], "no scheduler is named 'hef'"),
    ],
)
def test_what_is_refused(capsys, world, words, fragment):
    assert fragment in refusal(capsys, *world, *words)


def test_a_plan_that_waits_for_what_is_revealed_later(capsys, tmp_path):
    tasks = [task(0), task(1, revealed_by=0), task(2)]
    words = save(tmp_path, tasks, ("cuda:0", (0,)), ("cuda:0", (1,)), ("cuda:0", (2,)))
    said = refusal(capsys, "simulate", *words, "--lose", "cuda:1@5ns")
    assert "orders tasks revealed later before earlier ones" in said


def test_nothing_left_to_run_a_task(capsys, tmp_path):
    words = save(tmp_path, [task(4, duration_ns={"cuda:1": 20})], ("cuda:1", (0,)))
    said = refusal(capsys, "simulate", *words, "--lose", "cuda:1@5ns")
    assert "cuda:1 was lost at 5 ns, and now task 4 (cell) has no cost on any device" in said


def test_torch_is_not_imported(world):
    code = "import sys; from dynpartition.__main__ import main; main(sys.argv[1:])"
    words = [*world, "--lose", "cuda:1@5ns"]
    child = [sys.executable, "-c", f"{code}; print('torch' in sys.modules)", *words]
    done = subprocess.run(child, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
