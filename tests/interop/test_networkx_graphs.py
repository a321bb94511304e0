"""networkx graphs in and out: nothing is lost on the way, and what is wrong is one clear error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import Curve, DynPartitionError, PricedGraph
from dynpartition.__main__ import main
from dynpartition.calibration.operators import OperatorModel, Roofs
from dynpartition.errors import FileFormatError, GraphError, ProfileError
from dynpartition.formats import load_shipped, read_graph, read_plan, write_graph, write_profile
from dynpartition.profile import Profile
from tests.core.test_formats_roundtrip import graphs as file_graphs
from tests.sim.random_worlds import graphs

nx = pytest.importorskip("networkx", reason="the extra `networkx` is not installed")

from dynpartition.interop.networkx_graphs import (  # noqa: E402
    from_networkx,
    parse_node_link,
    read_node_link,
    to_networkx,
)

SHEET = load_shipped("datasheet-h100-a100")


@given(graphs())
def test_a_graph_comes_back_as_it_was(graph):
    back = from_networkx(to_networkx(graph))
    assert back.graph.digest == graph.digest
    assert back.graph.name == graph.name
    assert list(back.nodes) == graph.ids.tolist()


@settings(max_examples=50)
@given(file_graphs())
def test_also_through_node_link_json(graph):
    data = nx.node_link_data(to_networkx(graph), edges="edges")
    back = from_networkx(parse_node_link(json.dumps(data).encode()))
    assert back.graph.digest == graph.digest


@given(graphs())
def test_algorithms_see_the_dependencies(graph):
    """Any topological order of networkx is one of ours, control edges included."""
    order = {task: at for at, task in enumerate(nx.topological_sort(to_networkx(graph)))}
    for task in graph.tasks():
        before = [*task.inputs, *([] if task.revealed_by is None else [task.revealed_by])]
        assert all(order[source] < order[task.id] for source in before)


def test_plain_names_and_edges_are_enough():
    graph = nx.DiGraph(name="plain")
    graph.add_node("load", duration_ns={"cpu:0": 5}, output_bytes=100)
    graph.add_node(("fit", 1), cell="fit", duration_ns=7.0, param_bytes=64)
    graph.add_edge("load", ("fit", 1))
    found = from_networkx(graph, SHEET)
    assert found.nodes == ("load", ("fit", 1))
    first, second = found.graph.tasks()
    assert (first.cell, first.output_bytes, first.duration_ns) == ("task", 100, {"cpu:0": 5})
    assert second.inputs == (0,)
    assert second.duration_ns == dict.fromkeys(SHEET.cluster.names, 7)
    assert [cell.param_bytes for cell in found.graph.cells] == [0, 64]


def test_repeated_inputs_of_a_multigraph_keep_their_order():
    graph = nx.MultiDiGraph([(1, 0), (2, 0), (1, 0)])
    assert from_networkx(graph).graph.tasks()[0].inputs == (1, 1, 2)
    placed = nx.MultiDiGraph()
    for source, position in ((1, 2), (2, 1), (1, 0)):
        placed.add_edge(source, 0, position=position)
    assert from_networkx(placed).graph.tasks()[0].inputs == (1, 2, 1)


def test_edges_say_what_is_sent():
    graph = nx.DiGraph([("a", "b", {"bytes": 8}), ("a", "c", {"bytes": 8})])
    assert from_networkx(graph).graph.tasks()[0].output_bytes == 8
    graph.edges["a", "c"]["bytes"] = 9
    with pytest.raises(GraphError, match=r"'a' sends 8, 9 bytes .* give the node output_bytes"):
        from_networkx(graph)
    graph.nodes["a"]["output_bytes"] = 10
    assert from_networkx(graph).graph.tasks()[0].output_bytes == 10


def calibrated(profile: Profile) -> Profile:
    """A profile with operator models of known roofs, as `calibrate` writes them."""
    models = {
        name: OperatorModel(Roofs(1000.0 * (at + 1), 10.0, 2.0, 4.0, 1.0), 0.1, 4, 9).as_plain()
        for at, name in enumerate(profile.cluster.names)
    }
    return Profile(
        profile.cluster, {"known": profile.cells["leaf"]}, provenance={"operators": models}
    )


def test_costs_come_from_operator_models_where_neither_node_nor_profile_has_them():
    profile = calibrated(load_shipped("synthetic-cpu-2gpu"))
    graph = nx.DiGraph()
    graph.add_node(0, cell="known")
    graph.add_node(1, cell="new", flops=2000, moved_bytes=400, operators=3, param_bytes=400)
    graph.add_node(2, cell="new", param_bytes=400, duration_ns={"cpu:0": 3})
    tasks = from_networkx(graph, profile).graph.tasks()
    assert tasks[0].duration_ns == {}
    # 1000 + 3 · 10 + 2000 / 2 + 800 / 4 on the first device
    assert list(tasks[1].duration_ns.values()) == [2230, 3230, 4230]
    assert tasks[2].duration_ns == {"cpu:0": 3}


def test_a_datasheet_prices_as_the_profile_was_made():
    """A node that does what a cell does costs what the shipped profile says of the cell."""
    from dynpartition.calibration.operations import count_operations
    from dynpartition.models.registry import MODELS

    entry = MODELS["treelstm"]
    work = count_operations(entry.build(), entry.generate(16, 0), (1,))["leaf"][1]
    graph = nx.DiGraph()
    flops, moved = (sum(getattr(op, f) for op in work) for f in ("flops", "moved_bytes"))
    graph.add_node(0, cell="mine", flops=flops, moved_bytes=moved, operators=len(work))
    found = from_networkx(graph, SHEET).graph.tasks()[0].duration_ns
    for device, curve in SHEET.cells["leaf"].items():
        # Operators one by one: each is at one of both roofs, the sum is a little longer.
        assert 0.8 * curve.at(1) < found[device] <= curve.at(1) + 1


HOSTILE = [
    (nx.Graph([(0, 1)]), GraphError, "undirected"),
    (nx.DiGraph(), GraphError, "has no tasks"),
    (nx.DiGraph([("a", "b"), ("b", "a")]), GraphError, r"cycle: 'a' → 'b' → 'a'"),
    (nx.DiGraph([(0, 0)]), GraphError, "cycle: 0 → 0"),
]


@pytest.mark.parametrize(("graph", "kind", "message"), HOSTILE)
def test_what_is_no_graph_of_tasks_is_refused(graph, kind, message):
    with pytest.raises(kind, match=message):
        from_networkx(graph)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"cell": 3}, "cell is 3; give a name"),
        ({"output_bytes": -1}, "output_bytes is -1"),
        ({"output_bytes": "many"}, "output_bytes is 'many'; give a whole number"),
        ({"output_bytes": 1.5}, "output_bytes is 1.5"),
        ({"output_byte": 1}, "did you mean 'output_bytes'"),
        ({"returns": 1}, "returns is 1; give True or False"),
        ({"revealed_by": "x"}, "revealed_by is 'x', which is no node"),
        ({"duration_ns": {"cpu:0": True}}, r"duration_ns\['cpu:0'\] is True"),
        ({"duration_ns": 3}, "give the profile with the devices"),
        ({"param_bytes": 3}, "param_bytes 3 here and 0 elsewhere"),
        ({"param_bytes": -3, "cell": "x"}, "param_bytes is -3; give a whole number from 0"),
    ],
)
def test_a_wrong_attribute_is_named_with_its_node(attributes, message):
    graph = nx.DiGraph()
    graph.add_node("first")
    graph.add_node("second", **attributes)
    with pytest.raises(DynPartitionError, match=message) as caught:
        from_networkx(graph)
    assert "second" in str(caught.value) or "task 1" in str(caught.value)


def test_a_node_without_any_cost_says_what_could_be_given():
    graph = nx.DiGraph()
    graph.add_node("a", cell="mystery")
    with pytest.raises(ProfileError, match=r"'a' has no cost.*no cell 'mystery'; give one of"):
        from_networkx(graph, SHEET)
    graph.nodes["a"]["flops"] = 10
    with pytest.raises(ProfileError, match="datasheet-… profile, or durations of your own"):
        from_networkx(graph, load_shipped("paper-a100"))


def test_less_than_no_work_is_refused():
    graph = nx.DiGraph()
    graph.add_node("second", flops=-5)
    with pytest.raises(GraphError, match="'second': flops is -5; give a whole number from 0"):
        from_networkx(graph, load_shipped("datasheet-h100-a100"))


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"{", FileFormatError, "malformed JSON"),
        (b"[]", FileFormatError, "no node-link JSON"),
        (b'{"nodes":[],"edges":3}', FileFormatError, "no node-link JSON"),
        (b'{"nodes":[],"edges":[]}', GraphError, "`directed` is not true"),
        (b'{"directed":true,"nodes":[{}],"edges":[]}', FileFormatError, "None names no node"),
        (
            b'{"directed":true,"nodes":[{"id":1}],"edges":[{"source":1,"target":2}]}',
            FileFormatError,
            "does not join two",
        ),
        (
            b'{"directed":true,"nodes":[{"id":1}],"links":[{"source":1}]}',
            FileFormatError,
            "None names no node",
        ),
        (b'{"directed":true,"nodes":[{"id":[{}]}],"edges":[]}', FileFormatError, "names no node"),
        (
            b'{"directed":true,"multigraph":true,"nodes":[{"id":1},{"id":2}],"edges":'
            b'[{"source":1,"target":2,"key":[1]}]}',
            FileFormatError,
            "edge key .1. is no text or number",
        ),
        (
            b'{"directed":true,"graph":{"cells":{"a":"x"}},"nodes":[{"id":1}],"edges":[]}',
            GraphError,
            "cell 'a': param_bytes is 'x'; give a whole number",
        ),
    ],
)
def test_malformed_node_link_json_is_one_clear_error(data, kind, message, tmp_path):
    path = tmp_path / "graph.json"
    path.write_bytes(data)
    with pytest.raises(kind, match=message) as caught:
        read_node_link(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_commands_take_node_link_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    graph = nx.DiGraph(name="pipeline")
    graph.add_node("load", flops=0, moved_bytes=10**6, output_bytes=10**6, host_bytes=100)
    for side in "ab":
        graph.add_node(side, cell="fit", flops=10**9, moved_bytes=10**6, output_bytes=10)
        graph.add_edge("load", side)
        graph.add_edge(side, "join")
    graph.nodes["join"].update(cell="join", flops=10, moved_bytes=30, returns=True)
    Path("g.json").write_text(json.dumps(nx.node_link_data(graph, edges="links")))
    where = ["--graph", "g.json", "--profile", "datasheet-h100-a100"]
    assert (
        main(["schedule", *where, "--scheduler", "heft", "--json", "p.json", "--dot", "g.dot"]) == 0
    )
    assert main(["simulate", *where, "--plan", "p.json", "--json", "t.json"]) == 0
    assert main(["report", "--graph", "g.json", "--traces", "t.json"]) == 0
    assert "4 launches" in capsys.readouterr().out
    assert 'label="join\\njoin\\n' in Path("g.dot").read_text()
    imported = read_node_link(Path("g.json"), SHEET).graph
    assert len(read_plan(Path("p.json"), imported, SHEET.cluster)) == 4
    write_graph(Path("own.json"), imported)
    assert read_graph(Path("own.json")).digest == imported.digest
    assert PricedGraph(imported, SHEET).task_ns.min() > 0
    assert main(["schedule", *where, "--scheduler", "heft", "--dims", "n=1"]) == 2
    assert "--dims gives sizes of an ONNX" in capsys.readouterr().err


def test_a_profile_with_the_cell_decides():
    profile = Profile(SHEET.cluster, {"task": {"cpu:0": Curve((1,), (9,))}})
    graph = nx.DiGraph()
    graph.add_node(0, flops=10**9)
    found = from_networkx(graph, profile).graph
    assert PricedGraph(found, profile).task_ns.tolist() == [[9, -1, -1]]


def test_graph_files_need_none_of_these_libraries(tmp_path):
    graph = from_networkx(nx.DiGraph([("a", "b")])).graph
    write_graph(tmp_path / "g.json", graph)
    profile = Profile(SHEET.cluster, {"task": {"cpu:0": Curve((1,), (9,))}})
    write_profile(tmp_path / "p.json", profile)
    code = """
