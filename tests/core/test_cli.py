"""The command line as its users meet it: help, usage errors, verbs, and what stays unimported."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from dynpartition import Plan, Task, TaskGraph, __version__
from dynpartition.__main__ import main
from dynpartition.cli import frame
from dynpartition.cli.registry import VERBS, load_verb
from dynpartition.cli.verb import Verb
from dynpartition.formats import (
    load_shipped,
    read_graph,
    read_plan,
    read_trace,
    shipped_names,
    write_graph,
    write_plan,
    write_profile,
)


@pytest.fixture
def world(tmp_path, diamond, profile, plan):
    """Files of a small world, and the options that name them."""
    write_graph(tmp_path / "g.json", diamond)
    write_profile(tmp_path / "p.json", profile)
    write_plan(tmp_path / "plan.json", plan, diamond)
    return ["--graph", str(tmp_path / "g.json"), "--profile", str(tmp_path / "p.json")]


def refusal(capsys, *words):
    """Return the one line that a command ends with."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dynpartition: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}" in out for name in VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_documented_and_takes_json_and_seed(capsys, name):
    verb = load_verb(name)
    assert issubclass(verb, Verb)
    assert verb.__doc__
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--json" in out
    assert "--seed" in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dynpartition {__version__}\n"


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ([], "give a command: "),
        (["simulat"], "no command is named 'simulat'; did you mean 'simulate'?"),
        (["--verbose"], "no command is named '--verbose'"),
        (["simulate"], "simulate: --graph and --profile and --plan must be given"),
        (["simulate", "--grap", "g"], "no option is named --grap; did you mean '--graph'?"),
        (["simulate", "--graph=g"], "--profile and --plan must be given"),
        (["profiles", "--seed"], "Missing value for argument '--seed'"),
        (["profiles", "--seed", "x"], "--seed is 'x'; give a whole number"),
        (["profiles", "--seed", "-1"], "--seed is -1; give a number from 0"),
        (["profiles", "more"], "Unrecognized options: more"),
    ],
)
def test_usage_errors_are_one_clear_line(capsys, words, fragment):
    assert fragment in refusal(capsys, *words)


def test_simulate_writes_a_trace(capsys, tmp_path, world, diamond):
    files = ["--plan", str(tmp_path / "plan.json"), "--json", str(tmp_path / "trace.json")]
    assert main(["simulate", *world, *files]) == 0
    trace = read_trace(tmp_path / "trace.json", diamond)
    out = capsys.readouterr().out
    assert out.startswith(f"makespan {trace.makespan_ns / 1e6:.3f} ms, 3 launches, 2 transfers\n")
    assert "busy: cpu:0 " in out
    assert [span.tasks for span in trace.launches] == [(0, 1), (2,), (3,)]


def test_simulate_counts_loads_and_runs_slower_when_told(capsys, tmp_path, diamond, profile, plan):
    """cuda:0 starts empty: it loads its cells, and takes longer at half its pace."""
    cells = [replace(cell, param_bytes=10**6) for cell in diamond.cells]
    write_graph(tmp_path / "g.json", replace(diamond, cells=tuple(cells)))
    devices = tuple(replace(device, resident=()) for device in profile.cluster.devices)
    limited = replace(profile, cluster=replace(profile.cluster, devices=devices))
    write_profile(tmp_path / "p.json", limited)
    write_plan(tmp_path / "plan.json", plan, diamond)
    files = (("--graph", "g.json"), ("--profile", "p.json"), ("--plan", "plan.json"))
    words = ["simulate", *(word for option, name in files for word in (option, tmp_path / name))]
    words = [str(word) for word in words]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert re.match(r"makespan [\d.]+ ms, 3 launches, 2 transfers, [12] loads?\n", first)
    slowed = [f"{device.name}@0ns:0.5" for device in devices]
    assert main([*words, "--slow", *slowed]) == 0
    assert makespan_ms(capsys.readouterr().out) > makespan_ms(first)


def makespan_ms(out):
    return float(out.split()[1])


