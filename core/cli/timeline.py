"""Timelines: what every device and link did, as SVG on one common time axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from dynpartition.cli.markup import Markup, count, duration, join, nice_step, percent, size, tag
from dynpartition.graph import TaskGraph
from dynpartition.trace import DispatchSpan, LaunchSpan, LoadSpan, Reveal, Trace, TransferSpan

WIDTH = 10_000
"""User units of the time axis: launches keep six digits, however long the run."""
PALETTE_SIZE = 8
DEVICE_LANE_PX, THIN_LANE_PX, GAP_PX = 34, 18, 6
TASKS_SHOWN_MAX = 12
LAST_LABEL_FROM = 0.97
DENSE_BELOW = 45
"""Launches of fewer user units are too thin for edges, which would hide them: some 4 px."""
HOST_LANE = "host dispatch"
UNITS = (("ns", 1), ("µs", 10**3), ("ms", 10**6), ("s", 10**9))


@dataclass(frozen=True, slots=True)
class Run:
    """One trace and what the page calls it."""

    name: str
    trace: Trace
    host: str = ""
    """Device where weights come from; empty: where host inputs come from."""

    def __post_init__(self) -> None:
        if not self.host:
            sources = (span.src for span in self.trace.transfers if span.host_input)
            object.__setattr__(self, "host", next(sources, "host"))

    @property
    def moved(self) -> tuple[TransferSpan | LoadSpan, ...]:
        """Everything that travelled over links."""
        return (*self.trace.transfers, *self.trace.loads)

    def link_of(self, span: TransferSpan | LoadSpan) -> tuple[str, str]:
        """Return (src, dst) of a transfer or a load."""
        if isinstance(span, TransferSpan):
            return span.src, span.dst
        return self.host, span.device

    def walks(self) -> list[tuple[str, DispatchSpan]]:
        """Return the lane of each dispatch: one for all, or one per device where they overlap."""
        trace = self.trace
        spans = sorted((s.start_ns, s.end_ns) for s in trace.dispatches)
        overlap = any(later[0] < earlier[1] for earlier, later in pairwise(spans))
        return [(f"{HOST_LANE}, {s.device}" if overlap else HOST_LANE, s) for s in trace.dispatches]


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of the timeline: `key` is a device, a (src, dst) link, or one or all host threads."""

    kind: Literal["device", "link", "host"]
    key: str | tuple[str, str]
    label: str
    note: str
    y_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class Scale:
    """The common time axis and the colours, shared by all runs of a page."""

    graph: TaskGraph
    span_ns: int
    colours: Mapping[str, str]

    def x(self, time_ns: int) -> float:
        """Return the place of a time, in user units."""
        return round(time_ns * WIDTH / self.span_ns, 2)

    def box(self, start_ns: int, end_ns: int) -> dict[str, float]:
        """Return `x` and `width` of a span."""
        x = self.x(start_ns)
        return {"x": x, "width": round(max(self.x(end_ns) - x, 0.5), 2)}


def timelines(
    graph: TaskGraph, runs: Sequence[Run], notes: Mapping[str, str] | None = None
) -> Markup:
    """Return the runs one above the other; `notes` adds a remark to a device's name."""
    span_ns = max(1, *(_end_ns(run.trace) for run in runs))
    scale = Scale(graph, span_ns, cell_colours(graph))
    lanes = _lanes(runs, notes or {})
    return tag(
        "div",
        _legend(scale, runs),
        *(_figure(scale, lanes, run, runs[0]) for run in runs),
        class_="timelines",
        data_span=scale.span_ns,
    )


def _end_ns(trace: Trace) -> int:
    """Return when the last thing happened; later than the makespan where arrivals are."""
    ends = [span.end_ns for span in trace.launches]
    return max([*ends, *(span.end_ns for span in trace.transfers)], default=0)


def cell_colours(graph: TaskGraph) -> dict[str, str]:
    """Return a CSS colour per cell, the page's palette first for the most frequent ones."""
    tasks = Counter(graph.cell_name(task) for task in range(len(graph)))
    return {cell: colour(rank) for rank, (cell, _) in enumerate(tasks.most_common())}


def colour(rank: int) -> str:
    """Return the CSS colour of the thing with this number: the palette first, then others."""
    # Neighbours on the golden angle differ most, for any number of things.
    hue = round(rank * 137.5) % 360
    return f"var(--c{rank})" if rank < PALETTE_SIZE else f"hsl({hue} 38% 56%)"


def devices_of(runs: Sequence[Run]) -> list[str]:
    """Return every device that ran or exchanged something, sorted."""
    traces = [run.trace for run in runs]
    used = {span.device for trace in traces for span in trace.launches}
    used.update(span.device for trace in traces for span in trace.loads)
    used.update(end for trace in traces for span in trace.transfers for end in (span.src, span.dst))
    return sorted(used)