import sys
from dynpartition.__main__ import main
assert main(["--help"]) == 0
assert main("schedule --graph g.json --profile p.json --scheduler heft".split()) == 0
assert not {"networkx", "onnx", "tensorboard", "stable_baselines3"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize(("name", "library"), [("g.json", "networkx"), ("m.onnx", "onnx")])
def test_a_library_that_is_not_there_is_named(name, library, tmp_path, monkeypatch, capsys):
    module = f"dynpartition.interop.{library}_graphs"
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_text('{"nodes":[],"edges":[]}')
    where = ["--graph", str(tmp_path / name), "--profile", "small-cpu", "--scheduler", "heft"]
    assert main(["schedule", *where]) == 2
    said = capsys.readouterr().err
    assert said.endswith(
        f"{name} needs the library {library}; install it with: pip install"
        f" 'dynpartition[{library}]'\n"
    )


ODD = [None, True, -1, 1.5, "x", [], {}, [1, [2]], 10**20, "", {"a": 1}]


def damaged(value, rng):
    """Return a JSON value in which a few parts are other ones or gone."""
    if rng.random() < 0.06:
        return rng.choice(ODD)
    if isinstance(value, dict):
        return {key: damaged(inner, rng) for key, inner in value.items() if rng.random() > 0.02}
    return [damaged(inner, rng) for inner in value] if isinstance(value, list) else value


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False))
def test_damaged_node_link_json_is_one_clear_error_or_still_a_graph(tmp_path_factory, rng):
    graph = nx.DiGraph(name="g")
    graph.add_node("a", flops=1, output_bytes=3)
    graph.add_node("b", cell="x", duration_ns={"cpu:0": 3}, revealed_by="a")
    graph.add_node("c", moved_bytes=4)
    graph.add_edge("a", "b", positions=[0])
    graph.add_edge("a", "c", bytes=3)
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_text(json.dumps(damaged(nx.node_link_data(graph, edges="edges"), rng)))
    try:
        assert len(read_node_link(path, SHEET).graph)
    except DynPartitionError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
