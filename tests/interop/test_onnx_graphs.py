"""ONNX models as task graphs, against what the same operators do in PyTorch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dynpartition import PricedGraph
from dynpartition.__main__ import main
from dynpartition.errors import DynPartitionError, FileFormatError, GraphError, ProfileError
from dynpartition.formats import load_shipped

onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from dynpartition.interop.onnx_flops import flops_of  # noqa: E402
from dynpartition.interop.onnx_graphs import from_onnx  # noqa: E402

SHEET = load_shipped("datasheet-h100-a100")
FLOAT = TensorProto.FLOAT


def value(name, *shape):
    return helper.make_tensor_value_info(name, FLOAT, shape)


def weight(name, *shape):
    return numpy_helper.from_array(np.ones(shape, dtype=np.float32), name)


def model(nodes, inputs, outputs, weights=(), **extra):
    graph = helper.make_graph(nodes, "small", inputs, outputs, list(weights))
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=extra.pop("opset_imports", opset), **extra)


def mlp(batch: int | str = 4):
    """x ─► Gemm(W1) ─► Relu ─┬─► MatMul(W2) ─► Add ─► y
    └──────────────────┘
    """
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first", transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["m"], name="second"),
        helper.make_node("Identity", ["m"], ["same"]),
        helper.make_node("Add", ["same", "r"], ["y"]),
    ]
    weights = [weight("w1", 8, 16), weight("b1", 8), weight("w2", 8, 8)]
    return model(nodes, [value("x", batch, 16)], [value("y", batch, 8)], weights)


def test_nodes_become_tasks():
    found = from_onnx(mlp(), SHEET)
    assert found.nodes == ("first", "Relu_1", "second", "Add_4")
    tasks = found.graph.tasks()
    assert [task.inputs for task in tasks] == [(), (0,), (1,), (2, 1)]
    assert [task.output_bytes for task in tasks] == [128] * 4
    assert [task.host_bytes for task in tasks] == [4 * 16 * 4, 0, 0, 0]
    assert [task.returns for task in tasks] == [False, False, False, True]
    cells = {cell.name: cell.param_bytes for cell in found.graph.cells}
    assert cells == {
        "first": (8 * 16 + 8) * 4,
        "Relu[4x8,4x8]": 0,
        "second": 8 * 8 * 4,
        "Add[4x8,4x8,4x8]": 0,
    }
    assert (PricedGraph(found.graph, SHEET).task_ns > 0).all()


def test_nodes_that_share_weights_and_sizes_share_a_cell():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="one"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="two"),
        helper.make_node("MatMul", ["b", "v"], ["y"], name="two"),
    ]
    found = from_onnx(
        model(nodes, [value("x", 2, 3)], [value("y", 2, 3)], [weight("w", 3, 3), weight("v", 3, 3)])
    )
    assert found.nodes == ("one", "two", "two_2")
    assert [task.cell for task in found.graph.tasks()] == ["one", "one", "two_2"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_products_count_as_in_pytorch(data):
    """Convolutions and products of drawn sizes, counted by PyTorch's own formulas."""
    number = st.integers(1, 5)
    kind = data.draw(st.sampled_from(["Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum"]))
    a, b, c, d = (data.draw(number) for _ in range(4))
    if kind in ("Conv", "ConvTranspose"):
        groups, stride, kernel = data.draw(number), data.draw(st.integers(1, 2)), (2, 3)
        x = torch.ones(a, groups * b, 6, 7)
        transposed = kind == "ConvTranspose"
        w = torch.ones(*((groups * b, c) if transposed else (groups * c, b)), *kernel)
        run = torch.nn.functional.conv_transpose2d if transposed else torch.nn.functional.conv2d
        attributes = {"group": groups, "strides": [stride, stride]}
        torch_attributes = {"groups": groups, "stride": stride}
        operands = [x, w]
    elif kind == "Gemm":
        flipped = data.draw(st.booleans())
        operands = [torch.ones(b, a) if flipped else torch.ones(a, b), torch.ones(b, c)]
        attributes, torch_attributes = {"transA": int(flipped)}, {}
        run = lambda x, w: (x.T if flipped else x) @ w  # noqa: E731
    elif kind == "MatMul":
        operands = [torch.ones(d, a, b), torch.ones(d, b, c)]
        attributes, torch_attributes, run = {}, {}, torch.matmul
    else:
        # With a size of 1 PyTorch multiplies element by element, which it counts as nothing.
        operands = [torch.ones(d + 1, a + 1, b + 1), torch.ones(d + 1, b + 1, c + 1)]
        attributes, torch_attributes = {"equation": "dij, djk -> dik"}, {}
        run = lambda x, y: torch.einsum("dij,djk->dik", x, y)  # noqa: E731
    counter = FlopCounterMode(display=False)
    with counter:
        made = run(*operands, **torch_attributes)
    names = [f"in{n}" for n in range(len(operands))]
    node = helper.make_node(kind, names, ["out"], name="it", **attributes)
    inputs = [value(name, *t.shape) for name, t in zip(names, operands, strict=True)]
    found = from_onnx(model([node], inputs, [value("out", *made.shape)]))
    assert found.graph.tasks()[0].output_bytes == made.numel() * 4

    class Sizes:
        def shape(self, name, node):
            return tuple((made if name == "out" else operands[int(name[2:])]).shape)

    assert flops_of(node, Sizes(), "it") == counter.get_total_flops()


