"""Task graphs as Graphviz DOT, coloured by device where there is a plan."""

from __future__ import annotations

from collections.abc import Sequence

from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan

COLOURS = ("#9fc0e8", "#f3cf8e", "#a8d5b5", "#e9a79b", "#c3b1dd", "#a3d5d8", "#cbb29c", "#dfb0c7")
"""Of devices, in the order of their names; after the last the first again."""


def to_dot(
    graph: TaskGraph, plan: Plan | None = None, *, names: Sequence[object] | None = None
) -> str:
    """Return the graph in the DOT language.

    A box per task with its cell; dashed edges reveal. With `plan`, boxes have the colour of their
    device and their place in the plan. `names`: what tasks are called instead of their ids, for
    instance the nodes of an import.
    """
    launches = plan.launches if plan is not None else ()
    place = {task: number for number, row in enumerate(launches) for task in row.tasks}
    device = {task: row.device for row in launches for task in row.tasks}
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(sorted({*device.values()}))}
    lines = [
        f"digraph {_quoted(graph.name)} {{",
        '  node [shape=box, style="rounded,filled", fillcolor="#f4f4f0", fontname="sans-serif"];',
    ]
    for task in range(len(graph)):
        shown = graph.ids[task] if names is None else names[task]
        label = f"{shown}\n{graph.cell_name(task)}"
        if task in device:
            label += f"\n{device[task]}, #{place[task]}"
        fill = f", fillcolor={_quoted(colours[device[task]])}" if task in device else ""
        lines.append(f"  {graph.ids[task]} [label={_quoted(label)}{fill}];")
    for task, inputs in enumerate(graph.input_lists):
        for source in inputs:
            label = _quoted(f"{graph.output_bytes[source]} B")
            lines.append(f"  {graph.ids[source]} -> {graph.ids[task]} [label={label}];")
        revealer = int(graph.revealed_by[task])
        if revealer >= 0:
            lines.append(f"  {graph.ids[revealer]} -> {graph.ids[task]} [style=dashed];")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    """Return a DOT string: quotes are escaped, a newline ends a line of the label."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
