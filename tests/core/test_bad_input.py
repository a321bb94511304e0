"""Bad input to every command: one line that says what to do, status 2, nothing left behind."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from dynpartition.__main__ import main
from dynpartition.cli import local
from dynpartition.cli.progress import progress_bar
from dynpartition.cli.registry import VERBS
from dynpartition.cli.training import CHECKPOINT, _check_replaceable
from dynpartition.cli.verb import Verb
from dynpartition.errors import OutputError

MODEL = ["--model", "treelstm:input_dim=20,hidden_dim=16"]
CELLS = ("leaf", "composer", "output")
CURVE = {"batch": [1], "duration_ns": [1000]}


def profile_of(*devices, cells=CELLS):
    return {
        "format": "dynpartition-profile",
        "version": 1,
        "devices": [{"kind": "cpu", **device} for device in devices],
        "links": [],
        "cells": {cell: {device["name"]: CURVE for device in devices} for cell in cells},
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a profile, a tree file and some things in the way."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text(json.dumps(profile_of({"name": "cpu:0"})))
    (tmp_path / "t.txt").write_text("(2 (1 It) (2 (2 works) (1 .)))\n" * 20)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    return tmp_path


def refusal(capsys, *words):
    """Return the one line that a command ends with; it must leave nothing behind."""
    before = sorted(Path().rglob("*"))
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dynpartition: error: ")
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return err


VALIDATE = ["validate", *MODEL, "--profile", "p.json"]
EVALUATE = ["evaluate", *MODEL, "--profile", "p.json"]
PRETRAIN = ["pretrain", *MODEL, "--inputs", "40", "--profile", "p.json"]


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["calibrate", "--seconds", "nan"], "--seconds is nan; give a number of seconds above 0"),
        (["calibrate", "--seconds", "inf"], "--seconds is inf; "),
        (["calibrate", "--seconds", "-1"], "--seconds is -1; "),
        (["calibrate", "--seconds", "soon"], "--seconds is 'soon'; give a number; see "),
        ([*PRETRAIN, "--out", "o", "--seconds", "0"], "--seconds is 0; "),
        (["quickstart", "--seconds", "1e400"], "--seconds is inf; "),
        ([*EVALUATE, "--inputs", "0"], "--inputs is 0; give a number from 1 to 100000"),
        ([*EVALUATE, "--inputs", "1000000000"], "--inputs is 1000000000; "),
        ([*EVALUATE, "--inputs", "1.5"], "--inputs is '1.5'; give a whole number"),
        ([*EVALUATE, "--cases", "0"], "--cases is 0; give a number from 1 to 10000"),
        ([*EVALUATE, "--repeats", "99999999999"], "--repeats is 99999999999; "),
        ([*VALIDATE, "--cases", "-1"], "--cases is -1; "),
        ([*VALIDATE, "--repeats", "1"], "--repeats is 1; give a number from 2 to 10000"),
        ([*VALIDATE, "--placements", "0"], "--placements is 0; give a number from 1 to 10000"),
        ([*VALIDATE, "--longer", "-1"], "--longer is -1; give seconds from 0 on"),
        ([*VALIDATE, "--longer", "nan"], "--longer is nan; give seconds from 0 on"),
        ([*VALIDATE, "--plot", "no/p.svg"], "cannot write no/p.svg: its folder does not exist"),
        (["refit", "--profile", "p.json", "--runs", ","], "--runs names no file; give one that"),
        (["refit", "--profile", "p.json", "--runs", "r.json"], "r.json: no such file; check the"),
        (["calibrate", "--modelled", "p.json"], "has no operator model of cpu:0; give one that"),
        (["calibrate", "--modelled", "p.json", "--devices", "cpu:0"], "leave out --devices"),
        ([*EVALUATE, "--seed", "-1"], "--seed is -1; give a number from 0"),
        ([*EVALUATE, "--seed", "1" + "0" * 30], "give a whole number from 0 to 2^63 - 1"),
        ([*EVALUATE, "--policy", ""], "an empty word follows --policy; give a value"),
    ],
)
def test_numbers(capsys, folder, words, fragment):
    assert fragment in refusal(capsys, *words)


@pytest.mark.parametrize(
    ("devices", "fragment"),
    [
        ("cpu", "device 'cpu' is not understood; write cpu:0, "),
        ("cpu:٣", "is not understood"),
        ("cpu:0x2", "speed 2 is not between 0.01 and 1; x0.5 is half"),
        ("cpu:0,cpu:00", "cpu:0 is listed twice; list each device once"),
        ("cpu:0@" + "9" * 400 + "TB", "is not understood"),
        ("cpu:0@99999999TB", "no device has so much memory; lower the cap"),
        ("cpu:0@900TB", "cpu:0 is capped at 900,000,000,000,000 bytes, but this machine has "),
        (",".join(f"cpu:{i}" for i in range(2000)), "2000 CPU devices are too many for this "),
        ("cuda:9", "add cpu:0"),
        ("cpu:0,cuda:9999", "cuda:9999 is not there: PyTorch sees "),
    ],
)
def test_devices(capsys, folder, devices, fragment):
    assert fragment in refusal(capsys, "calibrate", *MODEL, "--inputs", "9", "--devices", devices)


SMALL = {
    "g.json": {
        "format": "dynpartition-graph",
        "version": 1,
        "name": "small",
        "cells": [{"name": "leaf", "param_bytes": 0}],
        "tasks": [{"id": 0, "cell": "leaf", "inputs": [], "output_bytes": 0}],
    },
    "plan.json": {
        "format": "dynpartition-plan",
        "version": 1,
        "launches": [{"device": "cpu:0", "tasks": [0]}],
    },
}
FORM = "write DEVICE@TIME:SPEED with a unit (ns, us, ms, s), as in cuda:0@5ms:0.5"


@pytest.mark.parametrize(
    ("slow", "fragment"),
    [
        ("cpu:1@5ms:0.5", "slowdown: no device is named 'cpu:1'; did you mean 'cpu:0'?"),
        ("cpu:0@5ms:0", "slowdown of cpu:0: speed is 0.0; give 1 for full speed, 0.5 for half"),
        ("cpu:0@5ms:-1", "slowdown of cpu:0: speed is -1.0; give 1 for full speed"),
        ("cpu:0@5ms:1e400", "speed is inf; give 1 for full speed"),
        ("cpu:0@5ms:nan", FORM),
        ("cpu:0@5ms:1-2", "--slow cpu:0@5ms:1-2: '1-2' is no speed; 0.5 is half"),
        ("cpu:0@5:0.5", FORM),
        ("cpu:0@5m:0.5", FORM),
        ("cpu:0@-5ms:0.5", FORM),
        ("cpu:0@٥ms:0.5", FORM),
        ("cpu:0@5ms", FORM),
        ("@5ms:1", FORM),
        ("cpu:0@999999999999999s:1", "must be between 0 and 10^15"),
    ],
)
def test_slowdowns(capsys, folder, slow, fragment):
    for name, content in SMALL.items():
        (folder / name).write_text(json.dumps(content))
    files = ["--graph", "g.json", "--profile", "p.json", "--plan", "plan.json"]
    assert fragment in refusal(capsys, "simulate", *files, "--slow", slow)
    assert main(["simulate", *files, "--slow", "cpu:0@0ns:0.5"]) == 0
    assert capsys.readouterr().out.startswith("makespan 0.002 ms, 1 launch, 0 transfers\n")


@pytest.mark.parametrize(
    ("model", "fragment"),
    [
        ("treelstmm", "no model is named 'treelstmm'; did you mean 'treelstm'?"),
        ("treelstm:hidden=3", "no field 'hidden'; did you mean 'hidden_dim'?"),
        ("treelstm:hidden_dim=0", "hidden_dim is 0; give a whole number from 1"),
        ("treelstm:hidden_dim=²", "write settings as name=number, not 'hidden_dim=²'"),
        ("treelstm:hidden_dim=" + "9" * 5000, "write settings as name=number"),
        ("treelstm:classes=3,classes=4", "classes is given twice; give it once"),
        ("mathfunc", "has costs of leaf, composer, output, but mathfunc is made of value, sin"),
    ],
)
def test_models(capsys, folder, model, fragment):
    assert fragment in refusal(capsys, "evaluate", "--model", model, "--profile", "p.json")


def test_a_model_larger_than_the_machine(capsys, folder, monkeypatch):
    monkeypatch.setattr("dynpartition.cli.options.memory_bytes", lambda: 1000)
    err = refusal(capsys, *EVALUATE)
    assert " bytes of weights, but this machine has 1,000; choose smaller settings" in err


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "t.txt holds no trees; write one tree a line"),
        (b"(1 " * 10**6, "t.txt:1:3001: over 1000 nested brackets"),
        (random.Random(0).randbytes(5000), "t.txt:1:"),
        (b"\n" * 1_000_001, "t.txt has over 1000000 lines; split it into smaller files"),
    ],
)
def test_tree_files(capsys, folder, content, fragment):
    (folder / "t.txt").write_bytes(content)
    assert fragment in refusal(capsys, *EVALUATE, "--trees", "t.txt")


@pytest.mark.parametrize(
    ("path", "fragment"),
    [
        ("missing", "missing cannot be read: No such file or directory; check the path"),
        ("folder", "folder cannot be read: Is a directory; check the path"),
        ("file/t.txt", "file/t.txt cannot be read: Not a directory; check the path"),
        ("/dev/zero", "/dev/zero:1: a line of over 16 MiB; write one tree a line"),
    ],
)
def test_places_of_tree_files(capsys, folder, path, fragment):
    if path.startswith("/dev/") and not os.path.exists(path):
        pytest.skip(f"this system has no {path}")
    assert fragment in refusal(capsys, *EVALUATE, "--trees", path)


@pytest.mark.parametrize(
    ("profile", "fragment"),
    [
        (profile_of({"name": "npu"}), "the profile's device 'npu' (speed 1) is none of this"),
        (profile_of({"name": "cpu:0", "speed": 1e-4}), "'cpu:0' (speed 0.0001) is none of this"),
        (profile_of({"name": "cpu:0"}, cells=["other"]), "has costs of other, but treelstm is "),
        (profile_of({"name": "cpu:0", "memory_bytes": 10**15}), "lower the cap or leave it out"),
        (profile_of({"name": "cpu:0"}) | {"devices": []}, "`$.devices`"),
    ],
)
def test_profiles_of_another_machine(capsys, folder, profile, fragment):
    (folder / "p.json").write_text(json.dumps(profile))
    assert fragment in refusal(capsys, *VALIDATE)
    assert fragment in refusal(capsys, *EVALUATE, "--backend", "hardware")


def test_a_profile_without_links(capsys, folder):
    profile = profile_of({"name": "cpu:0"}, {"name": "cpu:1"})
    (folder / "p.json").write_text(json.dumps(profile))
    err = refusal(capsys, *EVALUATE, "--cases", "1", "--schedulers", "single:cpu:1")
    assert "must travel from cpu:0 to cpu:1, but the profile has no such link; add the link" in err


@pytest.mark.parametrize("name", [name for name in VERBS if name != "report"])
@pytest.mark.parametrize(
    ("output", "fragment"),
    [
        ("file/x.json", "cannot write file/x.json: a part of the path is a file"),
        ("missing/x.json", "cannot write missing/x.json: its folder does not exist"),
        ("folder", "cannot write folder: it is a folder; name a file in it"),
    ],
)
def test_outputs_are_checked_before_the_work(capsys, folder, monkeypatch, name, output, fragment):
    class Never(Verb):
        def execute(self):
            raise AssertionError("the work began")

    asked = Never(json=Path(output))
    monkeypatch.setattr("dynpartition.cli.frame.parse", lambda _: asked)
    assert fragment in refusal(capsys, name)


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ([*PRETRAIN, "--out", "file"], "cannot make the folder file: "),
        ([*PRETRAIN, "--out", "file/sub"], "cannot make the folder file/sub: "),
        (["quickstart", *MODEL, "--inputs", "40", "--run", "file"], "cannot make the folder file"),
        (["quickstart", *MODEL, "--inputs", "40", "--run", "."], ". is not empty; name another"),
        (["report", "--run", "folder"], "folder: holds no file of a run"),
        (["report", "--run", "missing"], "missing: no such folder; give the folder of a run"),
        (["profiles", "--json", "file/x.json"], "cannot write file/x.json"),
    ],
)
def test_folders(capsys, folder, words, fragment):
    assert fragment in refusal(capsys, *words)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_too_few_inputs_for_a_split(capsys, folder):
    words = ["quickstart", *MODEL, "--trees", "t.txt", "--run", "fresh"]
    assert "falls into the" in refusal(capsys, *words)


def test_a_full_disk_while_training(capsys, folder):
    (folder / "out").mkdir()
    (folder / "out" / "metrics.jsonl").symlink_to("/dev/full")
    err = refusal(capsys, *PRETRAIN, "--seconds", "0.1", "--out", "out")
    assert "cannot write out/metrics.jsonl: the disk is full" in err


def test_only_checkpoints_are_replaced(folder):
    (folder / CHECKPOINT).mkdir()
    (folder / CHECKPOINT / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="no checkpoint of this package; move it away"):
        _check_replaceable(folder / CHECKPOINT)
    (folder / CHECKPOINT / "manifest.json").write_text("{}")
    _check_replaceable(folder / CHECKPOINT)


def test_device_names_are_shown_as_they_are(capsys, folder):
    name = "[/red]\x1b[31m"
    (folder / "p.json").write_text(json.dumps(profile_of({"name": name})))
    assert (
        main([*EVALUATE, "--inputs", "20", "--cases", "1", "--schedulers", f"single:{name}"]) == 0
    )
    assert r"single:[/red]\x1b[31m" in capsys.readouterr().out


class Failing(Verb):
    """A command that fails in its own way."""

    error: BaseException = MemoryError()

    def execute(self):
        warnings.warn("the fan is\nloud", RuntimeWarning, stacklevel=1)
        raise self.error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "error: the memory of this machine is used up; ask for less"),
        (OSError(12, "Cannot allocate memory"), "error: the system refused: Cannot allocate"),
        (OSError(5, "Input/output error", "data.txt"), "error: data.txt: Input/output error"),
    ],
)
def test_what_the_system_refuses(capsys, monkeypatch, error, line):
    monkeypatch.setattr(Failing, "error", error)
    monkeypatch.setattr("dynpartition.cli.frame.parse", lambda _: Failing())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["fail"]) == 2
    warning, refused = capsys.readouterr().err.splitlines()
    assert warning == "dynpartition: warning: the fan is loud"
    assert refused.startswith(f"dynpartition: {line}")


def test_a_progress_bar_that_fails_goes_away(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for rich
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(KeyboardInterrupt), progress_bar("[/work]") as progress:
        progress(0.5)
        raise KeyboardInterrupt
    err = capsys.readouterr().err
    assert "[/work]" in err
    assert err.endswith("\x1b[1A\x1b[2K")


def test_without_a_terminal_there_is_no_progress_bar(capsys):
    with progress_bar("work") as progress:
        progress(0.5)
    assert capsys.readouterr().err == ""


def test_a_machine_s_memory_is_known():
    assert local.memory_bytes() > 2**28


CHILD = "import sys; from dynpartition.__main__ import main; sys.exit(main())"


def test_ctrl_c_ends_with_one_line_also_when_pressed_twice(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *PRETRAIN, "--out", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (folder / "out" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "dynpartition: interrupted\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


def test_files_in_the_working_directory_are_not_imported(folder):
    for name in ("torch", "numpy", "json", "models", "dynpartition"):
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    script = Path(sys.executable).with_name("dynpartition")
    if not script.exists():
        pytest.skip("the package is not installed as a command here")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_locale_without_unicode(folder):
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [*EVALUATE, "--inputs", "20", "--cases", "1", "--schedulers", "heft"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "best single" in done.stdout


def test_a_table_for_a_reader_that_has_gone_away(folder):
    reader, writer = os.pipe()
    os.close(reader)
    words = [*EVALUATE, "--inputs", "20", "--cases", "1", "--schedulers", "heft"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.returncode == 2
    assert done.stderr == "dynpartition: error: standard output: Broken pipe\n"


def test_closed_standard_files(folder):
    trees = "".join(f"(2 (1 It) (2 (2 works) (1 w{n})))\n" for n in range(9))
    (folder / "t.txt").write_text(trees)
    words = ["calibrate", *MODEL, "--trees", "t.txt", "--seconds", "0.1"]
    line = shlex.join([sys.executable, "-c", CHILD, *words])
    assert subprocess.run(["sh", "-c", f"{line} <&- >&- 2>&-"], check=False).returncode == 0


def test_a_working_directory_that_is_gone(folder):
    line = shlex.join([sys.executable, "-c", CHILD, "profiles"])
    done = subprocess.run(
        ["sh", "-c", f"mkdir gone; cd gone; rmdir ../gone; {line}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    gone = "the working directory is gone; change to one that exists"
    assert done.stderr == f"dynpartition: error: {gone}\n"
