"""The sections of the report page, from the evaluation table to the command that was run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

from dynpartition.cli.charts import bar, learning_curve, scatter, scheduler_colours
from dynpartition.cli.cluster_picture import cluster_picture, link_costs
from dynpartition.cli.markup import (
    NO_VALUE,
    Child,
    Markup,
    count,
    join,
    seconds,
    significant,
    size,
    table,
    tag,
)
from dynpartition.cli.page_tables import bound_line, error_table, gap_table, placement_table
from dynpartition.cli.run_folder import Metric, Row, RunFolder, RunInfo, Stage
from dynpartition.cli.timeline import timelines
from dynpartition.cluster import Cluster, Device, Link
from dynpartition.device_spec import parse_devices


def devices_of_run(found: RunFolder) -> dict[str, str]:
    """Return device name → what is special about it, by the profile or else the command."""
    if found.profile is not None:
        return {device.name: _emulated(device) for device in found.profile.cluster.devices}
    listed = parse_devices(found.run.devices) if found.run and found.run.devices else ()
    return {device.name: _emulated(device) for device in listed}


def _emulated(device: Device) -> str:
    parts = [f"×{device.speed:g}"] if device.speed < 1 else []
    if device.link is not None:
        parts.append(f"links of {device.link.bandwidth_bytes_per_s / 1e6:g} MB/s")
    return f"emulated {', '.join(parts)}" if parts else ""


def _section(heading: str, *content: Child) -> Markup:
    return tag("section", tag("h2", heading), *content)


def _note(text: str) -> Markup:
    return tag("p", text, class_="note")


def _missing(found: RunFolder, *names: str) -> Markup:
    """Say which files are not there, and which stage did not finish."""
    stopped = [stage for stage in (found.run.stages if found.run else ()) if stage.status != "done"]
    why = f" Stage {stopped[0].name}: {stopped[0].status}." if stopped else ""
    verb = "is" if len(names) == 1 else "are"
    return tag("p", f"{' and '.join(names)} {verb} missing.{why}", class_="missing")


def _evaluation(found: RunFolder) -> Markup:
    evaluation = found.evaluation
    if evaluation is None:
        return _section("Evaluation", _missing(found, "evaluation.json"))
    rows = sorted(evaluation.rows, key=lambda row: row.mean_ms)
    longest_ms = max((row.ci_high_ms or row.mean_ms for row in rows), default=0) or 1
    note = (
        "Mean time over the same inputs: the decision and the run. Whiskers: 95 % interval."
        " Ratios are to the scheduler best-single."
    )
    times = ("time", "", "interval (ms)", "ratio", "decision", "run", "ratio", "simulated run")
    heads = ("scheduler", *times)
    body = [_evaluation_row(row, longest_ms, best=i == 0) for i, row in enumerate(rows)]
    inputs = "" if evaluation.inputs is None else f" Inputs: {evaluation.inputs}."
    return _section(
        "Evaluation",
        _note(note + inputs + (f" {evaluation.device_note}" if evaluation.device_note else "")),
        table(heads, body, "lrlrrrrrr", best=0),
    )


def _evaluation_row(row: Row, longest_ms: float, *, best: bool) -> list[Child]:
    interval = NO_VALUE
    if row.ci_low_ms is not None and row.ci_high_ms is not None:
        interval = f"{significant(row.ci_low_ms)} – {significant(row.ci_high_ms)}"
    return [
        row.scheduler,
        _ms(row.mean_ms),
        bar(row, longest_ms, best=best),
        interval,
        _ratio(row.ratio_to_best_single),
        _ms(row.decision_ms),
        _ms(row.makespan_ms),
        _ratio(row.run_ratio),
        _ms(row.simulated_mean_ms),
    ]


def _ms(value_ms: float | None) -> str:
    return NO_VALUE if value_ms is None else f"{significant(value_ms)} ms"


def _ratio(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.3f}"


def _timelines(found: RunFolder) -> Markup:
    heading = "One plan, simulated and on the devices"
    gone = [name for name in found.missing if name.startswith("timeline/")]
    shown = None
    if found.graph is not None and found.runs:
        shown = timelines(found.graph, found.runs, devices_of_run(found))
    note = _note(
        "Both runs share one time axis. Hover over a bar for its tasks and times, and to see the"
        " same tasks in the other run. Ctrl + wheel zooms, dragging moves."
    )
    bound = bound_line(found)
    return _section(
        heading,
        note if shown else None,
        _note(bound) if shown and bound else None,
        shown,
        _missing(found, *gone) if gone else None,
    )


def _accuracy(found: RunFolder) -> Markup:
    heading = "How far the simulator is from the devices"
    validation = found.validation
    if validation is None:
        return _section(heading, _missing(found, "validation.json"))
    colours = scheduler_colours([case.scheduler for case in validation.cases])
    swatches = [join(tag("i", "", style=f"background:{c}"), name) for name, c in colours.items()]
    legend = tag("ul", *(tag("li", s) for s in swatches), class_="legend")
    chart = tag("div", scatter(validation, colours), legend)
    note = _note(
        "A point on the diagonal was predicted exactly. Errors below the noise are inconclusive."
    )
    side = tag("div", note, error_table(validation))
    return _section(heading, tag("div", chart, side, class_="pair"), placement_table(validation))


def _gaps(found: RunFolder) -> Markup | None:
    if found.evaluation is None:
        return None  # the first section says so
    note = (
        "Runs without the decision. Behind the fastest: how much longer the same inputs took than"
        " under the scheduler that ran fastest. Real against simulated: below 0 the devices were"
        " faster than the simulator said."
    )
    shown = gap_table(found.evaluation.rows)
    return None if shown is None else _section("Gaps", _note(note), shown)


def _learning(found: RunFolder) -> Markup:
    note = (
        "Reward: −log(makespan / makespan of the best single device). Above 0, the dashed line, the"
        " policy is faster than the best single device. Dots: validation."
    )
    charts = [
        _curve(found, "In the simulator", "pretrain/metrics.jsonl", found.pretrain),
        _curve(found, "On the devices", "finetune/metrics.jsonl", found.finetune),
    ]
    return _section("Learning", _note(note), tag("div", *charts, class_="pair"))


def _curve(found: RunFolder, heading: str, name: str, metrics: Sequence[Metric] | None) -> Markup:
    if metrics is None:
        return tag("div", tag("h3", heading), _missing(found, name))
    episodes, lasted_s = (metrics[-1].episodes, metrics[-1].seconds) if metrics else (0, 0.0)
    facts = tag("small", f" {count(episodes, 'episode')}, {seconds(lasted_s)}")
    return tag("div", tag("h3", heading, facts), learning_curve(metrics))


def _cluster(found: RunFolder) -> Markup:
    if found.profile is None:
        return _section("Devices", _missing(found, "profile.json"))
    cluster = found.profile.cluster
    devices = table(
        ("device", "kind", "speed", "memory", ""),
        [_device_row(cluster, device) for device in cluster.devices],
        "lllrl",
    )
    links = table(
        ("link", "latency", "bandwidth", "held while copying", "blocks"),
        [_link_row(link) for link in cluster.links],
        "lrrll",
    )
    picture = cluster_picture(cluster, devices_of_run(found))
    note = _note("Lines of one colour share a part of the machine: one copy waits for the other.")
    shares = note if 'class="legend"' in picture else None
    return _section("Devices", picture, shares, devices, links if cluster.links else None)


def _device_row(cluster: Cluster, device: Device) -> list[Child]:
    memory = "no limit" if device.memory_bytes is None else size(device.memory_bytes)
    note = "host" if device.name == cluster.host else ""
    return [device.name, device.kind, _emulated(device) or "full", memory, note]


def _link_row(link: Link) -> list[Child]:
    latency, bandwidth = link_costs(link.cost)
    blocked = ", ".join(link.blocked_devices) or NO_VALUE
    return [f"{link.src} → {link.dst}", latency, bandwidth, ", ".join(link.held), blocked]


def _stages(found: RunFolder) -> Markup:
    if found.run is None:
        return _section("Stages", _missing(found, "run.json"))
    return _section(
        "Stages", table(("stage", "status", "time"), _stage_rows(found.run.stages), "llr")
    )


def _stage_rows(stages: Sequence[Stage]) -> Iterator[list[Child]]:
    for stage in stages:
        status = tag("span", stage.status, class_=f"status {stage.status}")
        yield [stage.name, status, NO_VALUE if stage.seconds is None else seconds(stage.seconds)]


def _origin(found: RunFolder) -> Markup | None:
    run = found.run or RunInfo(version=1)
    facts = {
        "command": shlex.join(run.command),
        "devices": run.devices,
        "model": ", ".join(f"{key} {value}" for key, value in run.model.items()),
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
    }
    rows = [[name, tag("code", text)] for name, text in facts.items() if text]
    return _section("How this was made", table(("", ""), rows, "ll")) if rows else None


SECTIONS: tuple[Callable[[RunFolder], Markup | None], ...] = (
    _evaluation,
    _gaps,
    _timelines,
    _accuracy,
    _learning,
    _cluster,
    _stages,
    _origin,
)
"""What the page shows, in order."""