@pytest.mark.parametrize(("kind", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent_layers_count_every_step(kind, gates):
    steps, batch, width, hidden = 7, 2, 5, 3
    rows = gates * hidden
    weights = [weight("w", 1, rows, width), weight("r", 1, rows, hidden)]
    node = helper.make_node(kind, ["x", "w", "r"], ["y", "last"], name="it", hidden_size=hidden)
    made = model(
        [node], [value("x", steps, batch, width)], [value("last", 1, batch, hidden)], weights
    )
    found = from_onnx(made, SHEET)
    assert found.graph.tasks()[0].output_bytes == (steps + 1) * batch * hidden * 4
    shapes = {"x": (steps, batch, width), "w": (1, rows, width), "r": (1, rows, hidden)}

    class Sizes:
        def shape(self, name, node):
            return shapes.get(name, (1,))

    expected = 2 * steps * batch * gates * (width * hidden + hidden * hidden)
    assert flops_of(node, Sizes(), "it") == expected


def test_symbolic_dimensions_need_sizes():
    with pytest.raises(GraphError, match=r"'first': dimension 'batch' of 'h' .* batch=8 say"):
        from_onnx(mlp("batch"))
    for size in (1, 7):
        graph = from_onnx(mlp("batch"), dims={"batch": size}).graph
        assert graph.output_bytes.tolist() == [size * 8 * 4] * 4
    with pytest.raises(GraphError, match=r"no dimension 'bach'; did you mean 'batch'"):
        from_onnx(mlp("batch"), dims={"bach": 1})
    with pytest.raises(GraphError, match="'batch' is 0; give a number from 1"):
        from_onnx(mlp("batch"), dims={"batch": 0})


@pytest.mark.parametrize(
    ("text", "size"), [("2*n", 6), ("n + 1", 4), ("(n + 3)//2 - 1", 2), ("n*n", 9)]
)
def test_sizes_made_of_symbols_follow_them(text, size):
    """Exporters note such sizes, which inference does not change any more."""
    nodes = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Neg", ["h"], ["y"])]
    made = model(nodes, [value("x", "n", text)], [value("y", "n", text)])
    made.graph.value_info.append(value("h", "n", text))
    graph = from_onnx(made, dims={"n": 3}).graph
    assert graph.output_bytes.tolist() == [3 * size * 4] * 2


def test_sizes_that_are_no_sums_or_products_stay_unknown():
    node = helper.make_node("Relu", ["x"], ["y"])
    for text in (
        "__import__('os')",
        "n.real",
        "n ** 99999999",
        "n // 0",
        "f(n)",
        "n n",
        "1.5*n",
        "n - 5",
    ):
        made = model([node], [value("x", "n", text)], [value("y", "n", text)])
        with pytest.raises(GraphError, match="is not known"):
            from_onnx(made, dims={"n": 3})


def branching():
    """y = If(flag: a + x, else x), where a is a node's output that only the branches read."""
    then = helper.make_graph([helper.make_node("Add", ["a", "x"], ["t"])], "t", [], [value("t", 2)])
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["e"])], "e", [], [value("e", 2)]
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="before"),
        helper.make_node("If", ["flag"], ["y"], name="branch", then_branch=then, else_branch=other),
    ]
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, ())
    return model(nodes, [value("x", 2), flag], [value("y", 2)])


