"""The engines that run trees agree, the benchmark writes what it measured, halves lose nothing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dynpartition.models import ParseTree, build_model, generate_trees, read_tree

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WORD = read_tree("(2 word)")
SMALL = read_tree("(2 (2 (2 a) (2 b)) (2 (2 (2 c) (2 d)) (2 e)))")
r"""
         8
       /   \
      2     7
     / \   / \
    0   1 5   6
         / \
        3   4
"""


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = ("level_batched", "two_processes", "unfused")
    return {name: importlib.import_module(f"engines.{name}") for name in names}


def run_script(*words: str) -> str:
    command = [sys.executable, str(BENCHMARKS / "execution.py"), *words]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=280)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_engine_has_a_row_per_number_in_flight(tmp_path: Path) -> None:
    """The script itself compares every answer with the model's before it measures."""
    file = tmp_path / "execution.json"
    out = run_script("--quick", "--hidden", "20", "--json", str(file))
    assert "All answers agree" in out and "asyncio ÷ recursion" in out
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    wanted = ("recursion", "asyncio", "level-batched", "dynpartition", "dynpartition seen")
    assert [(row["in_flight"], row["engine"]) for row in rows] == [
        (in_flight, name) for in_flight in (1, 6, 25) for name in wanted
    ]
    for row in rows:
        assert 0 < row["ms_per_tree"]["low"] <= row["ms_per_tree"]["high"]
        assert row["to"].keys() == {"recursion", "level-batched"}
        assert all(ratio > 0 for ratio in row["to"].values())


def test_trees_come_from_a_file(tmp_path: Path) -> None:
    trees, file = tmp_path / "trees.txt", tmp_path / "execution.json"
    trees.write_text(f"{SMALL.text}\n{WORD.text}\n", encoding="utf-8")
    words = ("--trees", str(trees), "--in-flight", "2", "--engines", "recursion,level-batched")
    out = run_script("--quick", *words, "--json", str(file))
    assert "2 trees of 5.0 nodes" in out and "asyncio" not in out
    assert len(json.loads(file.read_text(encoding="utf-8"))["rows"]) == 2


@pytest.mark.parametrize("trees", [[WORD], [SMALL], [SMALL, WORD, *generate_trees(6, seed=1)]])
def test_hand_written_engines_give_the_answers_of_the_model(
    engines: dict[str, Any], trees: list[ParseTree]
) -> None:
    model = build_model("treelstm", {"hidden_dim": 20})
    expected = [model.eager(tree) for tree in trees]
    tasks = engines["unfused"].AsyncioTasks(model)
    others = (engines["unfused"].Recursion(model), engines["level_batched"].LevelBatched(model))
    for engine in (tasks, *others):
        for answer, wanted in zip(engine.run(trees), expected, strict=True):
            torch.testing.assert_close(answer, wanted, rtol=1e-4, atol=1e-5)
    tasks.close()


def test_levels_are_sorted_by_height(engines: dict[str, Any]) -> None:
    levels = engines["level_batched"].find_levels([WORD, SMALL])
    assert levels.sizes == [6, 2, 1, 1]  # leaves; then 2 and 5, 7, 8 of SMALL
    assert levels.row_of.tolist() == [0, 1, 2, 6, 3, 4, 7, 5, 8, 9]
    assert levels.left.tolist() == [1, 3, 7, 6]
    assert levels.right.tolist() == [2, 4, 5, 8]


# The probe


def test_halves_hold_what_hangs_below_the_roots(engines: dict[str, Any]) -> None:
    split_trees = engines["two_processes"].split_trees
    left, right = split_trees([SMALL, WORD], "left | right")
    assert [tree.text for tree in left] == ["(2 (2 a) (2 b))"]
    assert [tree.text for tree in right] == ["(2 (2 (2 c) (2 d)) (2 e))"]


def test_balanced_halves_differ_by_one_sub_tree_at_most(engines: dict[str, Any]) -> None:
    trees = generate_trees(25, seed=0)
    halves = engines["two_processes"].split_trees(trees, "balanced")
    sizes = [sum(map(len, half)) for half in halves]
    assert sum(sizes) == sum(len(tree) - 1 for tree in trees)
    assert abs(sizes[0] - sizes[1]) <= max(map(len, trees))
    assert [len(half) for half in halves] == [25, 25]


def test_ratios_are_taken_round_by_round(engines: dict[str, Any]) -> None:
    module = engines["two_processes"]
    first = module.Stamps((0, 4_000_000, 10_000_000), (20_000_000, 24_000_000), 4_000_000)
    second = module.Stamps(None, (19_000_000, 27_000_000), 6_000_000)
    row = module.summarise(150, "balanced", [first], [second])
    assert (row.one_process_ms, row.longer_half_ms, row.two_processes_ms) == (10.0, 6.0, 8.0)
    assert row.s_probe == pytest.approx(10 / 8) and row.s_of_lengths == pytest.approx(10 / 6)
    assert row.off_core_share == pytest.approx((0 + 0.25) / 2)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@pytest.mark.skipif(cores() < 2, reason="two processes need two cores")
def test_two_processes_are_measured(tmp_path: Path) -> None:
    file = tmp_path / "probe.json"
    out = run_script("--quick", "--devices", "2", "--json", str(file))
    assert "S_probe" in out
    rows = json.loads(file.read_text(encoding="utf-8"))["two_processes"]
    assert [(row["hidden"], row["split"]) for row in rows] == [
        (150, "left | right"),
        (150, "balanced"),
    ]
    assert all(row["s_probe"] > 0 and row["two_processes_ms"] > 0 for row in rows)
