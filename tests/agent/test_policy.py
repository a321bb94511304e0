"""The policy: compiled inference is the readable network, and plans are what the estimate says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    GraphWorkload,
    Link,
    Plan,
    Profile,
    Scheduler,
    Task,
    TaskGraph,
    run,
)
from dynpartition.agent import estimate_kernel as tables_of
from dynpartition.agent import network_kernel as kernel
from dynpartition.agent.conformance import small_worlds
from dynpartition.agent.decoder import GREEDY, ONE_DEVICE, Decoder
from dynpartition.agent.estimate import Estimate
from dynpartition.agent.estimate_kernel import NEVER
from dynpartition.agent.facts import Facts
from dynpartition.agent.families import Ranges, Setting, draw_setting, draw_world
from dynpartition.agent.list_tables import list_graph
from dynpartition.agent.machines import Machine
from dynpartition.agent.network import (
    FEATURES,
    GraphCodes,
    flat,
    net_of,
    unflat,
    untrained_weights,
    weight_shapes,
)
from dynpartition.agent.policy import Policy, PolicyScheduler
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.tables import graph_tables
from dynpartition.errors import DynPartitionError, OutOfDeviceMemory, SchedulerError
from dynpartition.plan import check_plan, chosen_launches, single_task_launches
from dynpartition.sim.backend import SimBackend
from dynpartition.sim.reference import simulate
from dynpartition.sim.world_maker import random_world
from dynpartition.streams import latencies_ns, open_stream
from tests.agent.worlds import graph_of, tree_graph, two_cpus, with_first_uses

N_STYLES = 3
NOTHING = Plan()
HIDDEN = [world for world in small_worlds() if world.graph.revealers]
SIZES = Ranges(
    n_tasks=(2, 40),
    host_modes=("none", "single", "threads"),
    batch_share=0.5,
    scarce_share=0.3,
)


def world_of(seed):
    rng = np.random.default_rng(seed)
    return draw_world(draw_setting(SIZES, rng), rng)


def played(world, weights, styles, seeds, planned=NOTHING):
    """Return a decoder that has played and recorded rollouts, and what they came to."""
    decoder = Decoder(world.profile)
    decoder.begin(world.graph, planned)
    decoder.think(flat(weights), net_of(len(weights["ready_bias"])))
    return decoder, decoder.roll(np.array(styles), np.array(seeds), records=True)


def decisions(decoder, n_rollouts):
    """Yield each recorded decision: rollout, ready tasks, which one, its legal options, which."""
    steps = decoder.records.steps
    for r in range(n_rollouts):
        for step in range(decoder.n_left):
            n_ready, pick, option, legal = steps[r, step, :4].tolist()
            if not n_ready:
                break
            tasks = steps[r, step, 4 : 4 + n_ready].tolist()
            options = [each for each in range(decoder.n_options) if legal >> each & 1]
            yield r, step, tasks, pick, options, options.index(option)


def half_planned(world, seed):
    """Return a plan of the first half of the tasks for every other seed, else of none."""
    if seed % 2:
        return Plan()
    launches = make_scheduler("heft").schedule(world.graph, world.profile, Plan())
    return Plan(tuple(launches[: len(launches) // 2]))


class Codes:
    """The readable network on the tasks that are not placed, by their numbers in the graph."""

    def __init__(self, world, weights, decoder, planned, dtype=np.float32):
        placed = {task for launch in planned.launches for task in launch.tasks}
        left = [task for task in range(len(world.graph)) if task not in placed]
        self.number = {task: place for place, task in enumerate(left)}
        rows = (world.graph.input_lists, world.graph.reader_lists)
        inputs, readers = ([self.places(row[task]) for task in left] for row in rows)
        weights = {name: w.astype(dtype) for name, w in weights.items()}
        self.codes = GraphCodes(weights, decoder.facts[left].astype(dtype), inputs, readers)

    def places(self, tasks):
        return [self.number[task] for task in dict.fromkeys(tasks) if task in self.number]

    def ready_scores(self, tasks, seen, style):
        return self.codes.ready_scores(self.places(tasks), seen, style)

    def option_scores(self, task, seen, style):
        return self.codes.option_scores(self.number[task], seen, style)


def test_names_of_features_are_as_many_as_the_features():
    sizes = (kernel.N_STATIC, kernel.N_READY_FEATURES, kernel.N_OPTION_FEATURES)
    assert tuple(len(names) for names in FEATURES.values()) == sizes
    assert all(len(set(names)) == len(names) for names in FEATURES.values())


def test_weights_lie_in_one_array_and_come_back():
    weights = untrained_weights(1, N_STYLES)
    assert net_of(N_STYLES).size == len(flat(weights))
    back = unflat(flat(weights), N_STYLES)
    for name, shape in weight_shapes(N_STYLES).items():
        assert back[name].shape == shape
        np.testing.assert_array_equal(back[name], weights[name])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_compiled_inference_is_the_readable_network(seed):
    """Greedy choices have the best score of the reference; features are finite and bounded."""
    world, weights = world_of(seed), untrained_weights(seed, N_STYLES)
    planned = half_planned(world, seed)
    decoder, _ = played(world, weights, range(N_STYLES), [GREEDY] * N_STYLES, planned)
    codes, records = Codes(world, weights, decoder, planned), decoder.records
    for r, step, tasks, pick, legal, which in decisions(decoder, N_STYLES):
        seen = records.ready[r, step, : len(tasks)]
        if len(tasks) > 1:
            scores = codes.ready_scores(tasks, seen, style=r)
            assert scores[pick] >= scores.max() - 1e-4
            assert np.abs(seen).max() <= 8
        options = records.option[r, step][legal]
        scores = codes.option_scores(tasks[pick], options, style=r)
        assert scores[which] >= scores.max() - 1e-4
        assert np.abs(options).max() <= 8
    assert np.isfinite(decoder.facts).all()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_compiled_gradient_is_that_of_the_readable_network(seed):
    """Central differences of Σ weight · log probability + entropy, in double precision."""
    world, weights = world_of(seed), untrained_weights(seed, N_STYLES)
    styles, seeds, planned = np.array([0, 1, 2, 1]), [4, 5, 6, 7], half_planned(world, seed)
    decoder, _ = played(world, weights, styles, seeds, planned)
    rng = np.random.default_rng(seed)
    shares, entropy = rng.standard_normal(len(styles)), 0.1
    values = flat(weights)
    gradient = np.zeros_like(values)
    decoder.learn(gradient, styles, shares, entropy, np.zeros(4))

    def objective(changed):
        codes = Codes(world, unflat(changed, N_STYLES), decoder, planned, np.float64)
        records, total = decoder.records, 0.0
        for r, step, tasks, pick, legal, which in decisions(decoder, len(styles)):
            options = records.option[r, step][legal]
            scored = [(codes.option_scores(tasks[pick], options, styles[r]), which)]
            if len(tasks) > 1:
                seen = records.ready[r, step, : len(tasks)]
                scored.append((codes.ready_scores(tasks, seen, styles[r]), pick))
            for scores, chosen in scored:
                log = scores - scores.max()
                log -= np.log(np.exp(log).sum())
                total += shares[r] * log[chosen] - entropy * (np.exp(log) * log).sum()
        return total

    step = 1e-5
    for at in rng.choice(len(values), 12, replace=False):
        ends = []
        for sign in (1, -1):
            changed = values.astype(np.float64)
            changed[at] += sign * step
            ends.append(objective(changed))
        slope = (ends[0] - ends[1]) / (2 * step)
        scale = max(1.0, float(np.abs(gradient).max()))
        assert gradient[at] == pytest.approx(slope, abs=2e-3 * scale)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_the_quick_beginning_is_that_of_the_readable_tables(seed):
    """Worlds with everything that profiles and graphs can have."""
    world = random_world(seed, tasks_max=14)
    profile = with_first_uses(world.profile, seed)
    try:
        facts = Facts(world.graph, profile)
    except DynPartitionError:
        return
    lists = list_graph(world.graph, profile)
    if lists is None:
        return
    tables, tasks = graph_tables(facts), lists.view("tasks")  # the other slot gets its own later
    for slot in range(2):
        rows, pairs = lists.view("rows", slot), lists.view("pairs", slot)
        for column in (tables_of.INPUTS, tables_of.READERS, tables_of.GATES):
            for found, expected in zip(tasks, tables.tasks, strict=True):
                row = rows[found[column] : found[column + 1]]
                assert (row == tables.rows[expected[column] : expected[column + 1]]).all()
        for column in (
            tables_of.HAS_HOST_INPUT, tables_of.RETURNS, tables_of.BEST_NS, tables_of.RELEASE_NS,
            tables_of.MISSING, tables_of.HOME, tables_of.CELL,
        ):  # fmt: skip
            assert (tasks[:, column] == tables.tasks[:, column]).all()
        fed = world.graph.host_bytes > 0
        for row in {*range(tables_of.N_PAIR_ROWS)} - {tables_of.DURATION_NS}:
            which = fed if row == tables_of.HOST_COPY_NS else slice(None)
            assert (pairs[which, row] == tables.pairs[which, row]).all()
        assert (lists.view("moves", slot) == tables.moves).all()
        n_cells = len(tables.first_ns)
        assert (lists.view("first_ns", slot)[:n_cells] == tables.first_ns).all()
        assert (lists.view("refuges", slot) == tables.refuges).all()
    assert lists.order.tolist() == list(world.graph.topological_order)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_ends_are_those_of_the_readable_estimate(seed):
    world = random_world(seed, tasks_max=14, without=("reveals", "arrivals"))
    world = replace(world, profile=with_first_uses(world.profile, seed))
    try:
        Facts(world.graph, world.profile)
        _, rolled = played(world, untrained_weights(seed, N_STYLES), [0, 1, 2, 2], [-1, -1, -1, 9])
    except DynPartitionError:
        return
    assert_ends_as_estimated(world, rolled)


def assert_ends_as_estimated(world, rolled):
    facts, names = Facts(world.graph, world.profile), world.profile.cluster.names
    for choices, end_ns in zip(rolled.choices, rolled.ends_ns.tolist(), strict=True):
        if end_ns < 0:
            continue  # no legal device was left
        estimate = Estimate(facts.prices.priced, facts.prices)
        for launch in chosen_launches(choices, names):
            estimate.commit_launch(launch.tasks, names.index(launch.device))
        assert estimate.makespan_ns == end_ns


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_batches_are_legal_plans_that_end_as_estimated(seed):
    """Where batches pay: every kind of option occurs, and legal plans come of it."""
    rng = np.random.default_rng(seed)
    world = draw_world(draw_setting(replace(SIZES, batch_share=1.0), rng), rng)
    styles = [ONE_DEVICE, *range(N_STYLES)]
    _, rolled = played(world, untrained_weights(seed, N_STYLES), styles, [GREEDY, 7, 8, 9])
    names = world.profile.cluster.names
    for choices in rolled.choices:
        plan = Plan(tuple(chosen_launches(choices, names)))
        check_plan(world.graph, world.profile.cluster, plan)
    assert_ends_as_estimated(world, rolled)


def test_graphs_take_turns_without_a_trace():
    """One decoder, graphs with batches and little memory and others: as with its own."""
    rng = np.random.default_rng(5)
    machine = Machine(batch_gain=0.8, memory_share=0.3)
    wide = draw_world(Setting(family="moe", n_tasks=30, machine=machine), rng)
    plain = Profile(
        wide.profile.cluster,
        {**wide.profile.cells, **two_cells(wide.profile.cluster.names)},
        wide.profile.dispatch,
    )
    graphs = [wide.graph, tree_of_cells("alone", 9), wide.graph]
    weights = untrained_weights(3, N_STYLES)
    decoder, seen = Decoder(plain), []
    for fresh in (False, True):
        for graph in graphs:
            decoder = Decoder(plain) if fresh else decoder
            decoder.begin(graph)
            decoder.think(flat(weights), net_of(N_STYLES))
            rolled = decoder.roll(np.arange(N_STYLES), np.arange(N_STYLES), records=True)
            options = decoder.records.option[:N_STYLES, :1, : decoder.n_options].copy()
            seen.append((decoder.is_wide, rolled.choices, decoder.facts.copy(), options))
    assert [each[0] for each in seen] == [True, False, True] * 2
    for once, again in zip(seen[:3], seen[3:], strict=True):
        for mine, own in zip(once[1:3], again[1:3], strict=True):
            np.testing.assert_array_equal(mine, own)
    assert not seen[1][3][..., kernel.N_OPTION_PLAIN :].any()
    assert not seen[1][2][..., kernel.N_STATIC_PLAIN :].any()


def two_cells(names):
    return {"alone": {name: Curve((1,), (1_000 + 10 * n,)) for n, name in enumerate(names)}}


def tree_of_cells(cell, n_tasks):
    tasks = [
        Task(id=n, cell=cell, inputs=(n - 1,) if n else (), output_bytes=9) for n in range(n_tasks)
    ]
    return TaskGraph.from_tasks("one cell", [Cell(cell)], tasks)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_with_host_inputs_first_one_device_ends_as_simulated(seed):
    """Where nothing else travels, the end is the simulator's."""
    rng = np.random.default_rng(seed)
    ranges = Ranges(n_tasks=(2, 30), host_data_share=1.0, wirings=("links",))
    world = draw_world(draw_setting(ranges, rng), rng)
    decoder, rolled = played(world, untrained_weights(0, N_STYLES), [-1, -2], [GREEDY, GREEDY])
    names = world.profile.cluster.names
    for choices in rolled.choices:
        plan = Plan(tuple(chosen_launches(choices, names)))
        trace = simulate(world.graph, world.profile, plan)
        assert decoder.fed_first_ns(choices) == trace.makespan_ns