def test_control_flow_needs_durations():
    with pytest.raises(GraphError, match=r"'branch' \(If\) runs other nodes .* give it durations"):
        from_onnx(branching())
    graph = from_onnx(branching(), durations={"branch": {"cpu:0": 70}}).graph
    before, branch = graph.tasks()
    assert branch.duration_ns == {"cpu:0": 70}
    assert branch.inputs == (before.id,)
    assert branch.host_bytes == 1 + 2 * 4  # the flag and x, which only the branches read


def test_functions_of_the_model_are_its_nodes():
    body = [helper.make_node("Relu", ["i"], ["m"]), helper.make_node("Neg", ["m"], ["o"])]
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "ReluNeg", ["i"], ["o"], body, opset[:1])
    node = helper.make_node("ReluNeg", ["x"], ["y"], domain="own")
    made = model(
        [node], [value("x", 3)], [value("y", 3)], functions=[function], opset_imports=opset
    )
    cells = [task.cell for task in from_onnx(made, SHEET).graph.tasks()]
    assert cells == ["Relu[3,3]", "Neg[3,3]"]


def test_what_is_made_of_weights_alone_is_a_weight():
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("Neg", ["t"], ["n"]),
        helper.make_node("MatMul", ["x", "n"], ["y"], name="product"),
    ]
    made = model(nodes, [value("x", 2, 5)], [value("y", 2, 3)], [weight("w", 3, 5)])
    found = from_onnx(made)
    assert found.nodes == ("product",)
    assert [cell.param_bytes for cell in found.graph.cells] == [60]


def test_constants_are_weights_and_operators_unknown_to_onnx_are_refused():
    constant = helper.make_node("Constant", [], ["c"], value=weight("", 3))
    nodes = [constant, helper.make_node("Add", ["x", "c"], ["y"])]
    graph = from_onnx(model(nodes, [value("x", 3)], [value("y", 3)])).graph
    assert [cell.param_bytes for cell in graph.cells] == [12]
    odd = [
        helper.make_node("Odd", ["x"], ["z"], domain="x"),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("x", 1)]
    with pytest.raises(GraphError, match="its size of 'z' is not known; replace the operator"):
        from_onnx(model(odd, [value("x", 3)], [value("y", 3)], opset_imports=opset))


def test_nodes_out_of_order_are_refused():
    nodes = [helper.make_node("Relu", ["h"], ["y"]), helper.make_node("Neg", ["x"], ["h"])]
    made = model(nodes, [value("x", 3)], [value("y", 3)])
    for told in ([], [value("h", 3)]):
        made.graph.value_info.extend(told)
        with pytest.raises(DynPartitionError, match=r"'h'|Nodes in a graph must be topologically"):
            from_onnx(made)


