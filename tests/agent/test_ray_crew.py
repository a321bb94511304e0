"""Rollouts on a real Ray of this machine: the same weights, whatever becomes of its workers."""

import os
import signal
import sys
import threading

import numpy as np
import pytest

from dynpartition.__main__ import main
from dynpartition.agent import ray_crew as module
from dynpartition.agent.checkpoint import load_checkpoint
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.families import Ranges
from dynpartition.agent.policy import Policy
from dynpartition.agent.ray_crew import ray_crew, simulated_inputs
from dynpartition.agent.train import train
from dynpartition.agent.world_training import WorldConfig, WorldSource, train_on_worlds
from dynpartition.contract import GraphWorkload
from dynpartition.errors import SchedulerError, TrainingError
from dynpartition.sim.backend import SimBackend
from tests.agent.worlds import graph_of, trees, two_cpus

CONFIG = TrainConfig(
    seconds=None, episodes=6 * 5 * 8, groups=5, rollouts=8, validate_every=2, keep="last"
)


@pytest.fixture(scope="module")
def ray():
    """Ray with 2 CPUs, started once: that takes seconds."""
    ray = pytest.importorskip("ray", reason="needs Ray (pip install 'dynpartition[ray]')")
    with module._connected(2):
        yield ray
    assert not ray.is_initialized()


def test_same_weights_and_metrics_as_here(ray):
    """Of inputs that hide something, too."""
    hidden = GraphWorkload(graph_of([(), (0,), (0,), (1, 2)], reveals={2: 1, 3: 1}))
    profile, workloads = two_cpus(), [*trees(3, 0, (3, 5)), hidden]
    here = train(SimBackend(profile), workloads, Policy.untrained(), CONFIG)
    with ray_crew(simulated_inputs(profile, workloads, CONFIG), 2) as crew:
        there = train(SimBackend(profile), workloads, Policy.untrained(), CONFIG, crew=crew)
    np.testing.assert_array_equal(here.policy.flat, there.policy.flat)
    assert not np.array_equal(here.policy.flat, Policy.untrained().flat)
    for one, other in zip(here.history, there.history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    for name, array in here.checkpoint.optimizer.items():
        np.testing.assert_array_equal(array, there.checkpoint.optimizer[name])


def test_a_killed_worker_changes_nothing(ray):
    """SIGKILL in the middle of training; Ray starts the actor again, and asks it again."""
    config = TrainConfig(seconds=None, episodes=12 * 4 * 8, groups=4, rollouts=8, keep="last")
    worlds = WorldConfig(ranges=Ranges(families=("in-tree",), n_tasks=(8, 20)), n_validation=2)
    killed = []

    def kill(metrics):
        if metrics["update"] == 3:
            actor = crew.actors[0]
            victim = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
            delay = threading.Timer(0.002, os.kill, (victim, signal.SIGKILL))  # amid an update
            delay.start()
            killed.append(victim)

    here = train_on_worlds(Policy.untrained(), config, worlds)
    with ray_crew(lambda: WorldSource(config, worlds), 2) as crew:
        there = train_on_worlds(Policy.untrained(), config, worlds, on_update=kill, crew=crew)
        n_left = len(crew.actors)
    assert len(killed) == 1 and n_left == 2
    np.testing.assert_array_equal(here.policy.flat, there.policy.flat)


class _Fatal:
    """A source whose cases cost the process that plays them its life."""

    @staticmethod
    def case(number):
        os.kill(os.getpid(), signal.SIGKILL)


def test_one_line_when_no_worker_lives(ray, monkeypatch):
    monkeypatch.setattr(module, "RESTARTS", 1)
    with (
        pytest.raises(TrainingError, match="all workers on Ray were lost, the last one 2 times"),
        ray_crew(lambda: _Fatal, 1) as crew,
    ):
        train(SimBackend(two_cpus()), trees(2, 0, (3, 4)), Policy.untrained(), CONFIG, crew=crew)


def test_an_error_there_is_the_error_here(ray):
    class Broken:
        def numbers(self, update):
            return range(1)

        def case(self, number):
            raise SchedulerError("no ready task has a legal device")

    config = TrainConfig(seconds=None, episodes=8, groups=1, rollouts=8)
    with (
        pytest.raises(SchedulerError, match=r"^no ready task has a legal device$"),
        ray_crew(Broken, 1) as crew,
    ):
        train(SimBackend(two_cpus()), trees(1, 0), Policy.untrained(), config, crew=crew)


def test_more_workers_than_cpus(ray):
    with (
        pytest.raises(TrainingError, match="3 workers are asked for, but Ray has 2 CPUs"),
        ray_crew(lambda: None, 3),
    ):
        pass


def test_the_command_line_gives_the_same_checkpoint(ray, tmp_path, capsys):
    words = ["pretrain", "--profile", "small-cpu", "--inputs", "8", "--scratch"]
    words += ["--episodes", "256", "--out"]
    assert main([*words, str(tmp_path / "here")]) == 0
    assert main([*words, str(tmp_path / "there"), "--workers", "ray:1"]) == 0
    here, there = (load_checkpoint(tmp_path / name / "checkpoint") for name in ("here", "there"))
    np.testing.assert_array_equal(here.policy.flat, there.policy.flat)
    assert here.training["episodes"] == 256


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--workers", "dask"], "--workers is 'dask'; write ray, or ray:4"),
        (["--workers", "ray:two"], "--workers is 'ray:two'; write ray, or ray:4"),
        (["--workers", "ray:0"], "--workers ray is 0; give a number from 1 to 1000"),
        (["--episodes", "0"], "--episodes is 0; give a number from 1"),
        (["--agent", "dqn", "--workers", "ray"], "--workers is of the policy"),
    ],
)
def test_what_is_refused_is_one_line(words, expected, tmp_path, capsys):
    begin = ["pretrain", "--profile", "small-cpu", "--out", str(tmp_path / "run")]
    assert main([*begin, *words]) == 2
    line = capsys.readouterr().err
    assert expected in line and line.count("\n") == 1


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TrainingError, match=r"pip install 'dynpartition\[ray\]'"), ray_crew(list):
        pass
