"""benchmarks/policy.py: gaps, references that are kept, graphs and profiles of others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dynpartition.agent.families import Setting, draw_world
from dynpartition.formats import write_graph, write_profile

pytest.importorskip("ortools", reason="the extra 'optimal' is not installed")

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "policy.py"
QUICK = ("--evaluations", "300", "--solver-s", "0.3", "--repeats", "1")


def run_script(*words: str) -> str:
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), *QUICK, *words],
        capture_output=True,
        encoding="utf-8",
        timeout=280,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_scheduler_has_a_gap_and_references_are_used_again(tmp_path: Path) -> None:
    kept, first, second = (tmp_path / name for name in ("kept", "first", "second"))
    grid = ("--sizes", "8", "--ratios", "1", "--clusters", "bus", "--worlds", "1")
    common = (*grid, "--schedulers", "heft,local-search@50", "--references", str(kept))
    out = run_script(*common, "--json", str(first), "--plot", str(tmp_path / "plot.png"))
    assert out.startswith("4 worlds")
    content = json.loads(first.read_text(encoding="utf-8"))
    names = [row["scheduler"] for row in content["rows"]]
    assert names == ["heft", "local-search@50", "best-of-heuristics"]
    for row in content["rows"]:
        assert 0 <= row["gap_low"] <= row["gap"] <= row["gap_high"]
        assert row["decision_us"] > 0
        by_family = list(row["by"]["family"].values())
        assert np.mean(by_family) == pytest.approx(row["gap"])
    heft, search, portfolio = content["rows"]
    assert search["gap"] <= portfolio["gap"] <= heft["gap"]
    assert portfolio["against"] == 0
    for world in content["references"]:
        assert 0 < world["bound_ns"] <= world["best_ns"] <= world["makespan_ns"]
    assert (tmp_path / "plot.png").stat().st_size > 1000

    known = json.loads(kept.read_text(encoding="utf-8"))
    assert len(known) == 4
    for entry in known.values():  # what the file says is what counts the next time
        entry["makespan_ns"] = entry["bound_ns"] = 1
    kept.write_text(json.dumps(known), encoding="utf-8")
    run_script(*common, "--json", str(second))
    again = json.loads(second.read_text(encoding="utf-8"))
    assert [world["best_ns"] for world in again["references"]] == [1] * 4
    assert again["rows"][0]["gap"] > content["rows"][0]["gap"]


def test_graphs_and_profiles_of_others(tmp_path: Path) -> None:
    words = []
    for seed in range(2):
        world = draw_world(Setting(family="layered", n_tasks=7), np.random.default_rng(seed))
        graph, profile = (tmp_path / f"{kind}{seed}.json" for kind in ("graph", "profile"))
        write_graph(graph, world.graph)
        write_profile(profile, world.profile)
        words += ["--graph", str(graph), "--profile", str(profile)]
    file = tmp_path / "out.json"
    out = run_script(*words, "--schedulers", "heft", "--json", str(file))
    assert "graph0" in out and "graph1" in out
    assert json.loads(file.read_text(encoding="utf-8"))["worlds"] == 2


def test_counts_where_schedulers_split(tmp_path: Path) -> None:
    """One device never splits, so it is right wherever that pays and wrong everywhere else."""
    file = tmp_path / "out.json"
    grid = ("--sizes", "12", "--ratios", "0.1,10", "--clusters", "bus", "--splitting", "4")
    words = (*grid, "--schedulers", "policy,best-single", "--json", str(file))
    out = run_script(*words)
    assert out.startswith("32 worlds")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["worlds"] == 32
    one, several = content["shares"]["best-single"]
    assert one["right"] == one["worlds"] > 0 == several["right"] < several["worlds"]
    for share in content["shares"]["policy"]:
        low, high = share["interval"]
        assert 0 <= low <= share["right"] / share["worlds"] <= high <= 1


def test_times_decisions_by_the_number_of_tasks(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    words = ("--decisions", "8,40", "--schedulers", "heft,heft+cache", "--json", str(file))
    assert "µs per task" in run_script(*words)
    rows = json.loads(file.read_text(encoding="utf-8"))["decisions"]
    assert [(row["scheduler"], row["tasks"]) for row in rows] == [
        ("heft", 8), ("heft+cache", 8), ("heft", 40), ("heft+cache", 40),
    ]  # fmt: skip
    assert all(0 < row["low"] <= row["median"] for row in rows)


def test_compares_on_worlds_that_policies_do_not_know(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    script = SCRIPT.with_name("transfer.py")
    for words in (("--only", "grid"), ("--only", "graphs of treelstm")):
        command = [sys.executable, str(script), "--worlds", "3", *words, "--json", str(file)]
        ran = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=280)
        assert ran.returncode == 0, ran.stderr
        (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
        assert words[1] in row["worlds"] and row["low"] <= row["ratio"] <= row["high"]


def test_a_kind_that_is_none_is_named() -> None:
    command = [sys.executable, str(SCRIPT.with_name("transfer.py")), "--only", "parse trees"]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=280)
    assert ran.returncode == 2
    assert "--only 'parse trees'" in ran.stderr and "graphs of treelstm" in ran.stderr
