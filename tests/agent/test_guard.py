"""The guard: whoever was faster on the backend is what a checkpoint deploys."""

import json

import numpy as np
import pytest

from dynpartition import run
from dynpartition.agent import guard as guard_module
from dynpartition.agent.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dynpartition.agent.evaluation import Evaluation, Row
from dynpartition.agent.guard import OWN, RIVALS, guarded
from dynpartition.agent.policy import Policy, PolicyScheduler
from dynpartition.agent.registry import make_scheduler
from dynpartition.errors import CheckpointError
from dynpartition.sim.backend import SimBackend
from dynpartition.sim.perturb import rescaled
from tests.agent.worlds import trees, two_cpus


def with_ratios(monkeypatch, first, final=None):
    """Let both rounds come to given ratios; others take as long as the best single device."""
    rounds = iter([first, final or first])

    def evaluate(backend, workloads, schedulers, *, repeats, seed):
        ratios = next(rounds)
        rows = [Row(n, 1, 1, 1, 1, 1, 0, ratios.get(n, 1.0), 1, 1) for n in schedulers]
        return Evaluation(tuple(rows), len(workloads), repeats)

    monkeypatch.setattr(guard_module, "evaluate", evaluate)


def deployed(folder):
    checkpoint = guarded(Checkpoint(Policy.untrained(), {}, {"episodes": 3}), None, [])
    save_checkpoint(folder, checkpoint)
    assert load_checkpoint(folder).training["episodes"] == 3
    return make_scheduler("policy", policy=folder)


def test_the_policy_plays_where_it_is_as_fast(monkeypatch, tmp_path):
    with_ratios(monkeypatch, {"policy": 0.7, "heft": 0.7})
    assert isinstance(deployed(tmp_path / "a"), PolicyScheduler)


def test_a_faster_baseline_plays_instead(monkeypatch, tmp_path):
    with_ratios(monkeypatch, {"policy": 0.7, "best-single+merge": 0.4})
    assert deployed(tmp_path / "a").name == "best-single+merge"


def test_the_policy_is_merged_where_that_pays(monkeypatch, tmp_path):
    with_ratios(monkeypatch, {"policy": 0.7, "policy+merge": 0.3, "best-single+merge": 0.4})
    assert deployed(tmp_path / "a").name == "policy+merge"


def test_luck_in_the_first_round_does_not_decide(monkeypatch, tmp_path):
    with_ratios(monkeypatch, {"policy": 0.5, "heft": 0.6}, {"policy": 0.6, "heft": 0.55})
    assert deployed(tmp_path / "a").name == "heft"


def test_measures_on_a_backend():
    checkpoint = guarded(Checkpoint(Policy.untrained()), SimBackend(two_cpus()), trees(2, 0))
    note = checkpoint.training["guard"]
    assert set(note["ratios"]) == {*OWN, *RIVALS}
    assert note["ratios"]["best-single"] == 1.0
    assert note["plays"] in note["ratios"]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_deployed_is_not_slower_than_any_baseline(seed, tmp_path):
    """A policy that has learned nothing, on a machine slow enough that decisions cost nothing."""
    slow = rescaled(two_cpus(), lambda name: 1.0 if name.endswith("bandwidth") else 1e5)
    backend, work = SimBackend(slow), trees(4, 100 * seed)
    checkpoint = guarded(Checkpoint(Policy.untrained(seed)), backend, work)
    save_checkpoint(tmp_path / "a", checkpoint)

    def total(scheduler):
        return sum(np.log(run(backend, each, scheduler).trace.makespan_ns) for each in work)

    baselines = [total(make_scheduler(name)) for name in RIVALS]
    assert total(make_scheduler("policy", policy=tmp_path / "a")) <= min(baselines) + 1e-3


@pytest.mark.parametrize("plays", ["policy-of-mine", "policy+merge+merge", 7, None])
def test_a_guard_that_names_no_baseline_is_refused(tmp_path, plays):
    save_checkpoint(tmp_path / "a", Checkpoint(Policy.untrained(), {}, {"guard": {"plays": plays}}))
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["training"]["guard"]
    with pytest.raises(CheckpointError, match="fine-tune again"):
        make_scheduler("policy", policy=tmp_path / "a")
