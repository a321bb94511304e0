"""Streams of requests: when they arrive, how long they take, and that they overlap."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    Link,
    Profile,
    Task,
    TaskGraph,
)
from dynpartition.conditions import Conditions, Loss
from dynpartition.errors import FileFormatError, GraphError, InputError
from dynpartition.sim.worlds import random_world
from dynpartition.streams import (
    RequestStream,
    closed_loop,
    join_requests,
    latencies_ns,
    open_stream,
    poisson_arrivals,
    read_arrivals,
    request_ends_ns,
)
from dynpartition.trace import LaunchSpan, Trace, TransferSpan
from dynpartition.validator import overlap_ns
from tests.sim.players import Dice, Places, Script, play

COST = AffineCost(5, 10**9)
NAMES = ("cpu:0", "cuda:0")
MACHINE = Profile(
    Cluster(
        (Device("cpu:0", "cpu"), Device("cuda:0", "cuda")),
        tuple(Link(a, b, COST) for a in NAMES for b in NAMES if a != b),
    ),
    {"cell": {"cpu:0": Curve((1,), (30,)), "cuda:0": Curve((1,), (10,))}},
)


def request(*tasks: Task) -> TaskGraph:
    return TaskGraph.from_tasks("request", [Cell("cell")], tasks)


def task(number: int, *inputs: int, **fields: int) -> Task:
    return Task(id=number, cell="cell", inputs=inputs, output_bytes=20, **fields)


ONE = request(task(0))
ANSWER = request(task(0, returns=True))
CHAIN = request(task(0), task(1, 0))


def on_gpu(*tasks: int) -> Places:
    return [("cuda:0", (number,)) for number in tasks]


# Arrivals


def test_poisson_gaps_are_exponential() -> None:
    """Mean and standard deviation of a gap are both 1 / rate, here 0.5 ms; within 4 errors."""
    times = poisson_arrivals(20_000, rate_per_s=2000, seed=7)
    assert times == sorted(times)
    gaps = [b - a for a, b in zip([0, *times], times, strict=False)]
    assert fmean(gaps) == pytest.approx(500_000, rel=4 / 20_000**0.5)
    assert fmean(gap > 500_000 for gap in gaps) == pytest.approx(0.3679, abs=0.014)


def test_poisson_arrivals_depend_on_the_seed_alone() -> None:
    times = poisson_arrivals(50, rate_per_s=10, seed=3)
    assert poisson_arrivals(50, rate_per_s=10, seed=3) == times
    assert poisson_arrivals(50, rate_per_s=10, seed=4) != times
    assert poisson_arrivals(20, rate_per_s=10, seed=3) == times[:20]
    assert poisson_arrivals(0, rate_per_s=10, seed=3) == []


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_is_a_positive_number(rate: float) -> None:
    with pytest.raises(InputError, match="rate_per_s is"):
        poisson_arrivals(1, rate_per_s=rate, seed=0)


def test_a_rate_too_small_for_the_clock() -> None:
    with pytest.raises(InputError, match="raise the rate"):
        poisson_arrivals(5, rate_per_s=1e-7, seed=0)


def test_a_file_of_arrivals(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.txt"
    path.write_text(
        "# two of them\n\n  100  # the first\n5\n1000000000000000\n#\n", encoding="utf-8"
    )
    assert read_arrivals(path) == [100, 5, 10**15]


@pytest.mark.parametrize(
    "line", ["-1", "1.5", "1e3", "ten", "1 2", "1_000", "٣", "1000000000000001", "9" * 60, "0x10"]
)
def test_a_bad_line_is_named_with_its_value(tmp_path: Path, line: str) -> None:
    path = tmp_path / "arrivals.txt"
    path.write_text(f"# times\n7\n{line}\n8\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 3: .* is no time; give whole ns") as caught:
        read_arrivals(path)
    assert repr(line[:40]) in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises((FileFormatError, OSError)):
        read_arrivals(tmp_path / "nothing.txt")


def test_streams_that_cannot_be() -> None:
    with pytest.raises(InputError, match="at least one request"):
        open_stream([], [])
    with pytest.raises(InputError, match="2 graphs but 1 arrival times"):
        open_stream([ONE, ONE], [0])
    with pytest.raises(InputError, match="at least one client"):
        closed_loop([ONE], clients=0)
    with pytest.raises(InputError, match="not 1 and -5"):
        closed_loop([ONE], clients=1, think_ns=-5)
    other = TaskGraph.from_tasks("other", [Cell("cell", 8)], [task(0)])
    with pytest.raises(GraphError, match="requests share one model"):
        open_stream([ONE, other], [0, 0])


def test_requests_are_joined_one_after_the_other() -> None:
    graph = join_requests(
        [request(task(4), task(9, 4, revealed_by=4)), request(task(0, arrival_ns=3))], [10, 20]
    )
    assert graph.request.tolist() == [0, 0, 1]
    assert graph.arrival_ns.tolist() == [10, 10, 23]
    assert graph.input_lists == ((), (0,), ())
    assert graph.revealed_by.tolist() == [-1, 0, -1]


# Runs


def test_two_requests_in_flight_overlap() -> None:
    """Request 1 starts on the GPU when request 0 has gone on to the CPU.

    cuda:0  |0: 0 10|  |2: 12 22|
    ->cpu:0         |0: 10    35|2: 35 60|
    cpu:0                       |1: 35    65|3: 65 95|
    """
    stream = open_stream([CHAIN, CHAIN], [0, 12])
    places = [("cuda:0", (0,)), ("cpu:0", (1,))], [("cuda:0", (2,)), ("cpu:0", (3,))]
    _, outcome = play(stream, MACHINE, Script(*places))
    assert outcome.trace == Trace(
        makespan_ns=95,
        launches=(
            LaunchSpan("cuda:0", (0,), 0, 10),
            LaunchSpan("cpu:0", (1,), 35, 65),
            LaunchSpan("cuda:0", (2,), 12, 22),
            LaunchSpan("cpu:0", (3,), 65, 95),
        ),
        transfers=(
            TransferSpan("cuda:0", "cpu:0", (0,), 20, 10, 35),
            TransferSpan("cuda:0", "cpu:0", (2,), 20, 35, 60),
        ),
    )
    assert latencies_ns(outcome.graph, outcome.trace, "cpu:0") == {0: 65, 1: 83}


def test_pipelining_beats_one_request_after_the_other() -> None:
    """A pipeline of two stages ends a request every 30 ns, the longer stage."""
    stream = open_stream([CHAIN] * 6, [0] * 6)
    places = [(("cuda:0", (2 * r,)), ("cpu:0", (2 * r + 1,))) for r in range(6)]
    _, outcome = play(stream, MACHINE, Script([launch for pair in places for launch in pair]))
    assert outcome.trace.makespan_ns == 35 + 6 * 30
    assert overlap_ns(outcome.trace, "cuda:0", "cpu:0") == 60 - 35


def test_a_closed_loop_by_hand() -> None:
    """Two clients that think for 7 ns; requests 0 and 2 are the first one's.

    cuda:0  |0: 0 10|1: 10 20|  |2: 42 52|   |3: 67 77|
    ->cpu:0         |0: 10 35|1: 35 60|2: 60 85|3: 85 110|
    """
    stream = closed_loop([ANSWER] * 4, clients=2, think_ns=7)
    script = Script(on_gpu(0, 1), on_gpu(2), on_gpu(3))
    _, outcome = play(stream, MACHINE, script)
    assert script.seen == [2, 3, 4]
    assert [(s.start_ns, s.end_ns) for s in outcome.trace.launches] == [
        (0, 10),
        (10, 20),
        (42, 52),
        (67, 77),
    ]
    assert outcome.graph.arrival_ns.tolist() == [0, 0, 42, 67]
    assert latencies_ns(outcome.graph, outcome.trace, "cpu:0") == {0: 35, 1: 60, 2: 43, 3: 43}


def test_a_request_without_answers_ends_with_its_last_launch() -> None:
    stream = closed_loop([CHAIN] * 2, clients=1, think_ns=4)
    _, outcome = play(stream, MACHINE, Script(on_gpu(0, 1), on_gpu(2, 3)))
    assert outcome.graph.arrival_ns.tolist() == [0, 0, 24, 24]
    assert latencies_ns(outcome.graph, outcome.trace, "cpu:0") == {0: 20, 1: 20}


def test_more_clients_than_requests() -> None:
    stream = closed_loop([ONE] * 2, clients=5)
    _, outcome = play(stream, MACHINE, Script(on_gpu(0, 1)))
    assert outcome.trace.makespan_ns == 20


def test_tasks_that_arrive_after_their_request_do_so_in_every_round() -> None:
    """The second task of each request arrives 15 ns after the first."""
    late = request(task(0), task(1, arrival_ns=15))
    stream = closed_loop([late] * 2, clients=1, think_ns=5)
    _, outcome = play(stream, MACHINE, Script(on_gpu(0), on_gpu(1), on_gpu(2), on_gpu(3)))
    assert outcome.graph.arrival_ns.tolist() == [0, 15, 30, 45]


def test_a_think_time_beyond_the_clock_is_refused() -> None:
    stream = closed_loop([ONE] * 2, clients=1, think_ns=10**15)
    with pytest.raises(InputError, match=r"request 1 would arrive after 10\^15 ns"):
        play(stream, MACHINE, Script(on_gpu(0)))


def test_an_answer_made_on_the_host_ends_a_request_at_once() -> None:
    stream = open_stream([ANSWER], [40])
    _, outcome = play(stream, MACHINE, Script([("cpu:0", (0,))]))
    assert latencies_ns(outcome.graph, outcome.trace, "cpu:0") == {0: 30}


def test_latency_counts_from_the_first_arrival_of_a_request() -> None:
    stream = open_stream([request(task(0), task(1, arrival_ns=15))], [100])
    _, outcome = play(stream, MACHINE, Script(on_gpu(0), on_gpu(1)))
    assert latencies_ns(outcome.graph, outcome.trace, "cpu:0") == {0: 25}


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 3), st.integers(0, 9), st.booleans())
def test_who_thinks_sends_the_next_request_exactly_then(
    seed: int, clients: int, think_ns: int, lossy: bool
) -> None:
    """Also where a device is lost on the way."""
    rng = random.Random(seed)
    graphs = [rng.choice([ONE, ANSWER, CHAIN, random_request(seed + n)]) for n in range(6)]
    stream = closed_loop(graphs, clients=clients, think_ns=think_ns)
    losses = (Loss("cuda:0", rng.randint(0, 120)),) if lossy else ()
    session, outcome = play(stream, FAST, Dice(seed), Conditions(losses=losses))
    graph, trace = session.complete_graph, session.complete_trace
    if not losses:
        ends = request_ends_ns(graph, trace, "cpu:0")
        check_arrivals(stream, graph, ends, clients, think_ns)
    again = request_ends_ns(outcome.graph, outcome.trace, "cpu:0")
    check_arrivals(stream, outcome.graph, again, clients, think_ns)


def check_arrivals(
    stream: RequestStream, graph: TaskGraph, ends: dict[int, int], clients: int, think_ns: int
) -> None:
    first = {r: int(graph.arrival_ns[graph.request == r].min()) for r in ends}
    assert set(ends) == set(stream.graph.request.tolist())
    for number in ends:
        before = number - clients
        assert first[number] == (ends[before] + think_ns if before >= 0 else 0)


def random_request(seed: int) -> TaskGraph:
    """Return the shape of a random world's graph, with all costs in the profile."""
    shape = random_world(seed).graph
    tasks = [
        Task(
            id=number,
            cell="cell",
            inputs=shape.input_lists[number],
            output_bytes=int(shape.output_bytes[number]) % 5,
            revealed_by=None if shape.revealed_by[number] < 0 else int(shape.revealed_by[number]),
            returns=bool(shape.returns[number]),
        )
        for number in range(len(shape))
    ]
    return TaskGraph.from_tasks("random", [Cell("cell")], tasks)


FAST = Profile(MACHINE.cluster, {"cell": {"cpu:0": Curve((1,), (5,)), "cuda:0": Curve((1,), (3,))}})
