"""benchmarks/peers.py: one table of everything that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    GraphWorkload,
    Link,
    Profile,
    Task,
    TaskGraph,
    run,
)
from dynpartition.sim import SimBackend

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_what_is_installed_is_in_the_table(tmp_path: Path) -> None:
    result, table = tmp_path / "result.json", tmp_path / "table.md"
    quick = "--machines contended --families in-tree --sizes 8 --worlds 1 --repeats 1"
    quick += " --steps 2048 --evaluations 300"
    outputs = ["--json", str(result), "--markdown", str(table)]
    ran = subprocess.run(
        [sys.executable, str(FOLDER / "peers.py"), *quick.split(), *outputs],
        capture_output=True,
        encoding="utf-8",
        timeout=280,
    )
    assert ran.returncode == 0, ran.stderr
    content = json.loads(result.read_text(encoding="utf-8"))
    assert list(content["machines"]) == ["contended"]
    for rows in content["machines"].values():
        names = [row["scheduler"] for row in rows]
        assert {"random", "heft", "policy"} <= set(names)
        assert ("saga-heft" in names) == (find_spec("saga") is not None)
        assert ("sb3-maskable-ppo" in names) == (find_spec("sb3_contrib") is not None)
        assert min(row["gap"] for row in rows) >= 0
        gap = {row["scheduler"]: row["gap"] for row in rows}
        assert gap["local-search"] < gap["random"]
        assert all(row["decision_us"] > 0 for row in rows)
        assert all((row["trained_s"] > 0) == row["scheduler"].startswith("sb3") for row in rows)
    for module, name in (("saga", "anrg-saga"), ("sb3_contrib", "sb3-contrib")):
        said = f"left out, as it is not installed: {name}: pip install" in ran.stdout
        assert said == (find_spec(module) is None)
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "| scheduler | contended, gap % (worst) | decision |"
    assert len(lines) == 2 + len(rows)


def related(speeds: tuple[int, ...]) -> Profile:
    """A machine as SAGA assumes it: durations 6000 / speed, links of 1 byte per ns."""
    names = [f"cpu:{number}" for number in range(len(speeds))]
    links = [Link(a, b, AffineCost(0, 10**9)) for a in names for b in names if a != b]
    cells = {"c": {n: Curve((1,), (6000 // s,)) for n, s in zip(names, speeds, strict=True)}}
    return Profile(Cluster(tuple(Device(n, "cpu") for n in names), tuple(links)), cells)


def test_saga_is_told_the_world_and_its_plan_takes_what_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a machine of its own kind both agree on the makespan of a chain beside two tasks."""
    pytest.importorskip("saga", reason="anrg-saga is not installed")
    monkeypatch.syspath_prepend(str(FOLDER))
    from peers_saga import CLASSES, Saga, translated

    tasks = [
        Task(id=n, cell="c", inputs=(n - 1,) if 0 < n < 4 else (), output_bytes=500)
        for n in range(6)
    ]
    graph, profile = TaskGraph.from_tasks("g", [Cell("c")], tasks), related((1, 2, 3))
    network, told = translated(graph, profile)
    speeds = {node.name: node.speed for node in network.nodes}
    costs = {task.name: task.cost for task in told.tasks}
    for device, curves in profile.cells["c"].items():
        assert costs["0"] / speeds[device] == pytest.approx(curves.at(1))
    assert {edge.speed for edge in network.edges if edge.source != edge.target} == {1.0}
    for name in CLASSES:
        scheduler = Saga(name)
        outcome = run(SimBackend(profile), GraphWorkload(graph), scheduler)
        assert len(outcome.trace.launches) == 6
        # Here launches never wait for nothing, and no two transfers of this graph meet.
        assert outcome.trace.makespan_ns <= scheduler.promised_ns + 1
        if name == "saga-heft":
            assert outcome.trace.makespan_ns == pytest.approx(scheduler.promised_ns)
