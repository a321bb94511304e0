"""Every malformed file gives one line that names the file, the place and the remedy."""

import json
from functools import reduce

import pytest

from dynpartition import DynPartitionError
from dynpartition.errors import FileFormatError, GraphError, PlanError, ProfileError
from dynpartition.formats import read_graph, read_plan, read_profile, read_trace

GRAPH = {
    "format": "dynpartition-graph",
    "version": 1,
    "name": "small",
    "cells": [{"name": "leaf", "param_bytes": 0}],
    "tasks": [
        {"id": 1, "cell": "leaf", "inputs": [], "output_bytes": 8, "duration_ns": {"cpu:0": 5}},
        {"id": 2, "cell": "leaf", "inputs": [1], "output_bytes": 8},
    ],
}
LINK = {"src": "cpu:0", "dst": "cuda:0", "latency_ns": 1, "bandwidth_bytes_per_s": 10}
PROFILE = {
    "format": "dynpartition-profile",
    "version": 1,
    "devices": [{"name": "cpu:0", "kind": "cpu"}, {"name": "cuda:0", "kind": "cuda"}],
    "links": [LINK],
    "cells": {
        "other": {"cpu:0": {"batch": [1], "duration_ns": [1]}},
        "leaf": {"cpu:0": {"batch": [1, 2], "duration_ns": [3, 4]}},
    },
    "dispatch": {"host_mode": "single", "h": 8},
}
PLAN = {
    "format": "dynpartition-plan",
    "version": 1,
    "launches": [{"device": "cpu:0", "tasks": [1]}, {"device": "cpu:0", "tasks": [2]}],
}
SPAN = {"device": "cpu:0", "tasks": [1], "start_ns": 0, "end_ns": 5}
TRACE = {
    "format": "dynpartition-trace",
    "version": 1,
    "makespan_ns": 5,
    "launches": [SPAN],
    "transfers": [{"src": "a", "dst": "b", "tasks": [1], "bytes": 8, "start_ns": 5, "end_ns": 6}],
    "dispatches": [],
    "loads": [],
    "reveals": [{"task": 2, "end_ns": 3, "known_ns": 4}],
    "monitor": [{"device": "cuda:0", "at_ns": 1, "power_w": 97.5, "throttled": ["power-cap"]}],
}
DROP = object()


def changed(document, path, value):
    """Return a copy of `document` with the value at `path` (names and numbers) replaced."""
    copy = json.loads(json.dumps(document))
    *parents, last = path
    holder = reduce(lambda inner, step: inner[step], parents, copy)
    if value is DROP:
        del holder[last]
    else:
        holder[last] = value
    return copy


@pytest.fixture
def refusal(tmp_path):
    """Return what reading a file with this content says, without the file's name."""

    def refuse(read, content, *context):
        path = tmp_path / "file.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(DynPartitionError) as caught:
            read(path, *context)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert message.count(str(path)) == 1
        assert "\n" not in message
        return type(caught.value), message.removeprefix(f"{path}: ")

    return refuse


@pytest.fixture
def small_graph(tmp_path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(GRAPH))
    return read_graph(path)


def test_the_documents_that_the_tables_change_are_valid(tmp_path, small_graph):
    for read, document, context in [
        (read_profile, PROFILE, ()),
        (read_plan, PLAN, (small_graph,)),
        (read_trace, TRACE, (small_graph,)),
    ]:
        path = tmp_path / "valid.json"
        path.write_text(json.dumps(document))
        read(path, *context)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "is empty"),
        (b"\xff\xfe{}", "is not UTF-8 at byte 0"),
        (b'{"name": "\xc3"}', "is not UTF-8 at byte 10"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("[" * 10**6 + "]" * 10**6, "nested too deeply"),
        ('{"format":' + "[" * 10**6 + "]" * 10**6 + "}", "nested too deeply"),
        ('{"format":' + '{"a":' * 10**6 + "1" + "}" * 10**6 + "}", "nested too deeply"),
        ("[]", "Expected `object`, got `array`"),
        ("null", "Expected `object`, got `null`"),
        ('"text"', "Expected `object`, got `str`"),
        ("{}", '"format" is missing, expected "dynpartition-graph"'),
        ('{"format": "dynpartition-plan"}', '"format" is "dynpartition-plan", expected'),
        ('{"format": 3}', '"format" is 3, expected'),
        ('{"format": "dynpartition-graph"}', '"version" is missing, expected 1'),
        ('{"format": "dynpartition-graph", "version": 2}', '"version" is 2, expected 1'),
        ('{"format": "dynpartition-graph", "version": "1"}', '"version" is "1", expected 1'),
        ('{"format": "dynpartition-graph", "version": true}', "– at `$.version`"),
        ('{"format": "dynpartition-graph",\n "a": NaN}', "line 2, column 7, near 'NaN}'"),
        ('{"format": "dynpartition-graph", "a": -Infinity}', "JSON has no Infinity"),
        ('{"format": "dynpartition-graph", "version": 1,}', "trailing comma"),
        ('{"format": "dynpartition-graph", "version": 1', "the text ends too early"),
        ("{'format': 1}", "malformed JSON"),
        ('{"format": "dynpartition-graph", "version": 1} {}', "trailing characters"),
        ('{"format": "\\ud800"}', "malformed JSON"),
    ],
)
def test_what_is_no_document(refusal, content, fragment):
    kind, message = refusal(read_graph, content)
    assert kind is FileFormatError
    assert fragment in message


