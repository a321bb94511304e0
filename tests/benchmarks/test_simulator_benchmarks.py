"""The simulator's benchmarks run, agree with each other, and write what they measured."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dynpartition import Conditions, Plan, Profile, TaskGraph, Trace
from dynpartition.sim import simulate
from dynpartition.sim.worlds import find_difference, random_world

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run_script(*words: str) -> str:
    command = [sys.executable, str(BENCHMARKS / words[0]), *words[1:]]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=280)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_all_engines_agree_and_are_measured(tmp_path: Path) -> None:
    """The script itself compares every start and end before it measures."""
    out = run_script("sim_speed.py", "--quick", "--json", str(tmp_path / "speed.json"))
    assert "All engines agree" in out
    content = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert {"naive", "reference", "heapq", "kernel"} <= content["us_per_world"].keys()
    assert all(row["median"] > 0 for row in content["us_per_world"].values())


def test_sizes_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    words = ("--tasks", "100,200", "--devices", "2", "--rounds", "1", "--json", str(file))
    assert len(run_script("sim_scale.py", *words).splitlines()) == 3
    rows = json.loads(file.read_text(encoding="utf-8"))["sizes"]
    assert [row["tasks"] for row in rows] == [100, 200]
    assert all(row["peak_mb"] > 10 for row in rows)


def test_a_campaign_counts_features_and_shows_single_worlds(tmp_path: Path) -> None:
    file = tmp_path / "campaign.json"
    out = run_script("campaign.py", "--worlds", "600", "--jobs", "1", "--json", str(file))
    assert out.endswith("no differences\n")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["worlds"] == 600 and content["differences"] == []
    assert content["features"]["reveal"] > 50
    assert run_script("campaign.py", "--seed", "7") == "seed 7: no difference\n"


def test_decisions_are_counted_in_every_row(tmp_path: Path) -> None:
    file = tmp_path / "env.json"
    words = ("--envs", "4", "--rounds", "1", "--seconds", "0.05", "--pretrain-seconds", "0")
    run_script("env_speed.py", *words, "--json", str(file))
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 16 and sum(row["batching"] for row in rows) == 4
    assert all(row["per_s"] > 0 for row in rows)


def slow_on_batches(
    graph: TaskGraph, profile: Profile, plan: Plan, *, conditions: Conditions
) -> Trace:
    """An engine that is wrong where there are batches."""
    trace = simulate(graph, profile, plan, conditions=conditions)
    wrong = any(len(launch.tasks) > 1 for launch in plan.launches)
    return replace(trace, makespan_ns=trace.makespan_ns + wrong)


def test_a_world_with_a_difference_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    shrink = importlib.import_module("shrinking").shrink
    worlds = (random_world(seed) for seed in range(100))
    world = next(w for w in worlds if find_difference(simulate, slow_on_batches, w))
    small = shrink(simulate, slow_on_batches, world)
    assert find_difference(simulate, slow_on_batches, small)
    assert len(small.graph) == 2 and len(small.plan) == 1
    assert small.profile.cluster.links == () and not small.conditions.slowdowns
