import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import msgspec
import pytest
import tyro

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    DispatchSpan,
    LaunchSpan,
    Link,
    LoadSpan,
    MonitorSample,
    Profile,
    Reveal,
    Task,
    TaskGraph,
    Trace,
    TransferSpan,
)
from dynpartition.cli.charts import scheduler_colours
from dynpartition.cli.markup import duration, percent, seconds, significant, size, tag
from dynpartition.cli.page import run_page, traces_page
from dynpartition.cli.perfetto import perfetto_events
from dynpartition.cli.report import Report
from dynpartition.cli.run_folder import read_run_folder
from dynpartition.cli.timeline import Run, cell_colours, devices_of, links_of
from dynpartition.errors import DynPartitionError, FileFormatError, RunFolderError, UsageError
from dynpartition.formats import write_graph, write_profile, write_trace

HOSTILE = """"><script>alert('1')</script>&amp;<img src=x onerror=alert(2)>"""
VOID = {"meta", "img", "br", "hr", "input", "link"}
PARTS = (
    "run.json",
    "profile.json",
    "pretrain/metrics.jsonl",
    "finetune/metrics.jsonl",
    "validation.json",
    "evaluation.json",
    "timeline/graph.json",
    "timeline/simulated.json",
    "timeline/real.json",
)