def test_nodes_may_have_the_same_name_and_names_that_look_like_ours():
    names = ["n", "n_2", "n", "n_2", "", "Relu_4", "Relu_6", ""]
    nodes = [
        helper.make_node("Relu", [f"v{k}"], [f"v{k + 1}"], name=name)
        for k, name in enumerate(names)
    ]
    imported = from_onnx(model(nodes, [value("v0", 2)], [value("v8", 2)]))
    assert imported.nodes[:2] == ("n", "n_2")
    assert len(set(imported.nodes)) == len(nodes)
    assert imported.graph.input_lists == ((), *((k,) for k in range(7)))


@pytest.mark.parametrize("kind", ["Gemm", "MatMul", "LSTM"])
def test_shapes_that_an_operator_cannot_have_are_one_clear_error(kind):
    node = helper.make_node(kind, ["x", "w", "w"], ["y"], name="odd")
    lame = model([node], [value("x")], [value("y")], [weight("w")])
    with pytest.raises(DynPartitionError, match=r"odd|no valid ONNX model"):
        from_onnx(lame)


def test_durations_of_nodes_that_there_are_not_are_refused():
    with pytest.raises(GraphError, match="'third', which is no node"):
        from_onnx(mlp(), durations={"third": {"cpu:0": 1}})


@pytest.mark.parametrize("content", [b"", b"\0\1\2", b"{}", b"\x08", bytes(range(256)) * 9])
def test_what_is_no_model_is_one_clear_error(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(DynPartitionError) as caught:
        from_onnx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileFormatError, match=r"no\.onnx: No such file"):
        from_onnx(tmp_path / "no.onnx")


def test_a_profile_that_cannot_price_says_so():
    with pytest.raises(ProfileError, match=r"'first' \(cell first\): the profile cannot price"):
        from_onnx(mlp(), load_shipped("paper-a100"))


def test_commands_take_models(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx.save(mlp("batch"), "m.onnx")
    where = ["--graph", "m.onnx", "--profile", "datasheet-h100-a100"]
    schedule = ["schedule", *where, "--scheduler", "heft", "--json", "p.json"]
    assert main(schedule) == 2
    assert "m.onnx: node 'first': dimension 'batch'" in capsys.readouterr().err
    assert main([*schedule, "--dims", "batch=8"]) == 0
    assert main(["simulate", *where, "--plan", "p.json", "--dims", "batch=8"]) == 0
    assert "4 launches" in capsys.readouterr().out
    for bad, said in (("batch", "write dimensions as"), ("batch=1 batch=2", "given twice")):
        assert main([*schedule, "--dims", *bad.split()]) == 2
        assert said in capsys.readouterr().err


def test_sizes_follow_the_type():
    x = helper.make_tensor_value_info("x", TensorProto.BFLOAT16, (3,))
    y = helper.make_tensor_value_info("y", TensorProto.INT64, (3,))
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)
    task = from_onnx(model([node], [x], [y])).graph.tasks()[0]
    assert (task.host_bytes, task.output_bytes) == (6, 24)


def test_commands_price_models_without_torch(tmp_path):
    onnx.save(mlp(), tmp_path / "m.onnx")
    command = ["schedule", "--graph", "m.onnx", "--profile", "datasheet-h100-a100"]
    code = f"""
import sys
from dynpartition.__main__ import main
assert main({[*command, "--scheduler", "heft"]!r}) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["fixed", "symbolic", "branching"]), st.randoms(use_true_random=False))
def test_a_damaged_model_is_one_clear_error_or_still_a_model(tmp_path_factory, kind, rng):
    made = {"fixed": mlp, "symbolic": lambda: mlp("batch"), "branching": branching}[kind]()
    data = bytearray(made.SerializeToString())
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(3)] = bytes(
            rng.randrange(256) for _ in range(rng.randrange(3))
        )
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(bytes(data))
    try:
        assert len(from_onnx(path, SHEET, dims={"batch": 3} if kind == "symbolic" else None).graph)
    except DynPartitionError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
