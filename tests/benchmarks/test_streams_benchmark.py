"""benchmarks/streams.py: latencies of requests in flight, compared in the same world."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dynpartition import GraphWorkload, run
from dynpartition.agent.families import Setting, draw_graph
from dynpartition.agent.machines import Machine, draw_profile
from dynpartition.agent.registry import make_scheduler
from dynpartition.sim import SimBackend
from dynpartition.streams import open_stream

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_scheduler_is_compared_with_the_baseline(tmp_path: Path) -> None:
    file = tmp_path / "streams.json"
    grid = "--families moe,chains --ratios 1 --loads 0.5,4 --requests 3 --tasks 8 --worlds 1"
    words = [*grid.split(), "--reveals", "--schedulers", "policy,single:cpu:0", "--json", str(file)]
    ran = subprocess.run(
        [sys.executable, str(BENCHMARKS / "streams.py"), *words, "--baseline", "heft"],
        capture_output=True,
        encoding="utf-8",
        timeout=280,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("4 worlds, 3 requests of 8 tasks\n")
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [row["scheduler"] for row in rows] == ["policy", "single:cpu:0", "heft"]
    assert rows[-1]["latency"] == rows[-1]["worst"] == 1
    for row in rows:
        assert row["low"] <= row["latency"] <= row["high"] <= row["worst"]
        assert row["by"]["load"].keys() == {"0.5", "4"}
        by_family = [np.log(ratio) for ratio in row["by"]["family"].values()]
        assert np.mean(by_family) == pytest.approx(np.log(row["latency"]))
    assert rows[1]["latency"] > rows[0]["latency"]  # the slowest device alone


def test_requests_far_apart_take_what_they_take_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    streams = importlib.import_module("streams")
    rng, machine = np.random.default_rng(0), Machine(wiring="bus")
    setting = Setting(family="tree-with-outputs", n_tasks=9, machine=machine)
    graphs = streams.of_one_model([draw_graph(setting, rng) for _ in range(3)])
    sizes = {(t.cell, t.output_bytes) for graph in graphs for t in graph.tasks()}
    assert len(sizes) == len({cell for cell, _ in sizes})
    profile, scheduler = draw_profile(graphs, machine, rng), make_scheduler("heft")
    backend = SimBackend(profile)
    alone = [run(backend, GraphWorkload(g), scheduler).trace.makespan_ns for g in graphs]
    late = open_stream(graphs, [0, 10**9, 2 * 10**9])
    close = open_stream(graphs, [0, 1, 2])
    cases = [streams.Case("tree", 1.0, 0.0, each, profile) for each in (late, close)]
    latency, _ = streams.measure(cases, [scheduler])
    assert latency[0, 0] == pytest.approx(np.mean(alone))
    assert latency[0, 1] > 1.2 * latency[0, 0]
