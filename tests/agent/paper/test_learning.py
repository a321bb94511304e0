"""The paper's agents learn: on a tiny world, from a fixed seed, the same every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from dynpartition import Curve, GraphWorkload, Profile
from dynpartition.agent.conformance import check_scheduler
from dynpartition.agent.heuristics import Random
from dynpartition.agent.paper.agent import PaperAgent, PaperScheduler
from dynpartition.agent.paper.cases import make_case, stacked
from dynpartition.agent.paper.checkpoint import (
    load_agent,
    load_paper_checkpoint,
    save_paper_checkpoint,
)
from dynpartition.agent.paper.config import DEFECTS, KINDS, PaperConfig
from dynpartition.agent.paper.learner import (
    DqnLearner,
    Episodes,
    PolicyValueLearner,
    PublishedPolicyValueLearner,
    epsilon_greedy,
    greedy,
    make_learner,
)
from dynpartition.agent.paper.network import PaperNetwork, masked_scores
from dynpartition.agent.paper.replay import Replay
from dynpartition.agent.paper.train import Arena, train_paper_agent
from dynpartition.agent.registry import make_scheduler, trained_name
from dynpartition.contract import run
from dynpartition.errors import CheckpointError, SchedulerError, TrainingError
from dynpartition.models import build_model, generate_inputs
from dynpartition.sim import SimBackend
from tests.agent.worlds import CELLS, tree_graph, trees, two_cpus

SMALL = PaperConfig(max_nodes=16, seconds=None, episodes=320, validate_every=5)
TREES = trees(12, 0)


def one_better() -> Profile:
    """Two CPUs of which cpu:1 is the faster one, and the way between them is long."""
    profile = two_cpus(latency_ns=50_000)
    cells = {
        cell.name: {"cpu:0": Curve((1,), (40_000,)), "cpu:1": Curve((1,), (20_000,))}
        for cell in CELLS
    }
    return replace(profile, cells=cells)


def mean_ratio(backend, scheduler, workloads) -> float:
    best = make_scheduler("best-single")
    times = [
        [run(backend, w, each).trace.makespan_ns for w in workloads] for each in (scheduler, best)
    ]
    return float(np.exp(np.log(np.array(times[0]) / np.array(times[1])).mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_to_beat_the_better_device(kind):
    backend, held_out = SimBackend(one_better()), trees(20, 500)
    config = replace(SMALL, kind=kind, episodes=32 * 400, learning_rate=3e-3, validate_every=50)
    result = train_paper_agent(backend, TREES, config, validation=trees(8, 300))
    learned = mean_ratio(backend, PaperScheduler(result.agent), held_out)
    untrained = PaperAgent.untrained(config, backend.profile.cluster.names)
    assert learned < 1.0
    assert learned < mean_ratio(backend, Random(0), held_out) - 0.1
    assert learned < mean_ratio(backend, PaperScheduler(untrained), held_out) - 0.1
    assert result.best_validation > 0
    rewards = [metrics["reward"] for metrics in result.history]
    assert np.mean(rewards[-20:]) > np.mean(rewards[:20]) + 0.05  # though it still explores


@pytest.mark.parametrize("kind", KINDS)
def test_with_all_published_defects_it_still_trains_one_episode_at_a_time(kind):
    config = replace(SMALL, kind=kind, episodes=40, defects=tuple(DEFECTS))
    result = train_paper_agent(SimBackend(one_better()), TREES, config)
    assert [metrics["episodes"] for metrics in result.history] == list(range(1, 41))
    assert all(np.isfinite(metrics["loss"]) for metrics in result.history)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_agent(kind):
    config = replace(SMALL, kind=kind)
    first, second, other = (
        train_paper_agent(SimBackend(two_cpus()), TREES, each).agent
        for each in (config, config, replace(config, seed=1))
    )
    for name, weight in first.weights.items():
        assert_array_equal(weight, second.weights[name])
    assert any((first.weights[name] != other.weights[name]).any() for name in first.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_a_checkpoint_changes_nothing(kind, tmp_path):
    backend, config = SimBackend(two_cpus()), replace(SMALL, kind=kind, replay=300)
    whole = train_paper_agent(backend, TREES, replace(config, episodes=32 * 20))
    half = train_paper_agent(backend, TREES, replace(config, episodes=32 * 10))
    save_paper_checkpoint(tmp_path / "half", half.checkpoint)
    start = load_paper_checkpoint(tmp_path / "half")
    rest = train_paper_agent(backend, TREES, replace(config, episodes=32 * 10), start=start)
    assert rest.best_validation == whole.best_validation
    assert rest.checkpoint.training["updates"] == 20
    assert rest.checkpoint.state.keys() == whole.checkpoint.state.keys()
    for name, array in whole.checkpoint.state.items():
        assert_array_equal(rest.checkpoint.state[name], array)
    for name, weight in whole.agent.weights.items():
        assert_array_equal(rest.agent.weights[name], weight)


def test_going_on_with_other_inputs_or_another_learner_is_refused():
    backend = SimBackend(two_cpus())
    start = train_paper_agent(backend, TREES, replace(SMALL, episodes=32)).checkpoint
    with pytest.raises(TrainingError, match="other inputs"):
        train_paper_agent(backend, trees(12, 50), SMALL, start=start)
    with pytest.raises(TrainingError, match="other learner"):
        train_paper_agent(backend, TREES, replace(SMALL, epsilon=0.5), start=start)


def test_no_training_without_a_limit_or_with_unknown_words():
    with pytest.raises(TrainingError, match="no limit"):
        PaperConfig(seconds=None)
    with pytest.raises(TrainingError, match="no agent is named 'dnq'; did you mean 'dqn'"):
        PaperConfig(kind="dnq")
    with pytest.raises(TrainingError, match="no defect is named 'nomask'"):
        PaperConfig(defects=("nomask",))
    with pytest.raises(TrainingError, match="hidden is 0"):
        PaperConfig(hidden=0)
    with pytest.raises(TrainingError, match="epsilon is 2"):
        PaperConfig(epsilon=2)


def test_inputs_that_reveal_tasks_are_refused():
    model = build_model("moe", {"width": 8, "heads": 2})
    profile = replace(two_cpus(), cells={
        cell: {"cpu:0": Curve((1,), (1000,)), "cpu:1": Curve((1,), (1000,))} for cell in model.cells
    })  # fmt: skip
    with pytest.raises(TrainingError, match="decide once"):
        train_paper_agent(SimBackend(profile), generate_inputs(model, 2, 0), SMALL)


# --- what is masked -------------------------------------------------------------------------------


def stack_and_network(kind="dqn", defects=()):
    config = replace(SMALL, kind=kind, defects=defects)
    cases = [make_case(w.graph, two_cpus(), 16) for w in TREES[:3]]
    return stacked(cases, masked="no-mask" not in defects), PaperNetwork(config, 2), config


def test_places_beyond_the_tree_count_only_where_the_defect_is_kept():
    for defects in ((), ("no-mask",)):
        for kind in KINDS:
            stack, network, config = stack_and_network(kind, defects)
            learner = make_learner(network, config)
            size = len(TREES[0].graph) // 2
            actions = np.zeros((3, 16), dtype=np.int64)
            beyond = actions.copy()
            beyond[0, size:] = 1
            rewards = np.array([-3.0, -4.0, -5.0], dtype=np.float32)
            losses = [learner.loss(Episodes(stack, a, rewards)).item() for a in (actions, beyond)]
            assert (losses[0] == losses[1]) == (not defects)


def test_devices_that_cannot_run_a_node_are_never_chosen():
    profile = two_cpus()
    cells = {**profile.cells, "composer": {"cpu:1": profile.cells["composer"]["cpu:1"]}}
    profile = replace(profile, cells=cells)
    case = make_case(tree_graph(5, 0), profile, 16)
    inner = np.flatnonzero(~case.tree.is_leaf)
    assert not case.allowed[inner, 0].any() and case.allowed[inner, 1].all()
    leaves = np.flatnonzero(case.tree.is_leaf)
    assert case.allowed[leaves].all() and case.allowed[len(case.tree) :].all()
    stack, rng = stacked([case] * 50), np.random.default_rng(0)
    network = PaperNetwork(replace(SMALL, kind="policy-value"), 2)
    tried = [epsilon_greedy(network, stack, 1.0, rng), greedy(network, stack)]
    tried.append(
        PolicyValueLearner(network, replace(SMALL, kind="policy-value")).explore(stack, rng)
    )
    for actions in tried:
        assert (actions[:, inner] == 1).all()
    assert 0.3 < tried[0][:, leaves].mean() < 0.7
    assert torch.isinf(masked_scores(network, stack)[:, inner, 0]).all()


def test_a_choice_that_cannot_be_is_learned_as_what_was_done_instead():
    """Without a link back from cpu:1 the answers could not return from there."""
    profile = two_cpus()
    links = tuple(link for link in profile.cluster.links if link.src == "cpu:0")
    profile = replace(profile, cluster=replace(profile.cluster, links=links))
    arena = Arena(SimBackend(profile), [GraphWorkload(tree_graph(4, 1))], SMALL)
    wanted = np.ones((1, 16), dtype=np.int64)
    taken, times_ns = arena.play([0], wanted)
    n_nodes = len(arena.cases[0].tree)
    assert not taken[0, :n_nodes].any() and taken[0, n_nodes:].all()
    assert times_ns[0] == arena.best_ns[0]


# --- losses and memory ----------------------------------------------------------------------------


def test_the_dqn_loss_by_hand():
    stack, network, config = stack_and_network()
    learner = DqnLearner(network, config)
    rng = np.random.default_rng(0)
    actions = rng.integers(2, size=(3, 16))
    rewards = np.array([-3.0, -4.0, -5.0], dtype=np.float32)
    scores = network(torch.from_numpy(stack.code)).detach().numpy()
    values = [
        sum(scores[b, n, actions[b, n]] for n in range(16) if stack.is_node[b, n]) for b in range(3)
    ]
    expected = np.mean([(v - r) ** 2 for v, r in zip(values, rewards, strict=True)])
    assert learner.loss(Episodes(stack, actions, rewards)).item() == pytest.approx(expected, 1e-5)


def test_a_batch_learns_what_its_episodes_learn_one_by_one():
    rewards = np.array([-3.0, -4.0, -5.0], dtype=np.float32)
    actions = np.random.default_rng(1).integers(2, size=(3, 16))
    after = []
    for defects in ((), ("unbatched",)):
        stack, network, config = stack_and_network(defects=defects)
        make_learner(network, config).learn(Episodes(stack, actions, rewards))
        after.append({name: p.detach().numpy() for name, p in network.named_parameters()})
    for name, weight in after[0].items():
        np.testing.assert_allclose(weight, after[1][name], rtol=1e-3, atol=1e-6)


def test_policy_value_raises_the_probability_of_what_earned_more():
    stack, network, config = stack_and_network("policy-value")
    learner = make_learner(network, replace(config, learning_rate=1e-2, entropy=0))
    assert isinstance(learner, PolicyValueLearner)
    actions = np.zeros((3, 16), dtype=np.int64)
    actions[1:] = 1
    rewards = np.array([0.0, -1.0, -1.0], dtype=np.float32)

    def share_of_zero():
        scores = masked_scores(network, stack)
        return scores.softmax(dim=2)[0, : int(stack.is_node[0].sum()), 0].mean().item()

    before = share_of_zero()
    for _ in range(20):
        learner.learn(Episodes(stack, actions, rewards))
    assert share_of_zero() > before + 0.1


def test_the_published_policy_loss_is_kept_behind_its_name():
    stack, network, config = stack_and_network("policy-value", ("unnormalised-log",))
    learner = make_learner(network, config)
    assert isinstance(learner, PublishedPolicyValueLearner) and learner.learns_from_replay
    loss = learner.learn(Episodes(stack, np.zeros((3, 16), dtype=np.int64), np.ones(3, "float32")))
    assert np.isfinite(loss)


def test_the_memory_forgets_the_oldest_and_samples_what_it_holds():
    memory = Replay(4, 2)
    for first in (0, 3):
        numbers = [first, first + 1, first + 2]
        rows = np.array([[n % 2, 1] for n in numbers])
        memory.add(numbers, rows, -np.array(numbers, dtype=np.float32))
    assert len(memory) == 4 and memory.n_seen == 6
    drawn, actions, rewards = memory.sample(200, np.random.default_rng(0))
    assert set(drawn) == {2, 3, 4, 5}
    assert_array_equal(rewards, -np.array(drawn))
    assert_array_equal(actions[:, 0], np.array(drawn) % 2)
    copy = Replay(4, 2)
    copy.restore(memory.arrays())
    memory.add([9], np.zeros((1, 2), dtype=np.int64), np.zeros(1, dtype=np.float32))
    copy.add([9], np.zeros((1, 2), dtype=np.int64), np.zeros(1, dtype=np.float32))
    assert_array_equal(memory.case, copy.case)


# --- as schedulers --------------------------------------------------------------------------------


class AnyDevices(PaperScheduler):
    """The scheduler of an untrained agent for whatever devices there are."""

    def schedule(self, graph, profile, planned):
        config = replace(self.agent.config, seed=3)
        agent = PaperAgent.untrained(config, profile.cluster.names)
        return PaperScheduler(agent).schedule(graph, profile, planned)


@pytest.mark.parametrize("kind", KINDS)
def test_conformance(kind):
    agent = PaperAgent.untrained(replace(SMALL, kind=kind, max_nodes=128), ("any",))
    assert check_scheduler(AnyDevices(agent)) >= 18


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_played_by_its_name(kind, tmp_path):
    backend = SimBackend(one_better())
    result = train_paper_agent(backend, TREES, replace(SMALL, kind=kind))
    save_paper_checkpoint(tmp_path / "a", result.checkpoint)
    assert trained_name(tmp_path / "a") == kind
    scheduler = make_scheduler(kind, policy=tmp_path / "a")
    direct = PaperScheduler(result.agent)
    for workload in TREES:
        plans = [run(backend, workload, each).plan for each in (scheduler, direct)]
        assert plans[0] == plans[1]


def test_a_state_and_its_output_share_a_device():
    agent = PaperAgent.untrained(SMALL, ("cpu:0", "cpu:1"))
    graph = tree_graph(6, 2)
    launches = PaperScheduler(agent).schedule(graph, two_cpus(), run_plan())
    device = {task: launch.device for launch in launches for task in launch.tasks}
    states = len(graph) // 2
    assert all(device[state] == device[states + state] for state in range(states))


def run_plan():
    from dynpartition import Plan

    return Plan()


def test_other_devices_are_refused_by_name():
    agent = PaperAgent.untrained(SMALL, ("cpu:0", "cuda:0"))
    with pytest.raises(SchedulerError, match="was trained for cpu:0, cuda:0, and the profile has"):
        PaperScheduler(agent).schedule(tree_graph(3, 0), two_cpus(), run_plan())


def test_damaged_and_wrong_checkpoints_are_refused(tmp_path):
    result = train_paper_agent(SimBackend(two_cpus()), TREES, replace(SMALL, episodes=32))
    folder = tmp_path / "a"
    save_paper_checkpoint(folder, result.checkpoint)
    with pytest.raises(CheckpointError, match="holds a dqn agent"):
        load_agent(folder, "policy-value")
    with pytest.raises(CheckpointError, match="is no dynpartition-checkpoint but a dynpartition-p"):
        make_scheduler("policy", policy=folder)
    with pytest.raises(SchedulerError, match="'dqn' needs a checkpoint"):
        make_scheduler("dqn")
    with pytest.raises(CheckpointError, match="No such file"):
        make_scheduler("dqn", policy=tmp_path / "nothing")
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"max_nodes": 16', '"max_nodes": 32'))
    with pytest.raises(CheckpointError, match="its manifest promises"):
        load_agent(folder, "dqn")
    manifest.write_text(text.replace('"hidden": 16', '"hidden": "many"'))
    with pytest.raises(CheckpointError, match="is damaged"):
        load_agent(folder, "dqn")
    manifest.write_text(text)
    (folder / "agent.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="sha256"):
        load_agent(folder, "dqn")