def test_equal_seeds_give_equal_plans_and_others_do_not():
    world = world_of(3)
    _, rolled = played(world, untrained_weights(0, 1), [0, 0, 0], [5, 5, 6])
    np.testing.assert_array_equal(rolled.choices[0], rolled.choices[1])
    assert (rolled.choices[0] != rolled.choices[2]).any()


def test_giving_up_early_changes_nothing_that_counts():
    for seed in range(20):
        world, weights = world_of(seed), untrained_weights(seed, N_STYLES)
        styles = np.array([ONE_DEVICE, *range(N_STYLES)])
        decoder, full = played(world, weights, styles, [GREEDY] * len(styles))
        pruned = decoder.roll(styles, np.full(len(styles), GREEDY), prunes=True)
        best = int(full.ends_ns.argmin())
        assert pruned.ends_ns.min() == full.ends_ns[best]
        np.testing.assert_array_equal(pruned.choices[pruned.ends_ns.argmin()], full.choices[best])
        one_device = {device for _, device, _ in full.choices[0].tolist()}
        assert len(one_device) == 1


def test_numbers_of_tasks_and_devices_are_no_features():
    """Devices in another order: the same plan on the same devices, ties aside."""
    world, weights = world_of(11), untrained_weights(2, 1)
    cluster = world.profile.cluster
    turned = Profile(
        type(cluster)(cluster.devices[::-1], cluster.links, cluster.host),
        world.profile.cells,
        world.profile.dispatch,
    )
    facts = []
    for profile in (world.profile, turned):
        decoder, _ = played(type(world)(world.graph, profile), weights, [0], [GREEDY])
        facts.append(decoder.facts.copy())
    np.testing.assert_allclose(facts[0], facts[1], rtol=1e-5)