@pytest.mark.parametrize(
    ("path", "value", "fragment"),
    [
        (["name"], "", 'Expected `str` of length >= 1, found "" – at `$.name`'),
        (["name"], DROP, "missing required field `name`"),
        (["tasks", 1, "output_byte"], 3, "unknown field 'output_byte'; did you mean"),
        (["tasks", 1, "output_byte"], 3, "'host_bytes'? – at `$.tasks[1]`"),
        (["tasks", 1, "id"], DROP, "missing required field `id` – at `$.tasks[1]`"),
        (["tasks", 1, "id"], "2", "Expected `int`, got `str` – at `$.tasks[1].id`"),
        (["tasks", 1, "id"], True, "Expected `int`, got `bool`"),
        (["tasks", 1, "id"], 2.0, "Expected `int`, got `float`"),
        (["tasks", 1, "id"], None, "Expected `int`, got `null`"),
        (
            ["tasks", 1, "inputs"],
            [1, -2],
            "found -2 – at `$.tasks[1].inputs[1]`",
        ),
        (["tasks", 1, "inputs"], 1, "Expected `array`, got `int` – at `$.tasks[1].inputs`"),
        (
            ["tasks", 1, "output_bytes"],
            -1,
            "found -1 – at `$.tasks[1].output_bytes`",
        ),
        (["tasks", 1, "output_bytes"], 10**15 + 1, "Expected `int` <= 1000000000000000"),
        (["tasks", 1, "output_bytes"], 10**400, "– at `$.tasks[1].output_bytes`"),
        (["tasks", 1, "returns"], 1, "Expected `bool`, got `int` – at `$.tasks[1].returns`"),
        (["tasks", 0, "duration_ns", "cpu:0"], -5, '– at `$.tasks[0].duration_ns["cpu:0"]`'),
        (["cells", 0, "name"], "", 'length >= 1, found "" – at `$.cells[0].name`'),
    ],
)
def test_graphs(refusal, path, value, fragment):
    kind, message = refusal(read_graph, changed(GRAPH, path, value))
    assert kind is FileFormatError
    assert fragment in message


@pytest.mark.parametrize(
    ("path", "value", "fragment"),
    [
        (["tasks"], [], "graph 'small' has no tasks"),
        (["tasks", 1, "id"], 1, "task id 1 is used twice"),
        (["tasks", 0, "inputs"], [2], "tasks form a cycle: "),
        (["tasks", 0, "cell"], "leav", "did you mean 'leaf'?"),
        (["tasks", 0, "revealed_by"], 9, "revealed_by 9 is no other task"),
    ],
)
def test_graphs_that_contradict_themselves(refusal, path, value, fragment):
    kind, message = refusal(read_graph, changed(GRAPH, path, value))
    assert kind is GraphError
    assert fragment in message


