"""A profile with some of its devices: what stays costs the same."""

import pytest

from dynpartition.agent.registry import make_scheduler
from dynpartition.contract import GraphWorkload, run
from dynpartition.errors import ProfileError
from dynpartition.formats import load_shipped, read_profile, shipped_names, write_profile
from dynpartition.profile import restricted
from dynpartition.sim import SimBackend
from tests.agent.worlds import tree_graph


@pytest.mark.parametrize("name", shipped_names())
def test_what_runs_on_the_devices_kept_takes_as_long(name, tmp_path):
    profile = load_shipped(name)
    kept = profile.cluster.names[:2]
    smaller = restricted(profile, kept)
    assert smaller.cluster.names == kept
    if "leaf" in profile.cells:
        graph, scheduler = GraphWorkload(tree_graph(6, 0)), make_scheduler(f"single:{kept[1]}")
        plan = run(SimBackend(profile), graph, scheduler)
        again = run(SimBackend(smaller), graph, scheduler)
        assert again.trace.makespan_ns == plan.trace.makespan_ns
    write_profile(tmp_path / "p.json", smaller)  # every name in it is a device
    assert read_profile(tmp_path / "p.json") == smaller


def test_all_devices_are_the_profile_itself_and_unknown_ones_are_named():
    profile = load_shipped("paper-a100")
    assert restricted(profile, profile.cluster.names) == profile
    with pytest.raises(ProfileError, match="no device is named 'cuda:7'"):
        restricted(profile, ("cpu:0", "cuda:7"))
    with pytest.raises(ProfileError, match="host"):
        restricted(profile, ("cuda:0", "cuda:1"))