def test_goes_on_from_what_is_planned():
    graph, profile, scheduler = tree_graph(5, 1), two_cpus(), PolicyScheduler(Policy.untrained(4))
    launches = scheduler.schedule(graph, profile, Plan())
    begun = Plan(tuple(launches[:4]))
    rest = scheduler.schedule(graph, profile, begun)
    assert sorted(t for one in [*begun.launches, *rest] for t in one.tasks) == list(
        range(len(graph))
    )


@pytest.mark.parametrize("seed", range(12))
def test_requests_that_are_answered_change_nothing_for_the_next(seed):
    """A request that comes when all devices are idle again is placed as if it were the first."""
    rng = np.random.default_rng([seed, 5])
    setting = draw_setting(replace(SIZES, scarce_share=0.0, host_modes=("none",)), rng)
    world = draw_world(setting, rng)
    backend, scheduler = SimBackend(world.profile), make_scheduler("policy")
    alone = run(backend, GraphWorkload(world.graph), scheduler).trace
    rest_ns = 3 * alone.makespan_ns + 10**9
    stream = open_stream([world.graph] * 4, [rest_ns * number for number in range(4)])
    trace = run(backend, stream, scheduler).trace
    placed = [[(r.tasks, r.device) for r in each.launches] for each in (alone, trace)]
    assert [device for _, device in placed[1]] == 4 * [device for _, device in placed[0]]
    ends_ns = latencies_ns(stream.graph, trace, world.profile.cluster.host)
    assert len(set(ends_ns.values())) == 1