def test_without_json_simulate_only_prints(tmp_path, world):
    before = sorted(tmp_path.iterdir())
    assert main(["simulate", *world, "--plan", str(tmp_path / "plan.json")]) == 0
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("scheduler", ["heft", "single:cpu:0", "random"])
def test_schedule_writes_a_plan_that_simulate_accepts(
    capsys, tmp_path, world, diamond, profile, scheduler
):
    path = tmp_path / "out.json"
    assert main(["schedule", *world, "--scheduler", scheduler, "--json", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{scheduler}: makespan ")
    assert " decided in " in said
    read_plan(path, diamond, profile.cluster)
    assert main(["simulate", *world, "--plan", str(path)]) == 0
    simulated = capsys.readouterr().out.split(" ms")[0]
    assert simulated in said


def test_the_same_seed_gives_the_same_plan(tmp_path, world):
    def plan_of(seed, name):
        path = tmp_path / name
        words = ["--scheduler", "random", "--json", str(path), "--seed", str(seed)]
        assert main(["schedule", *world, *words]) == 0
        return path.read_bytes()

    assert plan_of(3, "one.json") == plan_of(3, "two.json")


def test_plans_of_graphs_with_hidden_tasks_are_in_the_file_s_numbering(tmp_path, world, profile):
    """Task 1 is revealed by task 9, so a session numbers it last; the plan file says 1."""
    graph = TaskGraph.from_tasks(
        "hidden",
        load_graph_cells(world),
        [
            Task(id=1, cell="output", revealed_by=9),
            Task(id=5, cell="leaf"),
            Task(id=9, cell="leaf"),
        ],
    )
    write_graph(tmp_path / "g.json", graph)
    path = tmp_path / "out.json"
    assert main(["schedule", *world, "--scheduler", "single:cpu:0", "--json", str(path)]) == 0
    plan = read_plan(path, graph, profile.cluster)
    assert isinstance(plan, Plan)
    launched = [task for row in json.loads(path.read_text())["launches"] for task in row["tasks"]]
    assert launched[-1] == 1
    assert sorted(launched) == [1, 5, 9]


def load_graph_cells(world):
    from pathlib import Path

    return read_graph(Path(world[1])).cells


def test_an_unknown_scheduler_is_refused(capsys, world):
    assert "heft" in refusal(capsys, "schedule", *world, "--scheduler", "heftt")


def test_profiles_lists_what_is_shipped(capsys, tmp_path):
    path = tmp_path / "list.json"
    assert main(["profiles", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    entries = json.loads(path.read_text())["profiles"]
    assert [entry["name"] for entry in entries] == list(shipped_names())
    for entry in entries:
        assert entry["name"] in out
        assert entry["origin"] in out
        assert entry["devices"] == list(load_shipped(entry["name"]).cluster.names)


def test_an_interrupt_says_so(capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(frame, "parse", interrupt)
    assert main(["profiles"]) == 130
    assert capsys.readouterr().err == "dynpartition: interrupted\n"


INTERRUPTED = """
import sys
from dynpartition.cli import frame
RAISE = "raise KeyboardInterrupt"
def interrupt(_):
    {body}
frame.parse = interrupt
sys.exit(frame.run_command([]))
"""


@pytest.mark.parametrize(
    "body",
    [
        "exec(RAISE)",
        "type('A', (), {'a': type('B', (), {'__set_name__': lambda *_: exec(RAISE)})()})",
    ],
    ids=["in code run from a string", "wrapped by the creation of a class"],
)
def test_the_status_of_an_interrupt_is_130_wherever_it_hits(tmp_path, body):
    (tmp_path / "interrupted.py").write_text(INTERRUPTED.format(body=body))
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "dynpartition: interrupted\n")


def test_an_error_with_control_characters_stays_one_line(capsys):
    err = refusal(capsys, "profiles\n\x1b[31m")
    assert "\x1b" not in err


HEAVY = ["torch", "scipy", "matplotlib", "cuda", "pynvml"]
HEAVY += ["scipy.linalg", "scipy.optimize", "scipy.sparse", "scipy.stats"]
CHILD = f"""
import sys
from dynpartition.__main__ import main
status = main(sys.argv[1:])
print("heavy:", sorted(set({HEAVY}) & set(sys.modules)))
sys.exit(status)
"""


@pytest.mark.parametrize("verb", ["--help", "simulate --help", "simulate", "schedule", "profiles"])
def test_light_commands_import_nothing_heavy(tmp_path, world, verb):
    words = {
        "simulate": ["simulate", *world, "--plan", str(tmp_path / "plan.json")],
        "schedule": ["schedule", *world, "--scheduler", "best-of-heuristics"],
    }.get(verb, verb.split())
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # Heuristics are compiled, and numba itself imports these two.
    expected = ["scipy", "scipy.linalg"] if verb == "schedule" else []
    assert done.stdout.splitlines()[-1] == f"heavy: {expected}"
