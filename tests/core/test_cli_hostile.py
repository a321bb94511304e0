"""Hostile input through the real command: one line on stderr, status 2, nothing left behind."""

import json
import os
import subprocess
import sys

import pytest

GRAPH = {
    "format": "dynpartition-graph",
    "version": 1,
    "name": "small",
    "cells": [{"name": "leaf", "param_bytes": 0}],
    "tasks": [
        {"id": 1, "cell": "leaf", "inputs": [], "output_bytes": 8},
        {"id": 2, "cell": "leaf", "inputs": [1], "output_bytes": 8},
    ],
}
CURVE = {"batch": [1], "duration_ns": [1000]}
PROFILE = {
    "format": "dynpartition-profile",
    "version": 1,
    "devices": [{"name": "cpu:0", "kind": "cpu"}, {"name": "cpu:1", "kind": "cpu"}],
    "links": [],
    "cells": {"leaf": {"cpu:0": CURVE, "cpu:1": CURVE}},
}
PLAN = {
    "format": "dynpartition-plan",
    "version": 1,
    "launches": [{"device": "cpu:0", "tasks": [1]}, {"device": "cpu:0", "tasks": [2]}],
}
FILES = {"g.json": GRAPH, "p.json": PROFILE, "plan.json": PLAN}


@pytest.fixture
def folder(tmp_path):
    for name, document in FILES.items():
        (tmp_path / name).write_text(json.dumps(document))
    return tmp_path


def simulate(folder, output="trace.json", stdout=subprocess.PIPE):
    words = ["--graph", "g.json", "--profile", "p.json", "--plan", "plan.json", "--json", output]
    return subprocess.run(
        [sys.executable, "-m", "dynpartition", "simulate", *words],
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


def refusal(folder, output="trace.json"):
    """Return the one line on stderr of a command that must fail and leave nothing behind."""
    done = simulate(folder, output)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("dynpartition: error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return done.stderr


def test_the_world_itself_is_fine(folder):
    assert simulate(folder).returncode == 0


@pytest.mark.parametrize(
    ("name", "old", "new", "fragment"),
    [
        ("g.json", '"inputs": []', '"inputs": [2]', "g.json: tasks form a cycle: "),
        ("g.json", '"id": 2', '"id": 1', "g.json: task id 1 is used twice"),
        ("g.json", '"output_bytes": 8', '"output_bytes": NaN', "g.json: malformed JSON"),
        ("g.json", '"output_bytes": 8', '"output_bytes": -8', "at `$.tasks[0].output_bytes`"),
        ("g.json", '"output_bytes": 8', f'"output_bytes": {10**400}', "tasks[0].output_bytes`"),
        ("p.json", "1000", "-1000", '$.cells["leaf"]["cpu:0"].duration_ns[0]`'),
        ("plan.json", "cpu:0", "cpu:7", "plan.json: launch 0 on cpu:7: no device is named"),
        ("plan.json", '"cpu:0", "tasks": [1]', '"cpu:1", "tasks": [1]', "no such link"),
        ("plan.json", "[2]", "[3]", "plan.json: task 3 is not in graph 'small'"),
        ("g.json", None, "", "g.json: is empty"),
        ("g.json", None, "[" * 10**6 + "]" * 10**6, "g.json: brackets are nested too deeply"),
        ("p.json", None, '{"a":' + "[" * 10**6, "p.json: "),
    ],
)
def test_hostile_files(folder, name, old, new, fragment):
    text = (folder / name).read_text()
    assert old is None or old in text
    (folder / name).write_text(new if old is None else text.replace(old, new, 1))
    assert fragment in refusal(folder)


@pytest.mark.parametrize(
    ("output", "fragment"),
    [
        ("missing/trace.json", "cannot write missing/trace.json: its folder does not exist"),
        ("g.json/trace.json", "cannot write g.json/trace.json: a part of the path is a file"),
        (".", "cannot write .: it is a folder"),
    ],
)
def test_hostile_outputs(folder, output, fragment):
    assert fragment in refusal(folder, output)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk(folder):
    assert "cannot write /dev/full: the disk is full" in refusal(folder, "/dev/full")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_terminal_that_cannot_be_written_to(folder):
    with open("/dev/full", "w") as full:
        done = simulate(folder, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "dynpartition: error: standard output: No space left on device\n"


def test_a_reader_that_has_gone_away(folder):
    reader, writer = os.pipe()
    os.close(reader)
    done = simulate(folder, stdout=writer)
    os.close(writer)
    assert done.returncode == 2
    assert done.stderr == "dynpartition: error: standard output: Broken pipe\n"


def test_a_missing_file(folder):
    (folder / "g.json").rename(folder / "p.json")
    done = simulate(folder)
    assert done.returncode == 2
    assert done.stderr == "dynpartition: error: g.json: no such file; check the path\n"
