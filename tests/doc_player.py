"""Plays code blocks one after the other in one process, as a reader would at a desk.

Reads a JSON list of [place, kind, text] from standard input, and writes what each one printed as a
JSON list. It ends with the first one that fails.
"""

from __future__ import annotations

import json
import linecache
import os
import shlex
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import ModuleType

from dynpartition.__main__ import main


def run_python(place: str, code: str, names: dict[str, object]) -> int:
    """Run code with the names of the blocks before it, and report what goes wrong."""
    linecache.cache[place] = (len(code), None, code.splitlines(keepends=True), place)
    try:
        exec(compile(code, place, "exec"), names)
    except Exception:  # noqa: BLE001 – whatever it is, the page fails by it
        traceback.print_exc()
        return 1
    return 0


def run_command(command: str) -> int:
    """Run a command: this package's own without a new process, which would load everything anew."""
    words = shlex.split(command)
    if words[0] == "dynpartition":
        return main(words[1:])
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        command,
        shell=True,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    sys.stdout.write(ran.stdout)
    return ran.returncode


def play(steps: list[tuple[str, str, str]]) -> list[tuple[int, str]]:
    """Return the status and the output of each step, up to one that fails unexpectedly."""
    module = sys.modules["__main__"] = ModuleType("__main__")  # classes that blocks define are here
    played: list[tuple[int, str]] = []
    for place, kind, text in steps:
        output = StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            if kind == "python":
                status = run_python(place, text, module.__dict__)
            else:
                status = run_command(text)
        played.append((status, output.getvalue()))
        if status not in (0, 2):
            break
    return played


if __name__ == "__main__":
    sys.path[0] = ""  # as for who types the blocks, and not the folder of this file
    asked = json.load(sys.stdin)
    json.dump(play(asked), sys.stdout)
