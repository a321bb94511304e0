"""The whole loop as a user runs it: finished, interrupted and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from dynpartition.agent.checkpoint import load_checkpoint
from dynpartition.formats import read_graph, read_plan, read_profile, read_runs, read_trace
from dynpartition.models import generate_trees
from dynpartition.validator import find_violations
from tests.leftovers import named_memory

COMMAND = [sys.executable, "-m", "dynpartition"]
NODES = range(5, 20)
"""Of small trees: what is tested here does not depend on the size of inputs, and its time does."""
MARK = "DYNPARTITION_TEST_MARK"
CLOCK_TOLERANCE_NS = 20_000
"""Stamps of two processes, taken around the same instant, may be this far apart."""


def dynpartition(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name a small model and small inputs for it."""
    file = tmp_path_factory.mktemp("trees") / "trees.txt"
    small = (tree for tree in generate_trees(500, seed=0) if len(tree) in NODES)
    # No shape twice: what a profile was fitted to is left out when it is validated.
    trees = {(tree.left, tree.right): tree.text for tree in small}
    file.write_text("\n".join([*trees.values()][:24]) + "\n", encoding="utf-8")
    return ["--model", "treelstm:input_dim=20,hidden_dim=16", "--trees", str(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small: list[str]) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    devices = ["--devices", "cpu:0,cpu:1x0.5"]
    done = dynpartition("quickstart", *small, *devices, "--seconds", "10", "--run", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_it_ends_with_a_table_and_a_report(finished: tuple[Path, str]) -> None:
    folder, output = finished
    for scheduler in ("single:cpu:0", "single:cpu:1", "heft", "random", "split-left-right"):
        assert scheduler in output
    for policy in ("policy, untrained", "policy, pretrained", "policy, fine-tuned"):
        assert policy in output
    assert output.splitlines()[-1] == f"report: {folder / 'report.html'}"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "emulated" in page


def test_every_stage_is_recorded(finished: tuple[Path, str]) -> None:
    record = json.loads((finished[0] / "run.json").read_text())
    stages = {stage["name"]: stage["status"] for stage in record["stages"]}
    names = "calibrate pretrain validate finetune evaluate timeline"
    assert stages == dict.fromkeys(names.split(), "done")


def test_the_real_timeline_obeys_the_semantics(finished: tuple[Path, str]) -> None:
    folder = finished[0] / "timeline"
    graph = read_graph(folder / "graph.json")
    profile = read_profile(finished[0] / "profile.json")
    plan = read_plan(folder / "plan.json", graph)
    real = read_trace(folder / "real.json", graph)
    assert find_violations(graph, profile, plan, real, tolerance_ns=CLOCK_TOLERANCE_NS) == []


def test_other_commands_read_the_folder(
    finished: tuple[Path, str], small: list[str], tmp_path: Path
) -> None:
    folder = finished[0]
    graph, plan = folder / "timeline" / "graph.json", folder / "timeline" / "plan.json"
    profile = folder / "profile.json"
    trace = tmp_path / "trace.json"
    simulated = dynpartition(
        *("simulate", "--graph", graph, "--profile", profile, "--plan", plan, "--json", trace)
    )
    assert simulated.returncode == 0, simulated.stderr
    assert trace.read_text() == (folder / "timeline" / "simulated.json").read_text()
    policy = folder / "pretrain" / "checkpoint"
    scheduled = dynpartition(
        *("schedule", "--graph", graph, "--profile", profile, "--scheduler", "policy"),
        *("--policy", policy, "--json", tmp_path / "plan.json"),
    )
    assert scheduled.returncode == 0, scheduled.stderr
    evaluated = dynpartition(
        *("evaluate", *small, "--profile", profile, "--policy", policy, "--cases", "3")
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert "policy" in evaluated.stdout


def test_fine_tuning_in_a_fresh_process_corrects_and_changes_the_weights(
    finished: tuple[Path, str], small: list[str], tmp_path: Path
) -> None:
    folder, out = finished[0], tmp_path / "tuned"
    start = folder / "pretrain" / "checkpoint"
    words = (
        *("finetune", *small, "--profile", folder / "profile.json", "--policy", start),
        *("--out", out, "--episodes", "60", "--rehearsals", "256"),
    )
    done = dynpartition(*words)
    assert done.returncode == 0, done.stderr
    before, after = load_checkpoint(start), load_checkpoint(out / "checkpoint")
    new = after.policy.weights
    assert any((new[name] != old).any() for name, old in before.policy.weights.items())
    assert f"{after.training['guard']['plays']} is deployed" in done.stdout
    profile = read_profile(out / "profile.json")
    assert profile.provenance["refits"][-1]["runs"] == 24
    assert profile.cells != read_profile(folder / "profile.json").cells
    again = dynpartition(*words, "--resume")
    assert again.returncode == 0, again.stderr
    resumed = load_checkpoint(out / "checkpoint")
    assert all((resumed.policy.weights[name] == weight).all() for name, weight in new.items())
    assert read_profile(out / "profile.json").cells == profile.cells
    other = dynpartition(*words, "--resume", "--seed", "5")
    assert other.returncode == 2
    assert "began with another profile, policy or other settings" in other.stderr


def test_what_is_evaluated_can_be_refitted_to(
    finished: tuple[Path, str], small: list[str], tmp_path: Path
) -> None:
    profile, runs = finished[0] / "profile.json", tmp_path / "runs.json"
    words = ("evaluate", *small, "--profile", profile, "--cases", "4", "--record", runs)
    done = dynpartition(*words, "--backend", "hardware", "--schedulers", "heft", "--repeats", "2")
    assert done.returncode == 0, done.stderr
    assert len(read_runs(runs).runs) == 2 * 4 * 2
    better = tmp_path / "better.json"
    refitted = dynpartition("refit", "--profile", profile, "--runs", runs, "--json", better)
    assert refitted.returncode == 0, refitted.stderr
    assert read_profile(better).provenance["refits"][-1]["runs"] == 16
    simulated = dynpartition(*words)
    assert simulated.returncode == 2
    assert "--record keeps real runs; give --backend hardware" in simulated.stderr


def test_a_folder_with_files_is_not_overwritten(
    finished: tuple[Path, str], small: list[str]
) -> None:
    again = dynpartition("quickstart", *small, "--run", finished[0])
    assert again.returncode == 2
    assert len(again.stderr.strip().splitlines()) == 1
    assert "not empty" in again.stderr


def marked_processes(mark: str) -> list[int]:
    """Return the processes that were started with our mark in their environment."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("needs /proc to see what processes are left")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in environment:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
@pytest.mark.parametrize("after", ["run.json", "profile.json", "validation.json"])
def test_a_stopped_run_is_readable_and_leaves_nothing_behind(
    small: list[str], tmp_path: Path, kind: signal.Signals, status: int, after: str
) -> None:
    mark = uuid.uuid4().hex
    folder = tmp_path / "run"
    shared_before = named_memory()
    process = subprocess.Popen(
        [*COMMAND, "quickstart", *small, "--seconds", "10", "--run", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {MARK: mark},
        start_new_session=True,
    )
    try:
        wait_until(lambda: (folder / after).exists() or process.poll() is not None, seconds=240)
        assert (folder / after).exists()
        time.sleep(0.5)
        if kind == signal.SIGINT:
            os.killpg(process.pid, kind)  # a terminal sends Ctrl-C to the whole group
        else:
            process.kill()
        assert process.wait(timeout=30) == status
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not marked_processes(mark), seconds=10)
    assert marked_processes(mark) == []
    assert named_memory() <= shared_before
    assert not list(folder.rglob("*.tmp"))
    report = dynpartition("report", "--run", folder)
    assert report.returncode == 0, report.stderr
    assert (folder / "report.html").exists()


def wait_until(condition: object, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():  # type: ignore[operator]
        time.sleep(0.05)
