"""Small charts as inline SVG: learning curves, predicted against measured, and bars."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dynpartition.cli.markup import Markup, duration, join, nice_step, percent, tag
from dynpartition.cli.run_folder import Case, Metric, Row, Validation
from dynpartition.cli.timeline import colour

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 10, 40
POINTS_MAX = 300
"""Longer curves are drawn as the means of this many stretches."""
SMOOTH_FROM, SMOOTH_SHARE = 30, 0.05
BAR_WIDTH, BAR_HEIGHT = 220, 18

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """The ranges of both axes of one chart."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Return the horizontal place of a value."""
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Return the vertical place of a value."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def learning_curve(metrics: Sequence[Metric]) -> Markup:
    """Return reward and validation by episode; light: each measurement, bold: their trend."""
    reward = [(float(m.episodes), m.reward) for m in metrics if m.reward is not None]
    valid = [(float(m.episodes), m.validation) for m in metrics if m.validation is not None]
    if not reward:
        return tag("p", "No measurement yet.", class_="missing")
    reward = _thinned(reward)
    frame = _frame([*reward, *valid, (reward[0][0], 0.0)])
    smooth = len(reward) >= SMOOTH_FROM
    return _chart(
        _axes(frame, "episodes", "reward"),
        tag("line", class_="zero", x1=LEFT, x2=WIDTH - RIGHT, y1=frame.y(0), y2=frame.y(0)),
        _line(frame, reward, "raw") if smooth else None,
        _line(frame, _trend(reward) if smooth else reward, "curve"),
        _line(frame, valid, "validation"),
        *(_dot(frame, p, "validation", f"validation {p[1]:.3f}") for p in valid),
        label="learning curve",
    )


def _thinned(points: Sequence[Point]) -> list[Point]:
    stride = math.ceil(len(points) / POINTS_MAX)
    parts = [points[i : i + stride] for i in range(0, len(points), stride)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def _trend(points: Sequence[Point]) -> list[Point]:
    """Return trailing means over a twentieth of the curve."""
    window = max(2, round(len(points) * SMOOTH_SHARE))
    parts = [points[max(0, i - window + 1) : i + 1] for i in range(len(points))]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]


def scatter(validation: Validation, colours: dict[str, str]) -> Markup:
    """Return measured against simulated makespans on log axes; the diagonal is a perfect guess."""
    usable = [case for case in validation.cases if case.simulated_ns and case.measured_ns]
    if not usable:
        return tag("p", "No case was measured.", class_="missing")
    ends = [math.log10(ns) for case in usable for ns in (case.simulated_ns, case.measured_ns)]
    low, high = min(ends) - 0.03, max(ends) + 0.03
    frame = Frame(low, high, low, high)
    ticks = [(math.log10(v), _round_duration(v)) for v in _log_ticks(10**low, 10**high)]
    diagonal = {"x1": frame.x(low), "y1": frame.y(low), "x2": frame.x(high), "y2": frame.y(high)}
    return _chart(
        _grid(frame, ticks, ticks),
        _axis_names("simulated", "measured"),
        tag("line", class_="diagonal", **diagonal),
        *(_case_dot(frame, case, colours[case.scheduler]) for case in usable),
        label="measured against simulated makespan",
    )


def scheduler_colours(schedulers: Sequence[str]) -> dict[str, str]:
    """Return a colour per scheduler, in order of appearance."""
    return {name: colour(rank) for rank, name in enumerate(dict.fromkeys(schedulers))}


def _case_dot(frame: Frame, case: Case, colour: str) -> Markup:
    error = percent(case.simulated_ns / case.measured_ns - 1, signed=True)
    times = f"simulated {duration(case.simulated_ns)}, measured {duration(case.measured_ns)}"
    point = (math.log10(case.simulated_ns), math.log10(case.measured_ns))
    title = f"input {case.input}, {case.scheduler}\n{times} ({error})"
    return _dot(frame, point, "case", title, style=f"fill:{colour}")


