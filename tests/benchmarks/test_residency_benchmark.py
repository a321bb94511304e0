"""The benchmark of weights that do not fit counts what it says."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dynpartition import FixedPlan, Plan, run
from dynpartition.models import build_model
from dynpartition.plan import Launch
from dynpartition.sim import SimBackend

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def residency(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("residency")


def asked(**more: object) -> argparse.Namespace:
    usual = {"node": "2a100", "node_cores": 4, "share": 0.4, "seed": 1, "policy": None}
    return argparse.Namespace(**usual, budget_us=200.0, **more)


def test_the_second_device_gets_the_cap_and_the_link(residency: ModuleType) -> None:
    text = residency.capped_devices("cpu:0x0.5,cpu:1", "1GBps", 500)
    assert text == "cpu:0x0.5,cpu:1@500B~1GBps"
    assert residency.capped_devices("cpu:0,cpu:1", "", 500) == "cpu:0,cpu:1@500B"


def test_inputs_differ_in_tokens_and_in_how_evenly_they_go(residency: ModuleType) -> None:
    items = residency.inputs_of(build_model("moe", {"width": 32, "experts": 8}), 9, seed=0)
    assert {len(item.sample) for item in items} == set(residency.TOKENS)
    assert len({item.digest for item in items}) == 9
    used = [len(set(item.graph.cell_of.tolist())) for item in items]
    assert max(used) >= min(used) + 3


def test_rows_say_where_experts_were_computed(residency: ModuleType) -> None:
    options = asked()
    model = build_model("moe", {"width": 64, "experts": 4}, seed=1)
    profile = residency.capped_node(model, options)
    cap = profile.cluster.devices[1].memory_bytes
    assert cap == int(0.4 * sum(cell.param_bytes for cell in model.graph_cells))
    work = residency.inputs_of(model, 4, seed=3)
    rivals = residency.schedulers_for(*profile.cluster.names, options)
    rows = {r["row"]: r for r in residency.judged(SimBackend(profile), work, rivals, 1)}
    assert rows["always on the host"]["experts"] == {"on_host": 1, "there": 0, "loaded": 0}
    assert rows["always move weights"]["experts"]["on_host"] == 0
    assert rows["always move weights"]["experts"]["loaded"] > 0.2
    best = rows[residency.BEST]
    assert best["mean_ms"] <= min(row["mean_ms"] for row in rows.values())
    assert sum(best["wins"].values()) == 4
    for row in rows.values():
        assert sum(row["experts"].values()) == pytest.approx(1)
        assert row["to_the_host"]["low"] <= row["to_the_host"]["ratio"]


def test_an_expert_on_both_devices_counts_on_both(residency: ModuleType) -> None:
    model = build_model("moe", {"width": 64, "experts": 2}, seed=1)
    item = residency.inputs_of(model, 3, seed=0)[0]
    graph = item.graph
    profile = residency.capped_node(model, asked())
    launches = [Launch(("cpu:0", "cuda:0")[task % 2], (task,)) for task in range(len(graph))]
    outcome = run(SimBackend(profile), item, FixedPlan(Plan(tuple(launches))))
    homes: dict[str, set[str]] = {}
    for launch in launches:
        homes.setdefault(graph.cell_name(launch.tasks[0]), set()).add(launch.device)
    experts = [found for cell, found in homes.items() if "expert" in cell]
    found = residency.placed(outcome, "cpu:0")
    assert found.on_host == sum("cpu:0" in home for home in experts)
    assert found.there + found.loaded == sum("cuda:0" in home for home in experts)


def test_ratios_are_geometric_and_paired(residency: ModuleType) -> None:
    ours, theirs = np.array([1.0, 4.0, 9.0]), np.array([2.0, 8.0, 18.0])
    found = residency.ratio(ours, theirs)
    assert found == pytest.approx({"ratio": 0.5, "low": 0.5, "high": 0.5})
