"""`evaluate --stream`: the table, the file, and what is refused."""

import json

import pytest

from dynpartition.__main__ import main
from dynpartition.cli.streams import parse_stream
from dynpartition.errors import DynPartitionError
from dynpartition.graph import Cell, Task, TaskGraph

SMALL = ["--profile", "synthetic-cpu-2gpu", "--inputs", "60", "--cases", "4"]
GRAPHS = [TaskGraph.from_tasks("one", [Cell("cell")], [Task(id=0, cell="cell")])] * 3


def test_schedulers_are_compared_on_one_stream(capsys, tmp_path):
    path = tmp_path / "stream.json"
    words = [*SMALL, "--stream", "poisson:2000", "--schedulers", "heft,single:cpu:0"]
    assert main(["evaluate", *words, "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 requests, poisson:2000: latencies")
    for column in ("mean ms", "p50 ms", "p95 ms", "p99 ms", "requests/s", "decision ms"):
        assert column in out
    result = json.loads(path.read_text())
    assert (result["stream"], result["requests"]) == ("poisson:2000", 4)
    assert [row["scheduler"] for row in result["rows"]] == ["best-single", "heft", "single:cpu:0"]
    for row in result["rows"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["throughput_per_s"] > 0 < row["decision_ms"]
    means = {row["scheduler"]: row["mean_ms"] for row in result["rows"]}
    assert means["single:cpu:0"] > means["best-single"]
    lines = [line for line in out.splitlines() if "│" in line]
    assert "single:cpu:0" in lines[-1]  # the slowest comes last


def test_arrivals_from_a_file_use_inputs_again(capsys, tmp_path):
    (tmp_path / "times.txt").write_text("0\n500000 # later\n1000000\n1000000\n2000000\n7000000\n")
    words = [*SMALL, "--stream", f"file:{tmp_path / 'times.txt'}", "--schedulers", "best-single"]
    assert main(["evaluate", *words]) == 0
    assert capsys.readouterr().out.startswith("6 requests, file:")


def test_a_closed_loop(capsys):
    words = [*SMALL, "--stream", "closed:2:1ms", "--schedulers", "best-single"]
    assert main(["evaluate", *words]) == 0
    assert "4 requests, closed:2:1ms" in capsys.readouterr().out


def test_what_the_forms_mean(tmp_path):
    closed = parse_stream("closed:2:5us")(GRAPHS, 0)
    assert (closed.follows, closed.think_ns) == ((-1, -1, 0), 5_000)
    assert parse_stream("closed:1")(GRAPHS, 0).think_ns == 0
    poisson = parse_stream("poisson:1e3")
    assert poisson(GRAPHS, 1).graph.digest == poisson(GRAPHS, 1).graph.digest
    assert poisson(GRAPHS, 1).graph.digest != poisson(GRAPHS, 2).graph.digest
    (tmp_path / "t").write_text("4\n2\n")
    arrivals = parse_stream(f"file:{tmp_path / 't'}")(GRAPHS, 0).graph.arrival_ns
    assert arrivals.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("poison:5", "write poisson:RATE_PER_S, file:PATH or closed:CLIENTS[:THINK], as in"),
        ("poisson", "--stream poisson: write"),
        ("poisson:", "--stream poisson:: write"),
        ("poisson:0", "'0' is no rate"),
        ("poisson:-3", "'-3' is no rate"),
        ("poisson:1e999", "'1e999' is no rate"),
        ("poisson:1.2.3", "'1.2.3' is no rate"),
        ("closed:0", "give from 1 to 10000 clients, not 0"),
        ("closed:2:5", "write poisson:RATE_PER_S"),
        ("closed:2:2000000s", "the think time is above"),
        ("closed:two", "write poisson:RATE_PER_S"),
        ("file:", "write poisson:RATE_PER_S"),
        ("file:/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_unknown_forms_are_one_clear_line(capsys, text, fragment):
    assert main(["evaluate", *SMALL, "--stream", text]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dynpartition: error: ")
    assert err.count("\n") == 1
    assert fragment in err


def test_files_of_arrivals_that_are_refused(tmp_path):
    path = tmp_path / "times"
    for text, fragment in (("5\nsoon\n", "line 2: 'soon' is no time"), ("# none\n", "is 0; give")):
        path.write_text(text)
        with pytest.raises(DynPartitionError, match=fragment):
            parse_stream(f"file:{path}")


def test_hardware_runs_one_input_at_a_time(capsys):
    words = [*SMALL, "--stream", "closed:1", "--backend", "hardware"]
    assert main(["evaluate", *words]) == 2
    assert "the hardware backend runs one input at a time" in capsys.readouterr().err