@pytest.mark.parametrize(
    ("path", "value", "fragment"),
    [
        (["devices"], [], "Expected `array` of length >= 1, found [] – at `$.devices`"),
        (["devices", 0, "kind"], "gpu", "Invalid enum value 'gpu' – at `$.devices[0].kind`"),
        (["devices", 0, "speed"], 0, "– at `$.devices[0].speed`"),
        (["devices", 0, "speed"], 1.5, "– at `$.devices[0].speed`"),
        (["devices", 0, "memory_bytes"], 0, "Expected `int` >= 1"),
        (["links", 0, "table"], [[1, 1]], "link cpu:0->cuda:0 needs either latency_ns"),
        (["links", 0, "latency_ns"], DROP, "or table – at `$.links[0]`"),
        (["links", 0, "bandwidth_bytes_per_s"], 0, "Expected `int` >= 1"),
        (["links", 0, "blocks"], "all", "Invalid enum value 'all'"),
        (["links", 0, "resources"], ["a", "a"], "listed twice – at `$.links[0].resources`"),
        (["links", 0, "resources"], "bus", "Expected `array`, got `str`"),
        (["links", 0], {"src": "cpu:0", "dst": "cuda:0", "table": []}, "length >= 1"),
        (["links", 0], {"src": "cpu:0", "dst": "cuda:0", "table": [[1, 2, 3]]}, "length 2"),
        (["links", 0], {"src": "cpu:0", "dst": "cuda:0", "table": [[0, 2]]}, "table[0][0]`"),
        (
            ["links", 0],
            {"src": "cpu:0", "dst": "cuda:0", "table": [[5, 2], [5, 3]]},
            "bytes must grow strictly, but 5 follows 5 – at `$.links[0].table`",
        ),
        (["cells", "leaf", "cpu:0", "batch"], [2, 1], 'at `$.cells["leaf"]["cpu:0"].batch`'),
        (["cells", "leaf", "cpu:0", "batch"], [0, 1], "Expected `int` >= 1"),
        (["cells", "leaf", "cpu:0", "batch"], [1], "1 batch sizes but 2 durations"),
        (["cells", "leaf", "cpu:0", "duration_ns"], [3, -4], '["leaf"]["cpu:0"].duration_ns[1]`'),
        (["cells", "leaf", "cpu:0", "durations"], [], "did you mean 'duration_ns'?"),
        (["noise"], {"sigma": -0.1}, "– at `$.noise.sigma`"),
        (["noise"], {"sigma": [[5, 0.1], [5, 0.2]]}, "durations must grow strictly"),
        (["noise"], {"sigma": []}, "– at `$.noise.sigma`"),
        (["noise"], {"stall_probability": 2}, "– at `$.noise.stall_probability`"),
        (["noise"], {"stalls": 2}, "unknown field 'stalls'; did you mean 'stall_ns'?"),
        (["uncertainty"], -1, "– at `$.uncertainty`"),
        (["devices", 0, "resident"], ["leaf", "leaf"], "listed twice – at `$.devices[0].resident`"),
        (["provenance"], [], "Expected `object`, got `array` – at `$.provenance`"),
        (["dispatch"], None, "– at `$.dispatch`"),
        (["dispatch", "lock"], 1.5, "– at `$.dispatch.lock`"),
        (["dispatch", "queue_depth"], 0, "– at `$.dispatch.queue_depth`"),
        (["dispatch", "host_mode"], "double", "Invalid enum value 'double'"),
        (["dispatch", "h"], {"leaf": {"cpu:0": 3}, "cpu:0": 4}, "mixed"),
        (["dispatch", "h"], {"leaf": {"cpu:0": -3}}, '– at `$.dispatch.h["leaf"]["cpu:0"]`'),
        (["dispatch", "copy_in"], {"cpu:0": {"latency_ns": 1}}, "`bandwidth_bytes_per_s`"),
    ],
)
def test_profiles(refusal, path, value, fragment):
    kind, message = refusal(read_profile, changed(PROFILE, path, value))
    assert kind is FileFormatError
    assert fragment in message


@pytest.mark.parametrize(
    ("path", "value", "fragment"),
    [
        (["devices", 1, "name"], "cpu:0", "device 'cpu:0' is listed twice"),
        (["host"], "cpu:1", "host: no device is named 'cpu:1'"),
        (["links", 0, "src"], "cpu:1", "link cpu:1->cuda:0: no device is named"),
        (["links"], [LINK, LINK], "link 'cpu:0->cuda:0' is listed twice"),
        (["links", 0, "dst"], "cpu:0", "joins a device to itself"),
        (["cells", "leaf", "cuda:1"], {"batch": [1], "duration_ns": [1]}, "cell 'leaf': no dev"),
        (["dispatch", "h"], {"cuda:1": 3}, "$.dispatch.h: no device"),
        (["dispatch", "h"], {"leaf": {"cuda:1": 3}}, '$.dispatch.h["leaf"]: no device'),
        (["dispatch", "bookkeeping_ns"], {"cuda:1": 3}, "$.dispatch.bookkeeping_ns: no device"),
        (
            ["dispatch", "copy_out"],
            {"x": {"latency_ns": 1, "bandwidth_bytes_per_s": 1}},
            "$.dispatch.copy_out: no device is named 'x'",
        ),
    ],
)
def test_profiles_that_contradict_themselves(refusal, path, value, fragment):
    kind, message = refusal(read_profile, changed(PROFILE, path, value))
    assert kind is ProfileError
    assert fragment in message