class Elements(HTMLParser):
    """Collects elements and text, and refuses tags that are not closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.count, self.classes, self.text = [], {}, [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.handle_startendtag(name, attributes)
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name, attributes):
        self.count[name] = self.count.get(name, 0) + 1
        self.classes += dict(attributes).get("class", "").split()

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, text):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text.append(text)


def parsed(page):
    """Check what holds for every page, and return its elements and its text."""
    assert "http://" not in page
    assert "https://" not in page
    elements = Elements(page)
    assert elements.count["script"] == elements.count["style"] == 1
    assert "img" not in elements.count
    return elements, " ".join("".join(elements.text).split())


def graph(cell="leaf"):
    return TaskGraph.from_tasks(
        "small",
        [Cell(cell), Cell("composer")],
        [
            Task(id=10, cell=cell, output_bytes=8, host_bytes=4),
            Task(id=11, cell=cell, output_bytes=8),
            Task(id=12, cell="composer", inputs=(10, 11), revealed_by=11),
        ],
    )


def trace(scale=1):
    return Trace(
        1500 * scale,
        (
            LaunchSpan("cpu:0", (1,), 0, 500 * scale),
            LaunchSpan("cpu:1", (0,), 200 * scale, 900 * scale),
            LaunchSpan("cpu:0", (2,), 1000 * scale, 1500 * scale),
        ),
        (
            TransferSpan("cpu:0", "cpu:1", (0,), 4, 0, 200 * scale, host_input=True),
            TransferSpan("cpu:1", "cpu:0", (0,), 8, 900 * scale, 1000 * scale),
        ),
        (DispatchSpan("cpu:0", (1,), 0, 5 * scale),),
        (Reveal(1, 500 * scale, 600 * scale),),
    )


def write_run(folder, text="policy", cell="leaf"):
    """Write a complete run folder; `text` and `cell` stand wherever a run may put names."""
    for name in ("timeline", "pretrain", "finetune"):
        (folder / name).mkdir(parents=True)
    shared = graph(cell)
    write_graph(folder / "timeline/graph.json", shared)
    write_trace(folder / "timeline/simulated.json", trace(1000), shared)
    write_trace(folder / "timeline/real.json", trace(1100), shared)
    write_profile(folder / "profile.json", profile(cell))
    for stage in ("pretrain", "finetune"):
        rows = [
            {"episodes": 16 * i, "seconds": i / 2, "reward": -1 / i}
            | ({"validation": 0.1} if i % 10 == 0 else {})
            for i in range(1, 61)
        ]
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / stage / "metrics.jsonl").write_text(lines)
    for name, content in documents(text).items():
        (folder / name).write_text(json.dumps(content))
    return folder


def profile(cell):
    links = [
        Link(a, b, AffineCost(1000, 10**9)) for a, b in (("cpu:0", "cpu:1"), ("cpu:1", "cpu:0"))
    ]
    devices = (Device("cpu:0", "cpu"), Device("cpu:1", "cpu", 10**9, 0.5))
    return Profile(Cluster(devices, tuple(links)), {cell: {"cpu:0": Curve((1,), (500,))}})


def documents(text):
    return {
        "run.json": {
            "format": "dynpartition-run",
            "version": 1,
            "command": ["dynpartition", text],
            "seed": 0,
            "model": {"name": text},
            "devices": "cpu:0,cpu:1x0.5",
            "started": text,
            "versions": {text: text},
            "stages": [
                {"name": "calibrate", "status": "done", "seconds": 65.0},
                {"name": text, "status": "interrupted", "seconds": None},
            ],
            "a later release's field": 1,
        },
        "validation.json": {
            "cases": [
                {"input": text, "scheduler": text, "simulated_ns": ns, "measured_ns": ns + 40}
                for ns in (1000, 2000, 90_000)
            ],
            "mape": 0.0213,
            "bias": -0.01,
            "noise": 0.012,
        },
        "evaluation.json": {
            "rows": [
                {"scheduler": "best-single", "mean_ms": 2.0, "ratio_to_best_single": 1.0},
                {
                    "scheduler": text,
                    "mean_ms": 1.6,
                    "ci_low_ms": 1.5,
                    "ci_high_ms": 1.7,
                    "decision_ms": 0.31,
                    "ratio_to_best_single": 0.8,
                    "simulated_mean_ms": 1.55,
                },
            ],
            "inputs": 40,
            "device_note": text,
        },
    }


def report(*arguments):
    tyro.cli(Report, args=[str(argument) for argument in arguments]).execute()


def test_page_of_a_complete_run_shows_every_part(tmp_path):
    elements, text = parsed(run_page(read_run_folder(write_run(tmp_path / "run"))))
    assert "missing" not in elements.classes
    assert elements.classes.count("launch") == 2 * 3
    assert elements.classes.count("transfer") == 2 * 3  # dispatches are drawn like transfers
    assert elements.classes.count("reveal") == 2
    assert elements.classes.count("case") == 3
    assert elements.classes.count("curve") == elements.classes.count("raw") == 2
    assert elements.classes.count("validation") == 2 * (1 + 6)  # one line and its dots each
    for expected in (
        "policy on cpu:0 and cpu:1 (emulated ×0.5)",
        "1.25× as fast as best-single",
        "1.50 – 1.70",
        "0.310 ms",
        "real 1.65 ms, 3 launches (+10.0 % against simulated)",
        "composer, task 12 cpu:0, 1.00 ms to 1.50 ms, 500 µs",
        "4 B, host input of task 10 0 ns to 200 µs, 200 µs",
        "task 11 (leaf) is known at 600 µs",
        "mean absolute error2.1 %",
        "bias−1.0 %",
        "1 min 05 s",
        "interrupted",
    ):
        assert expected in text


@pytest.mark.parametrize("name", PARTS)
def test_page_names_the_part_that_is_missing(tmp_path, name):
    folder = write_run(tmp_path / "run")
    (folder / name).unlink()
    elements, text = parsed(run_page(read_run_folder(folder)))
    assert "missing" in elements.classes
    assert f"{name} is missing." in text


@pytest.mark.parametrize("name", PARTS)
def test_page_of_a_run_that_left_one_file(tmp_path, name):
    folder = write_run(tmp_path / "run")
    for other in set(PARTS) - {name}:
        (folder / other).unlink()
    if name.startswith("timeline/") and name != "timeline/graph.json":
        with pytest.raises(RunFolderError, match="holds no file of a run"):
            read_run_folder(folder)  # without the graph nobody knows what the tasks are
    else:
        elements, _ = parsed(run_page(read_run_folder(folder)))
        assert "missing" in elements.classes


def test_interrupted_run_says_which_stage_stopped(tmp_path):
    folder = write_run(tmp_path / "run", text="finetune")
    (folder / "evaluation.json").unlink()
    _, text = parsed(run_page(read_run_folder(folder)))
    assert "evaluation.json is missing. Stage finetune: interrupted." in text


def test_empty_measurements_are_no_error(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "pretrain/metrics.jsonl").write_text("")
    (folder / "validation.json").write_text('{"cases":[]}')
    (folder / "evaluation.json").write_text('{"rows":[]}')
    _, text = parsed(run_page(read_run_folder(folder)))
    assert "No measurement yet." in text
    assert "No case was measured." in text


@pytest.mark.parametrize("hostile", [HOSTILE, "</style></script><script>", "<!--", "]]>", "\0\x1b"])
def test_names_are_shown_and_never_run(tmp_path, hostile):
    folder = write_run(tmp_path / "run", text=hostile, cell=hostile)
    page = run_page(read_run_folder(folder))
    elements, text = parsed(page)
    harmless, _ = parsed(run_page(read_run_folder(write_run(tmp_path / "other"))))
    assert elements.count == harmless.count
    assert " ".join(hostile.split()) in text.replace("\ufffd", "\0")


RUN = '{"format":"dynpartition-run","version":1'
MALFORMED = [
    ("run.json", "{", "malformed JSON"),
    ("run.json", '{"format":"dynpartition-plan","version":1}', "dynpartition-run"),
    ("run.json", RUN + ',"stages":[{"name":"x","status":"y"}]}', "$.stages[0].status"),
    ("run.json", RUN + ',"devices":"tpu:0"}', "tpu:0"),
    ("evaluation.json", '{"rows":[{"scheduler":"heft"}]}', "mean_ms"),
    ("evaluation.json", '{"rows":[{"scheduler":"heft","mean_ms":-1}]}', "$.rows[0].mean_ms"),
    ("evaluation.json", "[]", "evaluation.json"),
    ("validation.json", '{"cases":[{"input":1,"scheduler":"a"}]}', "$.cases[0]"),
    ("finetune/metrics.jsonl", '{"episodes":1,"seconds":1,"reward":0}\n{"epi\n', "jsonl:2"),
    ("finetune/metrics.jsonl", '{"episodes":1,"seconds":1,"reward":1e300}', "$.reward"),
    ("timeline/real.json", "{}", "real.json"),
    ("profile.json", "\xff", "profile.json"),
]


@pytest.mark.parametrize(("name", "content", "fragment"), MALFORMED)
def test_malformed_file_is_one_clear_error(tmp_path, name, content, fragment):
    folder = write_run(tmp_path / "run")
    if "tpu" in content:
        (folder / "profile.json").unlink()
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DynPartitionError) as caught:
        run_page(read_run_folder(folder))
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_diverged_training_leaves_gaps_in_its_curve(tmp_path):
    """What is no number is written as null, as JSON has it."""
    folder = write_run(tmp_path / "run")
    (folder / "finetune/metrics.jsonl").unlink()
    rows = [
        {"episodes": n, "seconds": n, "reward": reward, "validation": reward}
        for n, reward in enumerate((0.5, float("nan"), 0.25, float("inf")))
    ]
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    (folder / "pretrain/metrics.jsonl").write_bytes(lines)
    elements, _ = parsed(run_page(read_run_folder(folder)))
    assert elements.classes.count("validation") == 1 + 2  # the line, and its dots
    (folder / "pretrain/metrics.jsonl").write_bytes(msgspec.json.encode(rows[1]))
    _, text = parsed(run_page(read_run_folder(folder)))
    assert "No measurement yet." in text


def test_line_torn_by_an_interruption_does_not_count(tmp_path):
    folder = write_run(tmp_path / "run")
    line = '{"episodes":7,"seconds":1,"reward":0}'
    for rest in (f"{line}\n", line, f'{line}\n{{"epis'):
        (folder / "finetune/metrics.jsonl").write_text(rest)
        assert [metric.episodes for metric in read_run_folder(folder).finetune] == [7]


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="no such folder"):
        read_run_folder(tmp_path / "nothing")
    with pytest.raises(RunFolderError, match="holds no file of a run"):
        read_run_folder(tmp_path)


def test_traces_are_compared_on_one_time_axis():
    page = traces_page(graph(), [Run("short", trace()), Run("long", trace(2))])
    elements, text = parsed(page)
    assert elements.classes.count("launch") == 6
    assert 'data-span="3000"' in page
    assert "long 3.00 µs, 3 launches (+100.0 % against short)" in text
    assert 'x="5000.0" width="5000.0"' not in page  # the short run ends in the middle
    assert 'class="end" x1="5000.0"' in page


def test_empty_trace_has_a_page():
    parsed(traces_page(graph(), [Run("empty", Trace(0, ()))]))


def test_report_writes_page_events_and_result(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    (folder / "validation.json").unlink()
    result, events = tmp_path / "result.json", tmp_path / "events.json"
    report("--run", folder, "--json", result, "--trace", events)
    parsed((folder / "report.html").read_text(encoding="utf-8"))
    assert json.loads(result.read_text()) == {
        "page": str(folder / "report.html"),
        "missing": ["validation.json"],
    }
    assert capsys.readouterr().out == (
        f"wrote {folder}/report.html; not in the run folder: validation.json\n"
    )
    check_events(json.loads(events.read_text()), [trace(1000), trace(1100)])


def check_events(document, traces):
    events = well_formed(document)
    names = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert names == ["simulated", "real"]
    assert tracks_of(events) == [
        *("cpu:0", "cpu:1", "cpu:0 → cpu:1", "cpu:1 → cpu:0", "host dispatch")
    ]
    spans = [e for e in events if e["ph"] == "X"]
    for pid, ran in enumerate(traces, start=1):
        for category, rows in (("launch", ran.launches), ("transfer", ran.transfers)):
            shown = [e for e in spans if (e["pid"], e["cat"]) == (pid, category)]
            assert sorted(times_ns(e) for e in shown) == sorted(
                (r.start_ns, r.end_ns) for r in rows
            )
    assert spans[0]["name"] == "leaf"
    assert spans[0]["args"] == {"tasks": [11]}
    instants = [e for e in events if e["ph"] == "i"]
    assert [(e["pid"], e["name"], e["ts"], e["args"]) for e in instants] == [
        (1, "task 11 (leaf) known", 600.0, {"task": 11}),
        (2, "task 11 (leaf) known", 660.0, {"task": 11}),
    ]


def times_ns(event):
    start_ns = round(event["ts"] * 1000)
    return start_ns, start_ns + round(event["dur"] * 1000)


def tracks_of(events, pid=1):
    return [e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == pid]


FIELDS = {
    "X": {"ph", "name", "cat", "pid", "tid", "ts", "dur", "args"},
    "i": {"ph", "name", "cat", "pid", "tid", "ts", "s", "args"},
    "C": {"ph", "name", "cat", "pid", "ts", "args"},
}
METADATA = {
    "process_name": "name",
    "thread_name": "name",
    "process_sort_index": "sort_index",
    "thread_sort_index": "sort_index",
}


def well_formed(document):
    """Check what the Trace Event Format demands, and return the events."""
    assert document.keys() == {"displayTimeUnit", "traceEvents"}
    assert document["displayTimeUnit"] == "ns"
    events = document["traceEvents"]
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    for event in events:
        if event["ph"] == "M":
            assert event["args"].keys() == {METADATA[event["name"]]}
            assert ("tid" in event) == event["name"].startswith("thread")
        else:
            assert event.keys() == FIELDS[event["ph"]]
            assert event["ph"] == "C" or (event["pid"], event["tid"]) in named
            assert event.get("s", "p") == "p"
            assert isinstance(event["ts"], float)
            assert event["ts"] >= 0 <= event.get("dur", 0)
    ordered = [e for e in events if e["name"] == "thread_sort_index"]
    assert [e["args"]["sort_index"] for e in ordered] == [e["tid"] for e in ordered]
    for place in named:
        here = [e for e in events if e["ph"] == "X" and (e["pid"], e["tid"]) == place]
        here = sorted(times_ns(e) for e in here)
        assert all(a[1] <= b[0] for a, b in pairwise(here)), f"spans of {place} overlap"
    return events


LOADED = Trace(
    40,
    (LaunchSpan("cpu:1", (0,), 20, 30), LaunchSpan("cpu:1", (1,), 30, 40)),
    (
        TransferSpan("cpu:0", "cpu:1", (0,), 4, 5, 15, host_input=True),
        TransferSpan("cpu:0", "cpu:1", (1,), 4, 12, 18),
    ),
    (DispatchSpan("cpu:0", (1,), 0, 5), DispatchSpan("cpu:1", (0,), 4, 9)),
    loads=(LoadSpan("cpu:1", "leaf", 1_500_000, 0, 5),),
    wasted=(LaunchSpan("cpu:0", (2,), 1, 3),),
)


def test_events_keep_every_ns_and_spans_of_a_track_apart():
    """Loads are on the track of their link; what overlaps on it gets a second one."""
    run = Run("real", LOADED, "cpu:0")
    late_ns = 10**15 - 1
    long = replace(LOADED, launches=(LaunchSpan("cpu:1", (0,), late_ns - 1, late_ns),))
    document = json.loads(json.dumps(perfetto_events(graph(), [run, Run("long", long)])))
    events = well_formed(document)
    assert tracks_of(events) == [
        "cpu:0",
        "cpu:1",
        "cpu:0 → cpu:1",
        "cpu:0 → cpu:1 (2)",
        "host dispatch, cpu:0",
        "host dispatch, cpu:1",
    ]
    (load,) = [e for e in events if e.get("cat") == "load" and e["pid"] == 1]
    assert (load["name"], load["tid"], times_ns(load)) == ("weights of leaf", 3, (0, 5))
    assert load["args"] == {"cell": "leaf", "bytes": 1_500_000}
    (wasted,) = [e for e in events if e.get("cat") == "wasted" and e["pid"] == 1]
    assert (wasted["name"], wasted["tid"], times_ns(wasted)) == ("composer", 1, (1, 3))
    (last,) = [e for e in events if e.get("cat") == "launch" and e["pid"] == 2]
    assert times_ns(last) == (late_ns - 1, late_ns)


def test_what_gpus_said_of_themselves_is_on_counter_tracks():
    samples = (
        MonitorSample("cuda:0", 0, 1980, 2619, 97.5, 10**9, 41),
        MonitorSample("cuda:0", 1500, sm_clock_mhz=1755, throttled=("power-cap", "thermal")),
    )
    run = Run("monitored", replace(LOADED, monitor=samples), "cpu:0")
    events = well_formed(json.loads(json.dumps(perfetto_events(graph(), [run]))))
    counters = [(e["name"], e["ts"], e["args"]) for e in events if e["ph"] == "C"]
    assert counters == [
        ("cuda:0 SM clock", 0.0, {"MHz": 1980}),
        ("cuda:0 memory clock", 0.0, {"MHz": 2619}),
        ("cuda:0 power", 0.0, {"W": 97.5}),
        ("cuda:0 memory used", 0.0, {"bytes": 10**9}),
        ("cuda:0 temperature", 0.0, {"°C": 41}),
        ("cuda:0 throttled", 0.0, {"reasons": 0}),
        ("cuda:0 SM clock", 1.5, {"MHz": 1755}),
        ("cuda:0 throttled", 1.5, {"reasons": 2}),
    ]


def test_loads_are_drawn_on_their_link_and_explained():
    elements, text = parsed(traces_page(graph(), [Run("loaded", LOADED)]))
    assert elements.classes.count("load") == 1
    assert "1.50 MB, weights of leaf 0 ns to 5.00 ns, 5.00 ns" in text
    assert "host inputweights" in text.split("loaded 40.0 ns")[0]
    assert text.count("cpu:0 → cpu:1") == 1
    without, text = parsed(traces_page(graph(), [Run("plain", trace())]))
    assert "load" not in without.classes
    assert "weights" not in text


def test_loads_come_from_the_host_of_the_profile_or_of_the_host_inputs():
    inputs = LOADED.transfers[:1]
    unknown = replace(LOADED, transfers=(), launches=LOADED.launches[:1])
    for run, link in (
        (Run("a", replace(LOADED, transfers=inputs)), ("cpu:0", "cpu:1")),
        (Run("b", unknown, "cpu:7"), ("cpu:7", "cpu:1")),
        (Run("c", unknown), ("host", "cpu:1")),
    ):
        assert links_of([run]) == [link]
        assert devices_of([run])[-1] == "cpu:1"
        parsed(traces_page(graph(), [run]))


def test_report_compares_trace_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_graph(tmp_path / "g.json", graph())
    for name, scale in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        write_trace(tmp_path / name / "trace.json", trace(scale), graph())
    report("--traces", "a/trace.json", "b/trace.json", "--graph", "g.json", "--html", "p.html")
    _, text = parsed((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert "Timelines of small" in text
    assert "a/trace.json 1.50 µs" in text


@pytest.mark.parametrize(
    "arguments", [(), ("--traces", "t"), ("--graph", "g"), ("--run", "r", "--traces", "t")]
)
def test_report_needs_a_run_or_traces_of_a_graph(arguments):
    with pytest.raises(UsageError, match="give either --run FOLDER, or --traces"):
        report(*arguments)


def test_events_need_a_timeline(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "timeline/graph.json").unlink()
    with pytest.raises(UsageError, match="has no timeline"):
        report("--run", folder, "--trace", tmp_path / "events.json")


def test_report_does_not_import_torch():
    code = "import sys, dynpartition.cli.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_cell_and_scheduler_has_its_own_colour():
    cells = [Cell(f"expert_{i}") for i in range(40)]
    tasks = [Task(id=i, cell=cell.name) for i, cell in enumerate(cells)]
    assert len(set(cell_colours(TaskGraph.from_tasks("many", cells, tasks)).values())) == 40
    names = [cell.name for cell in cells]
    assert len(set(scheduler_colours([*names, *names]).values())) == 40  # validate has 12 of them


def test_numbers_are_written_for_people():
    assert [duration(ns) for ns in (0, 7, 1234, 56_789_000, 2.5e9)] == [
        "0 ns",
        "7.00 ns",
        "1.23 µs",
        "56.8 ms",
        "2.50 s",
    ]
    assert [seconds(s) for s in (4.21, 59.96, 187)] == ["4.2 s", "1 min 00 s", "3 min 07 s"]
    assert [size(n) for n in (12, 1500, 3e9)] == ["12 B", "1.50 kB", "3.00 GB"]
    assert [percent(0.0183), percent(-0.05, signed=True)] == ["1.8 %", "−5.0 %"]
    assert significant(123456) == "123,456"


def test_tag_escapes_children_and_attributes():
    assert tag("p", "a<b", tag("b", "&"), class_='"') == '<p class="&quot;">a&lt;b<b>&amp;</b></p>'
    assert tag("rect", x=1) == '<rect x="1"/>'


def test_format_errors_are_of_the_promised_kind(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "evaluation.json").write_text("{}")
    with pytest.raises(FileFormatError, match=r"evaluation\.json: .*rows"):
        read_run_folder(folder)
