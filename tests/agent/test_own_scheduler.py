"""Schedulers of a user's own file, by place."""

import json
import subprocess
import sys
import textwrap

import pytest

from dynpartition.agent.registry import make_scheduler
from dynpartition.errors import SchedulerError
from dynpartition.formats import write_graph
from tests.agent.worlds import tree_graph

SCHEDULERS = """
    from dynpartition import Launch, Scheduler

    class Last(Scheduler):
        name = "last"

        def schedule(self, graph, profile, planned):
            done = {task for launch in planned.launches for task in launch.tasks}
            device = profile.cluster.names[-1]
            return [Launch(device, (t,)) for t in range(len(graph)) if t not in done]

    class Choosy(Last):
        def __init__(self, device):
            self.device = device

    class Broken(Last):
        def __init__(self):
            raise TypeError("of its own")

    def made():
        return Last()

    ready, number = Last(), 7
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with the file."""
    (tmp_path / "their_schedulers.py").write_text(textwrap.dedent(SCHEDULERS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("their_schedulers", "dynpartition_user_their_schedulers"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("module", ["their_schedulers.py", "their_schedulers"])
@pytest.mark.parametrize("name", ["Last", "made", "ready"])
def test_classes_functions_and_objects_are_found(folder, module, name):
    assert make_scheduler(f"{module}:{name}").name == "last"


def test_suffixes_work_as_with_others(folder):
    assert make_scheduler("their_schedulers.py:Last+merge+cache").name == "last+merge+cache"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("their_schedulers.py:Lost", "nothing has that name; did you mean 'Last'"),
        ("no_such.py:Last", "there is no file .*no_such.py"),
        ("no_such_module:Last", "there is no module 'no_such_module'"),
        ("their_schedulers:Choosy", "cannot be called without arguments: missing .*'device'"),
        ("their_schedulers:number", "gives int, no scheduler; derive yours from dynpartition.Sch"),
        ("their_schedulers:Launch.of", "nothing has that name"),
    ],
)
def test_what_is_no_scheduler_is_said(folder, place, message):
    with pytest.raises(SchedulerError, match=message):
        make_scheduler(place)


def test_what_it_raises_itself_is_not_taken_for_a_wrong_call(folder):
    with pytest.raises(TypeError, match="of its own"):
        make_scheduler("their_schedulers:Broken")


def test_commands_take_it(folder):
    write_graph(folder / "graph.json", tree_graph(6, 1))
    words = ["--graph", "graph.json", "--profile", "small-cpu", "--json", "plan.json"]
    command = [sys.executable, "-m", "dynpartition", "schedule", *words]
    done = subprocess.run(
        [*command, "--scheduler", "their_schedulers.py:Last"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    launches = json.loads((folder / "plan.json").read_text())["launches"]
    assert {launch["device"] for launch in launches} == {"cpu:1"}