def test_too_many_devices_are_refused_in_one_line():
    names = [f"cpu:{n}" for n in range(61)]
    devices = tuple(Device(name, "cpu") for name in names)
    profile = Profile(Cluster(devices), {"leaf": {name: Curve((1,), (5,)) for name in names}})
    with pytest.raises(SchedulerError, match="at most 60 devices"):
        PolicyScheduler(Policy.untrained()).schedule(graph_of([()]), profile, Plan())


def test_launches_are_the_choices_in_order():
    launches = single_task_launches(np.array([[1, 0], [0, 1]]), ("a", "b"))
    assert [(one.device, one.tasks) for one in launches] == [("a", (1,)), ("b", (0,))]


def test_searching_around_it_is_never_slower_than_what_it_begins_with():
    for seed in (0, 1, 2):
        world = world_of(seed)
        backend, workload = SimBackend(world.profile), GraphWorkload(world.graph)
        spans = {
            name: run(backend, workload, make_scheduler(name, evaluations=60)).trace.makespan_ns
            for name in ("policy", "heft", "lookahead", "policy-search")
        }
        assert spans["policy-search"] == min(spans.values())


def test_where_weights_do_not_fit_the_simulator_chooses():
    """A plan that seems fast and loads all the time is not taken for one that is."""
    machine, n_chosen = Machine(wiring="bus", ratio=1.0, memory_share=0.3), 0
    for seed in range(12):
        setting = Setting(family="tree-with-outputs", n_tasks=48, machine=machine)
        world = draw_world(setting, np.random.default_rng(seed))
        decoder, policy = Decoder(world.profile), Policy.untrained(seed)
        decoder.begin(world.graph)
        decoder.think(policy.flat, policy.net)
        rolled = decoder.roll(*policy.tries(decoder.n_left, decoder.n_devices))
        best = decoder.best_of(rolled)
        ends_ns = rolled.ends_ns
        order = [at for at in np.argsort(ends_ns, kind="stable") if 0 <= ends_ns[at] < NEVER][:4]
        names = world.profile.cluster.names
        times_ns = []
        for at in order:
            plan = Plan(tuple(chosen_launches(rolled.choices[at], names)))
            try:
                times_ns.append(simulate(world.graph, world.profile, plan).makespan_ns)
            except OutOfDeviceMemory:
                times_ns.append(NEVER)
        assert times_ns[order.index(best)] == min(times_ns)
        n_chosen += best != order[0]
    assert n_chosen > 0


