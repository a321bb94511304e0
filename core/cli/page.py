"""The report: one offline HTML page about one run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence

from dynpartition.cli.markup import Markup, count, duration, percent, seconds, tag
from dynpartition.cli.page_sections import SECTIONS, devices_of_run
from dynpartition.cli.page_style import SCRIPT, STYLE
from dynpartition.cli.run_folder import RunFolder, RunInfo
from dynpartition.cli.timeline import Run, timelines
from dynpartition.graph import TaskGraph

Fact = tuple[str, str, str]
"""Name, value, remark."""


def run_page(found: RunFolder) -> str:
    """Return the page of a run folder; parts that are missing are named instead of shown."""
    return _page(_title(found), _header(found), *(section(found) for section in SECTIONS))


def traces_page(graph: TaskGraph, runs: Sequence[Run]) -> str:
    """Return a page that compares the timelines of `runs` of one graph."""
    heading = f"Timelines of {graph.name}"
    facts = f"{count(len(graph), 'task')} of {count(len(graph.cells), 'cell')}"
    header = tag("header", tag("h1", heading), tag("p", facts, class_="muted"))
    return _page(heading, header, tag("section", timelines(graph, runs)))


def _page(heading: str, *content: Markup | None) -> str:
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{heading} – dynpartition"),
        tag("style", Markup(STYLE)),
    )
    body = tag("body", tag("main", *content), tag("script", Markup(SCRIPT)))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _policy() -> str:
    """Return what a browser may do with the page: run its own script, and fetch nothing at all."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _title(found: RunFolder) -> str:
    model = str(found.run.model.get("name", "")) if found.run else ""
    devices = [f"{name} ({note})" if note else name for name, note in devices_of_run(found).items()]
    listed = " and ".join(filter(None, [", ".join(devices[:-1]), *devices[-1:]]))
    return f"{model or found.name} on {listed}" if listed else model or found.name


def _header(found: RunFolder) -> Markup:
    run = found.run or RunInfo(version=1)
    seed = "" if run.seed is None else f"seed {run.seed}"
    line = ", ".join(filter(None, [found.name, run.started, seed]))
    facts = [
        tag("div", tag("dt", name), tag("dd", value, tag("small", remark, class_="muted")))
        for name, value, remark in _facts(found)
    ]
    return tag(
        "header",
        tag("p", f"dynpartition run {line}", class_="eyebrow"),
        tag("h1", _title(found)),
        tag("dl", *facts, class_="facts") if facts else None,
    )


def _facts(found: RunFolder) -> Iterator[Fact]:
    if found.evaluation and found.evaluation.rows:
        best = min(found.evaluation.rows, key=lambda row: row.mean_ms)
        yield "Fastest with decision", best.scheduler, _against_single(best.ratio_to_best_single)
    if found.real:
        predicted = f"simulated {duration(found.simulated.makespan_ns)}" if found.simulated else ""
        yield "Makespan of the plan shown", duration(found.real.makespan_ns), predicted
    if found.validation and found.validation.mape is not None:
        noise = found.validation.noise
        remark = "" if noise is None else f", measurement noise {percent(noise)}"
        plans = count(len(found.validation.cases), "plan")
        yield "Simulator error", percent(found.validation.mape), f"{plans}{remark}"
    if found.run and found.run.stages:
        done = sum(stage.status == "done" for stage in found.run.stages)
        total_s = sum(stage.seconds or 0 for stage in found.run.stages)
        yield (
            "Time taken",
            seconds(total_s),
            f"{done} of {count(len(found.run.stages), 'stage')} done",
        )


def _against_single(ratio: float | None) -> str:
    if not ratio:
        return ""
    faster = ratio <= 1
    factor = 1 / ratio if faster else ratio
    return f"{factor:.2f}× as {'fast' if faster else 'slow'} as best-single"
