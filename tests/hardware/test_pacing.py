"""Slowed links between CPU devices: nothing arrives before they could have brought it."""

from __future__ import annotations

import pytest
import torch

from dynpartition import AffineCost, Cluster, Device, Launch, Profile, Scheduler, parse_devices
from dynpartition.costs import transfer_ns
from dynpartition.errors import DeviceError
from dynpartition.formats import read_profile, write_profile
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.hardware.pacing import pace_between, paces_from
from dynpartition.models import build_model, generate_inputs, run_eagerly
from dynpartition.validator import check_trace

SLOW = AffineCost(200_000, 10_000_000)
DEVICES = "cpu:0,cpu:1@300KB~10MBps+200us"


def test_a_link_is_a_bandwidth_and_perhaps_a_latency():
    assert parse_devices("cpu:1x0.5@2MB~500MBps,cpu:2~1.5GiBps+20us,cpu:3~1Bps+0.5ms") == (
        Device("cpu:1", "cpu", 2_000_000, 0.5, link=AffineCost(0, 500_000_000)),
        Device("cpu:2", "cpu", link=AffineCost(20_000, 3 * 2**29)),
        Device("cpu:3", "cpu", link=AffineCost(500_000, 1)),
    )


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("cpu:1~500MB", "is not understood"),
        ("cpu:1~500MBps+20", "is not understood"),
        ("cpu:1~0.5Bps", "0 bytes per second are no bandwidth"),
        ("cpu:1~9MBps+90000ms", "more than 10 s is no link's"),
        ("cuda:0~5GBps", "only links of CPU devices can be slowed"),
    ],
)
def test_what_is_no_link_is_refused_in_one_line(item, words):
    with pytest.raises(DeviceError, match=words):
        parse_devices(item)


def test_the_slower_end_counts():
    a, b, c = parse_devices("cpu:0~9MBps+1us,cpu:1~5MBps,cpu:2")
    assert pace_between(a, b) == pace_between(b, a) == AffineCost(1_000, 5_000_000)
    assert pace_between(c, c) is None
    assert paces_from((a, b, c), 2) == {
        0: AffineCost(1_000, 9_000_000),
        1: AffineCost(0, 5_000_000),
    }


def test_profiles_keep_how_links_are_slowed(tmp_path):
    profile = Profile(Cluster(parse_devices(DEVICES)), {})
    write_profile(tmp_path / "p.json", profile)
    assert read_profile(tmp_path / "p.json").cluster == profile.cluster


class ExpertsAway(Scheduler):
    """Experts on cpu:1, everything else on the host."""

    name = "experts-away"

    def schedule(self, graph, profile, planned):
        placed = planned.placement()
        return [
            Launch("cpu:1" if "expert" in graph.cell_name(task) else "cpu:0", (task,))
            for task in range(len(graph))
            if task not in placed
        ]


@pytest.fixture(scope="module")
def model():
    return build_model("moe", {"width": 64}, seed=1)


@pytest.mark.parametrize(
    ("clock", "workers"), [("virtual", "processes"), ("wall", "processes"), ("wall", "threads")]
)
def test_transfers_and_loads_take_what_the_link_takes_and_answers_stay_the_same(
    model, clock, workers
):
    """The host goes on while its link is busy; transfers of one link follow each other."""
    with HardwareBackend(model, parse_devices(DEVICES), clock=clock, workers=workers) as backend:
        for item in generate_inputs(model, 2, seed=2):
            with backend.open(item) as session:
                while session.advance(ExpertsAway().schedule(session.graph, None, session.plan)):
                    pass
                answer, trace = session.answer(), session.trace
            torch.testing.assert_close(answer, run_eagerly(item), rtol=1e-4, atol=1e-5)
            free = Profile(backend.profile.cluster, {})
            check_trace(session.graph, free, session.plan, trace, tolerance_ns=1)
            moves = [(m.src, m.dst, m.start_ns, m.end_ns, m.bytes) for m in trace.transfers]
            loads = [(None, m.device, m.start_ns, m.end_ns, m.bytes) for m in trace.loads]
            assert moves
            assert loads
            for _, _, start_ns, end_ns, size_bytes in (*moves, *loads):
                assert end_ns - start_ns >= transfer_ns(SLOW, size_bytes)
            ends = {}
            for src, dst, start_ns, end_ns, _ in sorted(moves, key=lambda m: m[2]):
                assert start_ns >= ends.get((src, dst), 0)
                ends[src, dst] = end_ns


def test_gpus_have_links_of_their_own(model):
    with pytest.raises(DeviceError, match="cpu:0: links are slowed between CPU devices only"):
        HardwareBackend(model, parse_devices("cpu:0~1GBps,cuda:0"), streams=FakeStreams(seed=1))
