"""DOT out: what Graphviz would read."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynpartition import Cell, Launch, Plan, Task, TaskGraph
from dynpartition.interop.dot import to_dot
from tests.sim.random_worlds import World, worlds

HOSTILE = 'a"b\\c\nd} -> x; //'


def test_a_small_graph():
    graph = TaskGraph.from_tasks(
        "g",
        [Cell("leaf"), Cell(HOSTILE)],
        [
            Task(id=5, cell="leaf", output_bytes=8),
            Task(id=7, cell=HOSTILE, inputs=(5, 5), revealed_by=5),
        ],
    )
    plan = Plan((Launch("cuda:0", (0,)), Launch("cpu:0", (1,))))
    assert to_dot(graph, plan).splitlines()[2:] == [
        '  5 [label="5\\nleaf\\ncuda:0, #0", fillcolor="#f3cf8e"];',
        '  7 [label="7\\na\\"b\\\\c\\nd} -> x; //\\ncpu:0, #1", fillcolor="#9fc0e8"];',
        '  5 -> 7 [label="8 B"];',
        '  5 -> 7 [label="8 B"];',
        "  5 -> 7 [style=dashed];",
        "}",
    ]
    assert 'label="load\\nleaf"' in to_dot(graph, names=["load", "fit"])


@given(worlds(), st.booleans())
def test_every_task_and_edge_is_there_once(world: World, placed: bool):
    text = to_dot(world.graph, world.plan if placed else None)
    boxes = re.findall(r"^  (\d+) \[label=", text, re.MULTILINE)
    assert boxes == [str(name) for name in world.graph.ids]
    arrows = re.findall(r"^  \d+ -> \d+ \[label=", text, re.MULTILINE)
    assert len(arrows) == len(world.graph.inputs.values)
    assert text.count("style=dashed") == int((world.graph.revealed_by >= 0).sum())
    assert ("fillcolor" in text.splitlines()[2]) == placed


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_it():
    graph = TaskGraph.from_tasks(HOSTILE, [Cell(HOSTILE)], [Task(id=0, cell=HOSTILE)])
    subprocess.run(["dot", "-Tsvg"], input=to_dot(graph).encode(), check=True, capture_output=True)