def _log_ticks(low: float, high: float) -> list[float]:
    """Return round values between the ends: 1-2-5 steps, even steps on a narrow range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        ticks = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if 4 <= len(ticks) <= 8:
            return ticks
    step = nice_step(high - low, 6)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _round_duration(ns: float) -> str:
    """Return a tick's time without the zeros that a measurement would have: `5 ms`."""
    number, unit = duration(ns).split()
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def bar(row: Row, longest_ms: float, *, best: bool) -> Markup:
    """Return a mean as a bar from zero, with its confidence interval as a whisker."""
    scale, middle = (BAR_WIDTH - 2) / longest_ms, BAR_HEIGHT // 2
    whisker = None
    if row.ci_low_ms is not None and row.ci_high_ms is not None:
        ends = {"x1": round(row.ci_low_ms * scale, 1), "x2": round(row.ci_high_ms * scale, 1)}
        whisker = tag("line", class_="whisker", **ends, y1=middle, y2=middle)
    box = {"x": 0, "y": 4, "width": round(row.mean_ms * scale, 1), "height": BAR_HEIGHT - 8}
    return tag(
        "svg",
        tag("rect", class_="best" if best else "bar", **box),
        whisker,
        viewBox=f"0 0 {BAR_WIDTH} {BAR_HEIGHT}",
        width=BAR_WIDTH,
        height=BAR_HEIGHT,
        aria_hidden="true",
    )


def _chart(*children: Markup | None, label: str) -> Markup:
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="chart",
        role="img",
        aria_label=label,
    )


def _frame(points: Sequence[Point]) -> Frame:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    margin = 0.06 * (max(ys) - min(ys)) or 0.1
    return Frame(min(0.0, *xs), max(*xs, 1.0), min(ys) - margin, max(ys) + margin)


def _axes(frame: Frame, x_name: str, y_name: str) -> Markup:
    x_ticks = [(x, f"{x:,.0f}") for x in _linear_ticks(frame.x_low, frame.x_high, 5)]
    y_ticks = [
        (y, f"{y:.3g}".replace("-", "−")) for y in _linear_ticks(frame.y_low, frame.y_high, 6)
    ]
    return join(_grid(frame, x_ticks, y_ticks), _axis_names(x_name, y_name))


def _linear_ticks(low: float, high: float, ticks_max: int) -> Iterator[float]:
    step = nice_step(high - low, ticks_max)
    for i in range(math.ceil(low / step), math.floor(high / step) + 1):
        yield i * step


def _grid(
    frame: Frame, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]
) -> Markup:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    columns = [
        tag("text", text, x=frame.x(x), y=bottom + 16, text_anchor="middle") for x, text in x_ticks
    ]
    rows = [
        join(
            tag("line", x1=LEFT, x2=right, y1=frame.y(y), y2=frame.y(y)),
            tag("text", text, x=LEFT - 7, y=frame.y(y) + 4, text_anchor="end"),
        )
        for y, text in y_ticks
    ]
    return tag("g", *columns, *rows, class_="grid")


def _axis_names(x_name: str, y_name: str) -> Markup:
    middle = (HEIGHT - BOTTOM + TOP) / 2
    return join(
        tag("text", x_name, class_="name", x=WIDTH - RIGHT, y=HEIGHT - 6, text_anchor="end"),
        tag(
            "text",
            y_name,
            class_="name",
            transform=f"translate(11 {middle}) rotate(-90)",
            text_anchor="middle",
        ),
    )


def _line(frame: Frame, points: Sequence[Point], kind: str) -> Markup:
    places = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)
    return tag("polyline", class_=kind, points=places)


def _dot(frame: Frame, point: Point, kind: str, title: str, style: str | None = None) -> Markup:
    x, y = frame.x(point[0]), frame.y(point[1])
    return tag("circle", tag("title", title), class_=kind, style=style, cx=x, cy=y, r=3)
