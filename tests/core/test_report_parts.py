"""The picture of the cluster and the tables of gaps and errors."""

from __future__ import annotations

import re

import pytest
from hypothesis import given

from dynpartition import AffineCost, Cluster, Device, Link, Profile, TableCost
from dynpartition.cli.cluster_picture import BOX_HEIGHT, BOX_WIDTH, WIDTH, cluster_picture
from dynpartition.cli.page_tables import (
    bound_line,
    error_table,
    gap_table,
    longest_chain_ns,
    placement_table,
)
from dynpartition.cli.run_folder import Case, Row, Validation, read_run_folder
from dynpartition.formats import load_shipped, shipped_names
from dynpartition.sim import simulate
from tests.core.test_report import HOSTILE, Elements, write_run
from tests.sim.random_worlds import World, worlds


def texts(markup):
    return re.sub(r"<[^>]*>", "|", markup)


def cells(markup):
    """Return the rows of a table's body."""
    body = markup.split("<tbody>")[1]
    rows = body.split("</tr>")[:-1]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]


def boxes_of(picture):
    found = re.findall(r'<rect x="([-\d.]+)" y="([-\d.]+)"', picture)
    return [(float(x), float(y)) for x, y in found]


def mesh(count: int, cost=None) -> Cluster:
    devices = tuple(Device(f"cuda:{i}", "cuda", 10**9) for i in range(count))
    names = [device.name for device in devices]
    fixed = cost or AffineCost(1000, 10**10)
    return Cluster(devices, tuple(Link(a, b, fixed) for a in names for b in names if a != b))


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_cluster_has_a_picture(name):
    cluster = load_shipped(name).cluster
    picture = cluster_picture(cluster, {})
    elements = Elements(picture)
    assert elements.classes.count("device") == len(cluster.devices)
    told = [
        row
        for title in re.findall(r"<title>(.*?)</title>", picture, re.DOTALL)
        for row in title.splitlines()
    ]
    ends = sorted(re.sub(r"^(\S+ \S+):.*", r"\1", row.replace(" → ", " ")) for row in told)
    assert ends == sorted(f"{link.src} {link.dst}" for link in cluster.links)


@pytest.mark.parametrize("count", [*range(1, 17), 40])
def test_boxes_lie_apart_and_inside(count):
    picture = cluster_picture(mesh(count), {})
    boxes = boxes_of(picture)
    width, height = map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', picture)[0])
    assert count > 11 or width == WIDTH
    assert len(boxes) == count
    for number, (x, y) in enumerate(boxes):
        assert 0 <= x <= width - BOX_WIDTH
        assert 0 <= y <= height - BOX_HEIGHT
        for a, b in boxes[:number]:
            assert abs(x - a) >= BOX_WIDTH or abs(y - b) >= BOX_HEIGHT


def test_two_directions_that_cost_the_same_are_one_line():
    picture = cluster_picture(mesh(2), {"cuda:1": "emulated ×0.5"})
    assert picture.count('class="link"') == 1
    assert "10.0 GB/s, 1.00 µs" in texts(picture)
    assert "emulated ×0.5" in picture
    assert "legend" not in picture
    devices = (Device("a", "cpu"), Device("b", "cuda"))
    slow = TableCost(((1, 900), (1000, 1500)))
    links = (Link("a", "b", AffineCost(0, 10**9), ("bus",)), Link("b", "a", slow, ("bus",), "src"))
    picture = cluster_picture(Cluster(devices, links), {})
    assert picture.count('class="link"') == 2
    assert picture.count("stroke:var(--c0)") == 2  # they share the bus
    assert "share bus" in picture
    assert "b → a: 900 ns, 667 MB/s, holds bus, blocks b" in picture
    assert "to b: 1.00 GB/s" in picture


def test_names_in_pictures_are_shown_and_never_run():
    devices = (Device(HOSTILE, "cpu"), Device("b", "cpu"))
    links = (
        Link(HOSTILE, "b", AffineCost(1, 1), (HOSTILE,)),
        Link("b", HOSTILE, AffineCost(2, 1), (HOSTILE,)),
    )
    picture = cluster_picture(Cluster(devices, links), {"b": HOSTILE})
    assert "<script" not in picture
    assert "<img" not in picture


def test_gaps_are_to_the_fastest_run_and_to_the_simulation():
    rows = [
        Row("slow", 9.0, makespan_ms=3.0, simulated_mean_ms=2.0, decision_ms=0.3),
        Row("fast", 4.0, makespan_ms=2.0, simulated_mean_ms=2.5),
        Row("not run", 1.0),
    ]
    assert cells(gap_table(rows)) == [
        ["fast", "2.00 ms", "+0.0 %", "–", "2.50 ms", "−20.0 %"],
        ["slow", "3.00 ms", "+50.0 %", "10.0 %", "2.00 ms", "+50.0 %"],
    ]
    assert gap_table(rows[2:]) is None


def test_errors_are_told_by_placement_and_over_all():
    cases = (
        Case("1", "heft", 110, 100, 0.02),
        Case("2", "heft", 80, 100, 0.04),
        Case("1", "other", 100, 100),
        Case("1", "never", 100, 0),
    )
    validation = Validation(cases, mape=0.1, tau=0.956, verdict="pass", optimism=-0.01)
    assert cells(placement_table(validation)) == [
        ["heft", "2", "15.0 %", "−5.0 %", "20.0 %", "3.0 %"],
        ["other", "1", "0.0 %", "+0.0 %", "0.0 %", "–"],
    ]
    shown = dict(cells(error_table(validation)))
    assert shown["mean absolute error"] == "10.0 %"
    assert shown["ranking of placements, Kendall's τ".replace("'", "&#x27;")] == "0.956"
    assert shown["its time against the promise"] == "−1.0 %"
    assert shown["verdict"] == "pass"
    assert placement_table(Validation(())) is None


@given(worlds())
def test_no_run_is_shorter_than_the_longest_chain(world: World):
    bound_ns = longest_chain_ns(world.graph, world.profile)
    assert simulate(world.graph, world.profile, world.plan).makespan_ns >= bound_ns


def test_the_bound_is_left_out_where_the_profile_lacks_a_cell(tmp_path):
    found = read_run_folder(write_run(tmp_path / "run"))
    assert longest_chain_ns(found.graph, found.profile) is None
    assert bound_line(found) is None
    whole = Profile(
        found.profile.cluster, dict.fromkeys(("leaf", "composer"), found.profile.cells["leaf"])
    )
    assert longest_chain_ns(found.graph, whole) == 1000