def links_of(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Return every (src, dst) that a transfer or a load used, sorted."""
    return sorted({run.link_of(span) for run in runs for span in run.moved})


def walks_of(runs: Sequence[Run]) -> list[str]:
    """Return the lanes of host dispatch, sorted."""
    return sorted({walk for run in runs for walk, _ in run.walks()})


def _lanes(runs: Sequence[Run], notes: Mapping[str, str]) -> list[Lane]:
    lanes: list[Lane] = []
    top = 0
    for device in devices_of(runs):
        lanes.append(Lane("device", device, device, notes.get(device, ""), top, DEVICE_LANE_PX))
        top += DEVICE_LANE_PX + GAP_PX
    for link in links_of(runs):
        lanes.append(Lane("link", link, f"{link[0]} → {link[1]}", "", top, THIN_LANE_PX))
        top += THIN_LANE_PX + GAP_PX
    for walk in walks_of(runs):
        lanes.append(Lane("host", walk, walk, "", top, THIN_LANE_PX))
        top += THIN_LANE_PX + GAP_PX
    return lanes


def _legend(scale: Scale, runs: Sequence[Run]) -> Markup:
    entries = [(cell, colour) for cell, colour in scale.colours.items()]
    if any(not t.host_input for run in runs for t in run.trace.transfers):
        entries.append(("transfer", "var(--transfer)"))
    if any(t.host_input for run in runs for t in run.trace.transfers):
        entries.append(("host input", "var(--host-input)"))
    if any(run.trace.loads for run in runs):
        entries.append(("weights", "var(--load)"))
    if any(run.trace.reveals for run in runs):
        entries.append(("tasks revealed", "var(--reveal)"))
    swatch = [join(tag("i", "", style=f"background:{c}"), name) for name, c in entries]
    return tag("ul", *(tag("li", entry) for entry in swatch), class_="legend")


def _figure(scale: Scale, lanes: Sequence[Lane], run: Run, first: Run) -> Markup:
    height = sum(lane.height_px + GAP_PX for lane in lanes)
    widths = [scale.box(span.start_ns, span.end_ns)["width"] for span in run.trace.launches]
    bar = median(widths or [WIDTH])
    drawing = tag(
        "svg",
        tag("g", *_grid(scale, height), class_="grid"),
        *(_lane(scale, lane, run) for lane in lanes),
        *(_reveal(scale, reveal, height) for reveal in run.trace.reveals),
        _end_line(scale, run.trace, height),
        viewBox=f"0 0 {WIDTH} {height}",
        class_="dense" if bar < DENSE_BELOW else None,
        data_bar=bar,
        preserveAspectRatio="none",
        style=f"height:{height}px",
        role="img",
        aria_label=f"timeline of the {run.name} run",
    )
    return tag(
        "figure",
        tag("figcaption", tag("b", run.name), " ", _summary(run, first)),
        tag("div", *(_lane_label(lane, run.trace) for lane in lanes), class_="lanes"),
        tag("div", drawing, tag("div", *_tick_labels(scale), class_="axis"), class_="plot"),
        class_="timeline",
    )


def _summary(run: Run, first: Run) -> Markup:
    makespan_ns, base_ns = run.trace.makespan_ns, first.trace.makespan_ns
    text = f"{duration(makespan_ns)}, {count(len(run.trace.launches), 'launch', 'launches')}"
    if run is not first and base_ns > 0:
        change = percent(makespan_ns / base_ns - 1, signed=True)
        text += f" ({change} against {first.name})"
    return tag("span", text, class_="muted")


def _lane_label(lane: Lane, trace: Trace) -> Markup:
    style = f"height:{lane.height_px}px;margin-bottom:{GAP_PX}px"
    if lane.height_px == THIN_LANE_PX:
        return tag("div", tag("span", lane.label), class_="thin", style=style)
    share = trace.busy_ns(lane.label) / max(1, trace.makespan_ns)
    note = f"{lane.note + ', ' if lane.note else ''}busy {share:.0%}".replace("%", " %")
    return tag("div", tag("span", lane.label), tag("small", note), style=style)


def _lane(scale: Scale, lane: Lane, run: Run) -> Markup:
    band = tag("rect", class_="band", x=0, y=lane.y_px, width=WIDTH, height=lane.height_px)
    return tag("g", band, *_bars(scale, lane, run))


def _bars(scale: Scale, lane: Lane, run: Run) -> Iterator[Markup]:
    trace = run.trace
    if lane.kind == "device":
        yield from (_launch(scale, lane, s) for s in trace.launches if s.device == lane.key)
    elif lane.kind == "host":
        yield from (_dispatch(scale, lane, s) for walk, s in run.walks() if walk == lane.key)
    else:
        yield from (_copy(scale, lane, s) for s in run.moved if run.link_of(s) == lane.key)


def _launch(scale: Scale, lane: Lane, span: LaunchSpan) -> Markup:
    cell = scale.graph.cell_name(span.tasks[0])
    title = f"{cell}, {_tasks(scale.graph, span.tasks)}\n{span.device}, {_when(span)}"
    return tag(
        "rect",
        tag("title", title),
        class_="launch",
        data_key=f"run {_key(scale.graph, span.tasks)}",
        style=f"fill:{scale.colours[cell]}",
        **scale.box(span.start_ns, span.end_ns),
        y=lane.y_px + 3,
        height=lane.height_px - 6,
    )


def _copy(scale: Scale, lane: Lane, span: TransferSpan | LoadSpan) -> Markup:
    if isinstance(span, LoadSpan):
        kind, what = "transfer load", f"weights of {span.cell}"
    elif span.host_input:
        kind, what = "transfer host-input", f"host input of {_tasks(scale.graph, span.tasks)}"
    else:
        kind, what = "transfer", f"output of {_tasks(scale.graph, span.tasks)}"
    key = None
    if isinstance(span, TransferSpan):
        key = f"{span.src} {span.dst} {_key(scale.graph, span.tasks)}"
    return _thin(scale, lane, span, kind, f"{size(span.bytes)}, {what}", key)


def _dispatch(scale: Scale, lane: Lane, span: DispatchSpan) -> Markup:
    what = f"dispatch of {_tasks(scale.graph, span.tasks)} to {span.device}"
    return _thin(scale, lane, span, "transfer", what)


def _thin(
    scale: Scale,
    lane: Lane,
    span: TransferSpan | LoadSpan | DispatchSpan,
    kind: str,
    what: str,
    key: str | None = None,
) -> Markup:
    return tag(
        "rect",
        tag("title", f"{what}\n{_when(span)}"),
        class_=kind,
        data_key=key,
        **scale.box(span.start_ns, span.end_ns),
        y=lane.y_px + 5,
        height=lane.height_px - 10,
    )


def _reveal(scale: Scale, reveal: Reveal, height: int) -> Markup:
    x = scale.x(reveal.known_ns)
    title = f"{scale.graph.label(reveal.task)} is known at {duration(reveal.known_ns)}"
    return tag("line", tag("title", title), class_="reveal", x1=x, x2=x, y1=0, y2=height - GAP_PX)


def _end_line(scale: Scale, trace: Trace, height: int) -> Markup:
    end_ns = _end_ns(trace)
    x = scale.x(end_ns)
    title = tag("title", f"end of the run at {duration(end_ns)}")
    return tag("line", title, class_="end", x1=x, x2=x, y1=0, y2=height - GAP_PX)


def _key(graph: TaskGraph, tasks: Sequence[int]) -> str:
    """Return by what a launch or a transfer is found again in other runs."""
    return " ".join(str(graph.ids[task]) for task in sorted(tasks))


def _tasks(graph: TaskGraph, tasks: Sequence[int]) -> str:
    shown = ", ".join(str(graph.ids[task]) for task in tasks[:TASKS_SHOWN_MAX])
    rest = ", …" if len(tasks) > TASKS_SHOWN_MAX else ""
    return f"{'task' if len(tasks) == 1 else f'{len(tasks)} tasks:'} {shown}{rest}"


def _when(span: LaunchSpan | TransferSpan | LoadSpan | DispatchSpan) -> str:
    lasted = duration(span.end_ns - span.start_ns)
    return f"{duration(span.start_ns)} to {duration(span.end_ns)}, {lasted}"


def _ticks(scale: Scale) -> Iterator[tuple[float, str]]:
    """Yield place and label of the ticks; the page's script does the same after zooming."""
    step_ns = nice_step(scale.span_ns, 8)
    unit, factor = next(u for u in reversed(UNITS) if scale.span_ns >= 2 * u[1] or u[1] == 1)
    for i in range(int(scale.span_ns / step_ns) + 1):
        yield round(i * step_ns * WIDTH / scale.span_ns, 2), f"{i * step_ns / factor:g} {unit}"


def _grid(scale: Scale, height: int) -> Iterator[Markup]:
    for x, _ in _ticks(scale):
        yield tag("line", x1=x, x2=x, y1=0, y2=height)


def _tick_labels(scale: Scale) -> Iterator[Markup]:
    for x, text in _ticks(scale):
        # Near the right edge a label ends at its tick: centred, it would be cut off.
        side = ";transform:translateX(-100%)" if x > LAST_LABEL_FROM * WIDTH else ""
        yield tag("span", text, style=f"left:{x * 100 / WIDTH:.3f}%{side}")
