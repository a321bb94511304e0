import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    Dispatch,
    Link,
    PricedGraph,
    Profile,
    TableCost,
    Task,
    TaskGraph,
    lower,
    single_task_plan,
)
from dynpartition.costs import share_ns, transfer_ns
from dynpartition.pricing import price

AMOUNT = st.integers(0, 10**15)
POSITIVE = st.integers(1, 10**15)


@given(AMOUNT, POSITIVE, AMOUNT)
def test_affine_cost_is_the_exact_fraction_rounded_up(latency_ns, bandwidth, size_bytes):
    exact = latency_ns + Fraction(size_bytes * 10**9, bandwidth)
    assert transfer_ns(AffineCost(latency_ns, bandwidth), size_bytes) == math.ceil(exact)


def test_ten_gigabytes_do_not_overflow():
    size_bytes = 10 * 10**9
    assert size_bytes * 10**9 > 2**63
    assert transfer_ns(AffineCost(7, 12 * 10**9), size_bytes) == 833_333_341


def test_ten_gigabytes_in_a_graph_do_not_overflow():
    """Sizes stand in int64 arrays; pricing converts them before it multiplies."""
    size_bytes = 10**10
    graph = TaskGraph.from_tasks(
        "big",
        [Cell("a")],
        [Task(id=0, cell="a", output_bytes=size_bytes), Task(id=1, cell="a", inputs=(0,))],
    )
    devices = (Device("cpu:0", "cpu"), Device("cpu:1", "cpu"))
    link = Link("cpu:0", "cpu:1", AffineCost(0, 10**9))
    copies = Dispatch(copy_in={"cpu:1": AffineCost(3, 10**9)})
    cells = {"a": {"cpu:0": Curve((1,), (5,)), "cpu:1": Curve((1,), (5,))}}
    priced = PricedGraph(graph, Profile(Cluster(devices, (link,)), cells, copies))
    plan = single_task_plan([(0, "cpu:0"), (1, "cpu:1")])
    prices = price(lower(graph, priced.cluster, plan), priced)
    assert prices.launch_ns == (5, 5 + 3 + 10 * 10**9)
    assert priced.transfer_ns(0, size_bytes) == 10 * 10**9


@given(st.lists(st.tuples(POSITIVE, AMOUNT), min_size=2, max_size=6, unique_by=lambda p: p[0]))
def test_a_curve_passes_through_its_points(points):
    batch, duration_ns = zip(*sorted(points), strict=True)
    curve = Curve(batch, duration_ns)
    assert [curve.at(k) for k in batch] == list(duration_ns)


@given(st.integers(1, 50), st.integers(1, 50), AMOUNT, AMOUNT, st.integers(1, 200))
def test_a_curve_is_linear_rounded_up(first, step, low_ns, high_ns, k):
    last = first + step
    exact = low_ns + Fraction((high_ns - low_ns) * (k - first), step)
    assert Curve((first, last), (low_ns, high_ns)).at(k) == max(0, math.ceil(exact))


@given(st.integers(1, 64), AMOUNT, st.integers(1, 200))
def test_a_single_point_scales_with_the_batch(batch, duration_ns, k):
    exact = Fraction(duration_ns * k, batch)
    assert Curve((batch,), (duration_ns,)).at(k) == math.ceil(exact)


def test_beyond_the_table_the_last_slope_goes_on():
    curve = Curve((1, 4, 16), (1000, 1600, 2800))
    assert [curve.at(k) for k in (1, 2, 4, 10, 16, 26)] == [1000, 1200, 1600, 2200, 2800, 3800]


def test_a_table_interpolates_in_log_log_space():
    cost = TableCost(((100, 10), (10_000, 1000)))
    assert [transfer_ns(cost, size) for size in (0, 1, 100, 10_000)] == [10, 10, 10, 1000]
    assert transfer_ns(cost, 1000) == pytest.approx(100, abs=1)
    assert transfer_ns(cost, 10**6) == pytest.approx(10**5, rel=1e-3)


@given(
    st.lists(
        st.tuples(st.integers(1, 10**9), st.integers(1, 10**9)),
        min_size=1,
        max_size=5,
        unique_by=lambda p: p[0],
    )
)
def test_a_table_passes_through_its_points(points):
    points = sorted(points)
    cost = TableCost(tuple(points))
    assert [transfer_ns(cost, size) for size, _ in points] == [ns for _, ns in points]


@given(AMOUNT, st.integers(0, 10**6))
def test_a_share_is_exact_to_one_in_a_million(duration_ns, millionths):
    exact = Fraction(duration_ns * millionths, 10**6)
    assert share_ns(duration_ns, millionths / 10**6) == math.ceil(exact)