@pytest.mark.parametrize("world", HIDDEN, ids=lambda world: world.name)
def test_with_no_time_at_a_reveal_the_search_plays_the_policy(world):
    """A member's plan costs more than such a decision may."""
    policy, search = make_scheduler("policy"), make_scheduler("policy-search", budget_us=1)
    asked = []

    class Both(Scheduler):
        name = "both"

        def schedule(self, graph, profile, planned):
            launches = list(policy.schedule(graph, profile, planned))
            if planned:
                asked.append(list(search.schedule(graph, profile, planned)) == launches)
            return launches

    run(SimBackend(world.profile), GraphWorkload(world.graph), Both())
    assert asked and all(asked)


def test_everything_on_one_device_is_tried_on_each():
    """The slower device is the host, and what the graph needs from there takes longest to move."""
    names = ("cpu:0", "cuda:0")
    devices = tuple(Device(name, name[:-2]) for name in names)
    links = [Link(a, b, AffineCost(1_000, 10**9)) for a in names for b in names if a != b]
    curves = {"leaf": {"cpu:0": Curve((1,), (1_000,)), "cuda:0": Curve((1,), (600,))}}
    profile = Profile(Cluster(devices, tuple(links)), curves)
    tasks = [Task(id=n, cell="leaf", host_bytes=5_000, output_bytes=9) for n in range(6)]
    graph = TaskGraph.from_tasks("fed", [Cell("leaf")], tasks)
    decoder, policy = Decoder(profile), Policy.untrained()
    decoder.begin(graph)
    decoder.think(policy.flat, policy.net)
    rolled = decoder.roll(np.array([-1, -2, -3]), np.full(3, GREEDY))
    assert set(rolled.choices[0, :, 1].tolist()) == {1}
    assert set(rolled.choices[1, :, 1].tolist()) == {0}
    assert rolled.ends_ns.tolist() == [6 * 6_000 + 600, 6_000, -1]
    span = run(SimBackend(profile), GraphWorkload(graph), PolicyScheduler(policy)).trace.makespan_ns
    assert span <= 6_000