@pytest.mark.parametrize(
    ("path", "value", "fragment"),
    [
        (["launches", 1, "tasks"], [], "length >= 1, found [] – at `$.launches[1].tasks`"),
        (["launches", 1, "tasks"], [2, 3], "task 3 is not in graph 'small'"),
        (["launches", 1, "tasks"], [2, 3], "– at `$.launches[1].tasks[1]`"),
        (["launches", 1, "device"], "", "– at `$.launches[1].device`"),
        (["launches", 1, "devise"], "x", "did you mean 'device'?"),
        (["launches"], {}, "Expected `array`, got `object`"),
    ],
)
def test_plans(refusal, small_graph, path, value, fragment):
    kind, message = refusal(read_plan, changed(PLAN, path, value), small_graph)
    assert kind is FileFormatError
    assert fragment in message


def test_with_a_cluster_a_plan_must_be_legal(refusal, small_graph, profile):
    swapped = changed(PLAN, ["launches"], PLAN["launches"][::-1])
    kind, message = refusal(read_plan, swapped, small_graph, profile.cluster)
    assert kind is PlanError
    assert "launch 0 on cpu:0: task 2 (leaf) needs task 1 (leaf)" in message


@pytest.mark.parametrize(
    ("path", "value", "fragment"),
    [
        (["loads"], [{}], "– at `$.loads[0]`"),
        (
            ["loads"],
            [{"device": "cpu:0", "cell": "leaves", "bytes": 1, "start_ns": 0, "end_ns": 1}],
            "did you mean 'leaf'? – at `$.loads[0].cell`",
        ),
        (
            ["loads"],
            [{"device": "cpu:0", "cell": "leaf", "bytes": 1, "start_ns": 2, "end_ns": 1}],
            "time goes forward – at `$.loads[0]`",
        ),
        (["loads"], DROP, "missing required field `loads`"),
        (["launches", 0, "end_ns"], -1, "– at `$.launches[0].end_ns`"),
        (["launches", 0, "start_ns"], 9, "end_ns 5 is before start_ns 9"),
        (["transfers", 0, "tasks"], [7], "– at `$.transfers[0].tasks[0]`"),
        (["transfers", 0, "start_ns"], 9, "– at `$.transfers[0]`"),
        (["reveals", 0, "task"], 7, "– at `$.reveals[0].task`"),
        (["reveals", 0, "known_ns"], 1, "known_ns 1 is before end_ns 3"),
        (["monitor", 0, "power_w"], -1.0, "found -1.0 – at `$.monitor[0].power_w`"),
        (["monitor", 0, "at_ns"], DROP, "missing required field `at_ns` – at `$.monitor[0]`"),
        (["monitor", 0, "sm_clock"], 1, "did you mean 'sm_clock_mhz'? – at `$.monitor[0]`"),
        (["monitor", 0, "throttled"], "hot", "Expected `array`, got `str`"),
    ],
)
def test_traces(refusal, small_graph, path, value, fragment):
    kind, message = refusal(read_trace, changed(TRACE, path, value), small_graph)
    assert kind is FileFormatError
    assert fragment in message


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('"name": "small"', '"name": "small", "name": "big"', "key 'name' stands twice; .* `$`"),
        ('"id": 2', '"id": 2, "id": 3', "key 'id' stands twice; .* `$.tasks[1]`"),
        ('"cpu:0": 5', '"cpu:0": 5, "cpu:0": 6', "'cpu:0' stands .* `$.tasks[0].duration_ns`"),
    ],
)
def test_a_key_that_stands_twice_is_refused(refusal, old, new, place):
    text = json.dumps(GRAPH)
    assert old in text
    _, message = refusal(read_graph, text.replace(old, new))
    first, last = place.split(" .* ")
    assert first in message
    assert message.endswith(last)
