"""torch.fx graphs as task graphs, against PyTorch's own counters."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dynpartition import GraphWorkload, PricedGraph, run
from dynpartition.agent.registry import make_scheduler
from dynpartition.errors import GraphError
from dynpartition.formats import load_shipped
from dynpartition.interop.fx_graphs import from_fx
from dynpartition.interop.nodes import Node
from dynpartition.sim import SimBackend

SHEET = load_shipped("datasheet-h100-a100")


class Branches(nn.Module):
    """Two towers, one of them used twice; a split, a number from a shape, an own parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.right = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        a, b = self.left(x), self.right(x) + self.right(x * 2)
        low, high = (a * self.scale).chunk(2, dim=1)
        rows = x.size(0)
        joined = torch.cat([low, high], dim=1).view(rows, -1)
        return {"sum": self.norm(joined + b), "mean": b.mean()}


def test_a_module_becomes_a_graph():
    found = from_fx(Branches().eval(), [torch.ones(4, 8)], SHEET)
    graph, place = found.graph, {name: at for at, name in enumerate(found.nodes)}
    tasks = {name: graph.tasks()[at] for name, at in place.items()}
    assert "getitem" not in " ".join(place)
    assert "size" not in place
    assert tasks["right"].cell == tasks["right_1"].cell == "right"
    assert tasks["left_0"].cell == "left.0"
    params = {cell.name: cell.param_bytes for cell in graph.cells}
    assert params["left.0"] == (8 * 16 + 16) * 4
    assert params["mul_1"] == 16 * 4  # the scale, which get_attr reads
    # The halves of chunk are two arguments of cat: its output is read twice.
    assert tasks["cat"].inputs == (place["chunk"], place["chunk"])
    assert tasks["cat"].output_bytes == 4 * 16 * 4
    # The view needs a number that was made of x, which comes from the host.
    assert tasks["view"].inputs == (place["cat"],)
    assert {name for name, task in tasks.items() if task.returns} == {"norm", "mean"}
    assert tasks["left_0"].host_bytes == 4 * 8 * 4
    assert (PricedGraph(graph, SHEET).task_ns > 0).all()


def works_of(module: nn.Module, inputs: list[torch.Tensor], monkeypatch) -> list[Node]:
    kept: list[Node] = []

    def keep(name, nodes, profile, durations):
        kept.extend(nodes)

    monkeypatch.setattr("dynpartition.interop.fx_graphs.import_nodes", keep)
    from_fx(module, inputs)
    return kept


@pytest.mark.parametrize("batch", [1, 3])
def test_what_nodes_compute_adds_up_to_the_whole(batch, monkeypatch):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    module = nn.Sequential(nn.Linear(16, 16), nn.Conv1d(5, 7, 3), nn.Flatten(), nn.Linear(98, 4))
    x = torch.ones(batch, 5, 16)
    for made in (module, Branches().eval()):
        inputs = [x] if made is module else [torch.ones(batch, 8)]
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            made(*inputs)
        nodes = works_of(made, inputs, monkeypatch)
        assert sum(node.work.flops for node in nodes) == counter.get_total_flops()
    exported = torch.export.export(layer, (x,)).module()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        exported(x)
    nodes = works_of(exported, [x], monkeypatch)
    assert sum(node.work.flops for node in nodes) == counter.get_total_flops() > 0
    weights = sum(p.numel() * p.element_size() for p in layer.parameters())
    assert sum(node.param_bytes for node in nodes) == weights


def test_fused_layers_count_as_their_products(monkeypatch):
    """A layer that PyTorch computes by one kernel: its graph by torch.export shows the products."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.ones(3, 5, 16)
    (whole,) = works_of(nn.Sequential(layer), [x], monkeypatch)
    parts = works_of(torch.export.export(layer, (x,)).module(), [x], monkeypatch)
    assert whole.work.flops == sum(node.work.flops for node in parts) > 0
    (whole,) = works_of(nn.Sequential(nn.LSTM(16, 8, batch_first=True)), [x], monkeypatch)
    assert whole.work.flops == 2 * 3 * 5 * 4 * 8 * (16 + 8)  # gates of 8, from 16 and 8 numbers
    assert torch.backends.mha.get_fastpath_enabled()


def test_layers_of_the_same_shape_are_cells_of_their_own():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    x = torch.ones(1, 4)
    graph = from_fx(torch.export.export(module, (x,)).module(), [x]).graph
    assert [cell.param_bytes for cell in graph.cells] == [80, 80]


def test_statistics_of_a_module_in_training_stay_as_they_are():
    module = Branches().train()
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    from_fx(module, [torch.randn(4, 8)])
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())


def test_a_submodule_called_with_other_shapes_is_another_cell():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(x), self.layer(x[:1])

    cells = [task.cell for task in from_fx(Twice(), [torch.ones(2, 3)]).graph.tasks()]
    assert cells == ["layer", "layer[1x3]"]


def test_own_durations_come_first():
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    found = from_fx(module, [torch.ones(1, 2)], SHEET, durations={"_0": {"cpu:0": 3}})
    assert found.graph.tasks()[0].duration_ns == {"cpu:0": 3}
    assert set(found.graph.tasks()[1].duration_ns) == set(SHEET.cluster.names)


def test_the_graph_is_scheduled_and_simulated():
    graph = from_fx(Branches().eval(), [torch.ones(4, 8)], SHEET).graph
    outcome = run(SimBackend(SHEET), GraphWorkload(graph), make_scheduler("heft"))
    assert outcome.trace.makespan_ns > 0
    assert len(outcome.trace.launches) == len(graph)


def test_what_cannot_be_traced_or_run_is_one_clear_error():
    class Dynamic(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(GraphError, match=r"cannot trace Dynamic: .*GraphModule that you traced"):
        from_fx(Dynamic(), [torch.ones(2)])
    with pytest.raises(GraphError, match="cannot be run with these inputs: mat1 and mat2"):
        from_fx(nn.Sequential(nn.Linear(2, 2)), [torch.ones(1, 3)])
    with pytest.raises(GraphError, match="cannot be run with these inputs"):
        from_fx(fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2))), [])
