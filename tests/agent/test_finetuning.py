"""Fine-tuning on a machine that is not what its profile says: a simulator that hides the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynpartition import GraphWorkload, Profile, TaskGraph, run
from dynpartition.agent.checkpoint import load_checkpoint, save_checkpoint
from dynpartition.agent.families import Setting, draw_graph
from dynpartition.agent.finetuning import STAGES, FinetuneConfig, Finetuned, finetune
from dynpartition.agent.machines import Machine, draw_profile
from dynpartition.agent.policy import SHIPPED, Policy, PolicyScheduler
from dynpartition.belief import Believing
from dynpartition.calibration.correcting import Correction
from dynpartition.contract import Workload
from dynpartition.errors import CheckpointError, TrainingError
from dynpartition.models import build_model, generate_inputs
from dynpartition.sim import SimBackend
from dynpartition.sim.perturb import rescaled
from tests.calibration.test_joint import machine

MACHINE = Machine(ratio=3.0, wiring="bus", host_mode="processes", staging=True)
SETTING = Setting(family="tree-with-outputs", n_tasks=24, machine=MACHINE)
QUICK = FinetuneConfig(episodes=64, correcting=16, rehearsals=256)


def hidden_world(count: int, seed: int) -> tuple[Profile, list[Workload]]:
    rngs = [np.random.default_rng([seed, number]) for number in range(count)]
    graphs = [draw_graph(SETTING, rng) for rng in rngs]
    truth = draw_profile(graphs, MACHINE, np.random.default_rng(seed))
    return truth, [GraphWorkload(graph) for graph in graphs]


def misjudged(truth: Profile, factors: dict[str, float]) -> Profile:
    """The truth with all times of a device, and all of a link, times a factor."""

    def factor(name: str) -> float:
        found = next((f for part, f in factors.items() if part in name.split("/")), 1.0)
        return 1 / found if name.endswith("/bandwidth") else found

    return rescaled(truth, factor)


def optimistic_about_the_slow_one(truth: Profile) -> Profile:
    """The slowest device seems 30 % faster than it is, the fastest 30 % slower, and so on."""
    by_device = dict(zip(truth.cluster.names, (0.7, 1.0, 1.3), strict=True))
    links = [f"{link.src}->{link.dst}" for link in truth.cluster.links]
    return misjudged(truth, by_device | {name: (0.7, 1.3)[n % 2] for n, name in enumerate(links)})


def logs(truth: Profile, known: Profile, policy: Policy, work: list[Workload]) -> np.ndarray:
    backend, scheduler = Believing(SimBackend(truth), known), PolicyScheduler(policy)
    return np.log([run(backend, each, scheduler).trace.makespan_ns for each in work])


@pytest.mark.parametrize("seed", range(2))
def test_what_a_wrong_profile_costs_is_recovered(seed: int) -> None:
    """Of 40 inputs never run before, after 64 runs; the rehearsal may gain more than that."""
    truth, work = hidden_world(70, seed)
    wrong, held_out = optimistic_about_the_slow_one(truth), work[30:]
    start = load_checkpoint(SHIPPED).policy
    config = replace(QUICK, rehearsals=0)
    tuned = finetune(
        Believing(SimBackend(truth), wrong), work[:30], start, Correction(wrong), config
    )
    good, bad = (logs(truth, known, start, held_out) for known in (truth, wrong))
    after = logs(truth, tuned.profile, tuned.policy, held_out)
    cost = float((bad - good).mean())
    assert cost > 0.02, "the error must cost something"
    assert float((bad - after).mean()) > 0.8 * cost


def test_runs_are_counted() -> None:
    truth, work = hidden_world(6, 0)

    class Counting(SimBackend):
        n_runs = 0

        def makespans_ns(self, plans):
            Counting.n_runs += len(plans)
            return super().makespans_ns(plans)

    tuned = finetune(Counting(truth), work, Policy.untrained(), Correction(truth), QUICK)
    last = tuned.history[-1]
    assert last["episodes"] == QUICK.correcting + Counting.n_runs <= QUICK.episodes
    assert [line["stage"] for line in tuned.history] == [1, 1, 3, 3]


def test_the_policy_is_compared_on_the_same_inputs() -> None:
    truth, work = hidden_world(12, 0)
    correction = Correction(truth)
    config = FinetuneConfig(episodes=32, correcting=32, rehearsals=0)
    tuned = finetune(SimBackend(truth), work, Policy.untrained(), correction, config)
    inputs = [noted.input for noted in correction.runs]
    assert inputs[1::4] == inputs[2::4]
    assert len(set(inputs)) > 6
    took = [noted.trace.makespan_ns for noted in correction.runs]
    rewards = np.log(np.array(took[2::4]) / np.array(took[1::4])).reshape(4, 2).mean(axis=1)
    np.testing.assert_allclose([line["reward"] for line in tuned.history], rewards)


def small_world(kind: str) -> tuple[Profile, list[Workload]]:
    if kind == "moe":  # with reveals, in sessions
        return machine("moe")[0], list(generate_inputs(build_model("moe"), 5, 3))
    return hidden_world(5, 3)


@pytest.mark.parametrize("kind", ["synthetic", "moe"])
def test_a_run_that_is_cut_comes_to_the_same_policy_and_profile(kind: str, tmp_path) -> None:
    """Cut after each of its checkpoints, saved, loaded and resumed."""
    truth, work = small_world(kind)
    wrong = rescaled(truth, lambda name: 1.2 if "cpu:0" in name else 0.9)
    config = FinetuneConfig(episodes=60, correcting=20, rehearsals=8 * 16 * 51, seed=4)
    if kind == "moe":
        config = replace(config, rehearsals=32)

    def tune(**options) -> Finetuned:
        backend = Believing(SimBackend(truth), wrong)
        start = Policy.untrained(1, 2)
        return finetune(backend, work, start, Correction(wrong), config, **options)

    kept = []
    whole = tune(on_checkpoint=kept.append)
    stages = [checkpoint.training["finetune"]["stage"] for checkpoint in kept]
    assert list(dict.fromkeys(stages)) == list(STAGES)
    assert stages.count("correct") == 2
    for number, checkpoint in enumerate(kept):
        save_checkpoint(tmp_path / "cut", checkpoint)
        later = []
        rest = tune(resume=load_checkpoint(tmp_path / "cut"), on_checkpoint=later.append)
        assert rest.profile == whole.profile
        assert rest.checkpoint.files == whole.checkpoint.files
        for name, weight in whole.policy.weights.items():
            np.testing.assert_array_equal(weight, rest.policy.weights[name])
        assert len(later) == max(0, len(kept) - number - 1) or stages[number] == "done"


def without_weights(graph: TaskGraph) -> TaskGraph:
    """What weights leave no room for is never placed at all."""
    return replace(graph, cells=tuple(replace(cell, param_bytes=0) for cell in graph.cells))


def test_plans_that_run_out_of_memory_teach_nothing_and_stop_nothing() -> None:
    """One device is too small for the outputs that random plans pile up there."""
    truth, work = hidden_world(4, 0)
    work = [GraphWorkload(without_weights(each.graph)) for each in work]
    cluster = truth.cluster
    largest = max(int(each.graph.output_bytes.max()) for each in work)
    small = replace(cluster.devices[-1], memory_bytes=2 * largest)
    tight = replace(truth, cluster=replace(cluster, devices=(*cluster.devices[:-1], small)))
    correction, config = Correction(tight), replace(QUICK, rehearsals=32)
    tuned = finetune(SimBackend(tight), work, Policy.untrained(0, 2), correction, config)
    assert len(correction.runs) < config.correcting
    assert tuned.history[-1]["stage"] == 3


def test_a_rehearsal_that_does_not_help_is_thrown_away() -> None:
    """On one device there is nothing to learn, so nothing is better than the start."""
    truth, work = hidden_world(3, 0)
    alone = replace(truth, cells={c: {"cpu:0": row["cpu:0"]} for c, row in truth.cells.items()})
    start = Policy.untrained(2)
    config = FinetuneConfig(episodes=8, correcting=8, rehearsals=256)
    tuned = finetune(SimBackend(alone), work, start, Correction(alone), config)
    for name, weight in start.weights.items():
        np.testing.assert_array_equal(weight, tuned.policy.weights[name])


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(TrainingError, match="give more episodes"):
        FinetuneConfig(episodes=10)
    with pytest.raises(TrainingError, match="rehearsals is -1"):
        FinetuneConfig(rehearsals=-1)
    truth, work = hidden_world(2, 0)
    backend, start = SimBackend(truth), load_checkpoint(SHIPPED)
    with pytest.raises(TrainingError, match="at least one workload"):
        finetune(backend, [], start.policy, Correction(truth), QUICK)
    with pytest.raises(CheckpointError, match="none of a fine-tuning"):
        finetune(backend, work, start.policy, Correction(truth), QUICK, resume=start)
    kept = []
    config = FinetuneConfig(episodes=8, correcting=8, rehearsals=0)
    finetune(backend, work, start.policy, Correction(truth), config, on_checkpoint=kept.append)
    for policy, changed in ((Policy.untrained(), config), (start.policy, replace(config, seed=1))):
        with pytest.raises(CheckpointError, match="began with another profile, policy or other"):
            finetune(backend, work, policy, Correction(truth), changed, resume=kept[0])
