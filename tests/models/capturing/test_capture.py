"""Capture of small modules: what becomes a task, what is learnt, what is refused."""

import copy
import gc
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import dynpartition
from dynpartition import Arguments
from dynpartition.errors import InputError, ModelError
from dynpartition.models import ModelInput, run_eagerly
from dynpartition.models.capturing import values
from dynpartition.models.capturing.cells import Batched
from dynpartition.models.check import agrees


class Double(nn.Module):
    def forward(self, x, note=None):
        return x * 2


class Net(nn.Module):
    """`code` is its forward; `cell` doubles, `other` is linear."""

    def __init__(self, code):
        super().__init__()
        self.code = code
        self.cell = Double()
        self.other = nn.Linear(3, 3)
        self.outside = nn.Linear(3, 3)

    def forward(self, *args, **kwargs):
        return self.code(self, *args, **kwargs)


def captured(code, cells=("cell", "other")):
    return dynpartition.capture(Net(code).eval(), cells=list(cells))


def checked(model, sample):
    answer = run_eagerly(ModelInput(model, sample))
    assert agrees(answer, model.eager(sample))
    return answer


def cells_of(model, sample):
    return [task.cell for task in ModelInput(model, sample).graph.tasks()]


def in_autocast(net, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return net.other(x)


def written_twice(y):
    y.view(-1).add_(1)
    return y


ROW = torch.tensor([[1.0, -2.0, 0.5]])


def test_calls_of_cells_are_tasks_and_glue_is_part_of_them():
    model = captured(lambda net, x: net.other(F.relu(net.cell(x)) + 1))
    assert cells_of(model, ROW) == ["cell", "other"]
    checked(model, ROW)


def test_the_last_glue_is_a_task_unless_it_only_puts_together():
    computing = captured(lambda net, x: net.cell(x).softmax(-1))
    joining = captured(lambda net, x: torch.cat([net.cell(x), net.cell(x + 1)]))
    assert cells_of(computing, ROW) == ["cell", "glue"]
    assert cells_of(joining, ROW) == ["cell", "cell"]
    checked(computing, ROW)
    checked(joining, ROW)


def test_weights_outside_of_cells_are_those_of_glue():
    model = captured(lambda net, x: net.other(net.outside(net.cell(x))))
    assert cells_of(model, ROW) == ["cell", "glue", "other"]
    assert {c.name: c.param_bytes for c in model.graph_cells}["glue"] == 48
    checked(model, ROW)


def test_a_value_that_python_needs_reveals_what_follows():
    def code(net, x):
        y = net.cell(x)
        side = net.other(x)
        return (net.other(y), "up") if y.sum() > 0 else (side, "down")

    model = captured(code)
    up, down = ModelInput(model, ROW.abs()), ModelInput(model, -ROW.abs())
    assert [t.revealed_by for t in up.graph.tasks()] == [None, None, 0]
    assert [t.cell for t in down.graph.tasks()] == ["cell", "other", "glue"]
    assert checked(model, ROW.abs())[1] == "up" and checked(model, -ROW.abs())[1] == "down"


def test_nothing_after_an_early_exit_is_a_task():
    def code(net, x):
        for depth in range(5):
            x = net.other(x)
            if bool(x[0, 0] > 100) or depth == int(net.limit):
                return x
        return x

    model = captured(code)
    for limit in range(5):
        model.module.limit = limit
        assert cells_of(model, ROW).count("other") == limit + 1


@pytest.mark.parametrize(
    "force",
    [
        lambda y: y.sum().item() > 0,
        lambda y: bool((y > 0).any()),
        lambda y: float(y[0, 0]) > 0,
        lambda y: int(y.argmax()) == 0,
        lambda y: y.tolist()[0][0] > 0,
        lambda y: 2.0 in y,
        lambda y: y.numpy()[0, 0] > 0,
        lambda y: torch.equal(y, y.abs()),
        lambda y: len(y.nonzero()) > 2,
        lambda y: f"{y[0, 0]:.1f}" == "2.0",
        lambda y: [1, 2, 3][y.argmin()] == 2,
        lambda y: y[y > 0].numel() == 2,
        lambda y: not (y < 0).all(),
        lambda y: max(y[0, 0], y[0, 1]) > 1,
        lambda y: y.sum() > y.mean() and y.max() == 2,
    ],
)
def test_whatever_python_needs_is_forced(force):
    model = captured(lambda net, x: net.other(x) if force(net.cell(x)) else net.cell(x))
    assert ModelInput(model, ROW).graph.revealers
    checked(model, ROW)
    checked(model, -ROW)


def test_shapes_types_and_printing_force_nothing():
    def code(net, x):
        y = net.cell(x)
        facts = (y.shape, len(y), y.dim(), y.dtype, y.device.type, y.size(-1), y.numel(), y.ndim)
        text = f"{y} {y!r}"
        assert "not computed" in text and "(1, 3)" in text
        assert isinstance(y, torch.Tensor) and not y.requires_grad and not y.is_cuda
        return net.other(y) if facts[0][1] == 3 else None

    model = captured(code)
    run = model.start(ROW)
    assert [task.reveals for task in run.opening()] == [False, False]


def test_a_cell_may_return_structures_and_take_plain_values():
    class Pair(nn.Module):
        def forward(self, x, *, scale=1.0, flip=False):
            low, high = x.chunk(2, dim=1)
            return {"parts": (low * scale, high.long()), "flipped": flip, "none": None}

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            made = self.pair(x, scale=0.5, flip=True)
            low, high = made["parts"]
            assert made["flipped"] and made["none"] is None
            again = self.pair(torch.cat([low, high.float()], 1))
            return again["parts"][0], high

    model = dynpartition.capture(Outer().eval(), cells=[Pair])
    answer = checked(model, torch.randn(2, 4) * 5)
    assert answer[1].dtype == torch.int64


def test_loops_over_rows_and_reused_values():
    def code(net, x):
        rows = [net.other(row.unsqueeze(0)) for row in net.cell(x)]
        return torch.stack(rows).sum(0), rows[0]

    checked(captured(code), torch.randn(4, 3))


def test_long_chains_of_glue_are_cut():
    def code(net, x):
        total = net.cell(x)
        for step in range(200):
            total = total * 0.99 + step
        return net.other(total)

    model = captured(code)
    graph = ModelInput(model, ROW).graph
    assert 20 < len(graph) < 40
    checked(model, ROW)


def test_writing_in_place_to_own_tensors_works():
    def code(net, x):
        y = net.cell(x)
        blank = torch.zeros(2, 3)
        blank[0] = y[0]
        blank[1] += net.other(y)[0]
        y += 1
        y.mul_(2)
        F.relu(y, inplace=True)
        return net.cell(blank), y

    checked(captured(code), ROW)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (lambda net, x: x.add_(net.cell(x)), "that the model was given"),
        (lambda net, x: written_twice(net.cell(x)), "shares its memory"),
        (lambda net, x: net.cell(x, net), "a value of type Net"),
        (lambda net, x: net.outside.weight.data.add_(net.cell(x)), "weight"),
        (lambda net, x: torch.rand_like(net.cell(x)), "random"),
        (lambda net, x: F.dropout(net.cell(x)), "training mode"),
        (lambda net, x: net.cell(x).requires_grad_(), "nothing is trained"),
        (lambda net, x: copy.deepcopy(net.cell(x)), "cannot be copied"),
        (lambda net, x: net.cell(x).data_ptr(), "no memory"),
        (lambda net, x: net.cell(x, {1}), "neither a tensor nor a plain"),
        (lambda net, x: x + 1, "called none of its cells"),
        (in_autocast, "autocast is on"),
    ],
)
def test_what_cannot_be_captured_is_refused(code, message):
    model = captured(code)
    with pytest.raises(ModelError, match=message):
        model.start(ROW.clone()).opening()


def test_a_tensor_that_changes_before_its_task_runs_is_refused():
    def code(net, x):
        state = torch.zeros(1, 3)
        y = net.cell(state)
        state += 1
        return y

    with pytest.raises(ModelError, match="was written to in place after"):
        captured(code).start(ROW).opening()


class Writes(nn.Module):
    def forward(self, x):
        return x.mul_(2).clone()


class Aliases(nn.Module):
    def forward(self, x):
        return x.view(-1)


class Draws(nn.Module):
    def forward(self, x):
        return x + torch.rand(3)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + 1


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(1, 3))

    def forward(self, x):
        self.last.copy_(x)
        return x + 1


class Reads(nn.Module):
    def forward(self, x):
        return x + 1, x.sum().item()


class Returns(nn.Module):
    def forward(self, x):
        return "nothing"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Writes, "writes to its arguments"),
        (Aliases, "returns memory of its arguments"),
        (Draws, "draws random numbers"),
        (Counts, r"changes its own state \(calls\)"),
        (Keeps, r"changes its own state \(last\)"),
        (Reads, "returns plain numbers"),
        (Returns, "returns no tensor"),
    ],
)
def test_cells_that_cannot_be_tasks_are_refused(kind, message):
    model = dynpartition.capture(nn.Sequential(kind()).eval(), cells=["0"])
    with pytest.raises(ModelError, match=f"cell 0 .*{message}|cell 0 {message}"):
        model.start(ROW.clone()).opening()


class Disturbed(nn.Module):
    """Draws nothing, while another thread does."""

    def forward(self, x):
        other = threading.Thread(target=torch.rand, args=(3,))
        other.start()
        other.join()
        return x + 1


def test_what_other_threads_draw_is_not_the_cells_doing():
    model = dynpartition.capture(nn.Sequential(Disturbed()).eval(), cells=["0"])
    assert len(model.start(ROW.clone()).opening()) == 1


def test_training_mode_hooks_and_unknown_cells_are_refused():
    net = Net(lambda net, x: net.cell(x))
    with pytest.raises(ModelError, match="training mode"):
        dynpartition.capture(net, cells=["cell"])
    net.eval()
    with pytest.raises(ModelError, match="did you mean 'cell'"):
        dynpartition.capture(net, cells=["cel"])
    with pytest.raises(ModelError, match="no cells are named"):
        dynpartition.capture(net, cells=[])
    model = dynpartition.capture(net, cells=["cell"])
    net.train()
    with pytest.raises(ModelError, match="training mode"):
        model.start(ROW)
    net.eval()
    net.other.register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match="forward hooks"):
        dynpartition.capture(net, cells=["other"])


def test_gradients_are_refused():
    model = captured(lambda net, x: net.cell(x))
    with pytest.raises(InputError, match="requires gradients"):
        model.start(ROW.clone().requires_grad_())


def test_cells_are_found_by_path_class_and_object():
    net = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU())).eval()

    def names(*cells):
        return [name for name in dynpartition.capture(net, cells=cells).cells if name != "glue"]

    assert names("0") == ["0"]
    assert names("1.*") == ["1.0", "1.1"]
    assert names(nn.Linear) == ["0", "1.0"]
    assert names(net[1]) == ["1"]
    assert names("0", net[1][0], nn.ReLU) == ["0", "1.0", "1.1"]


def test_of_cells_inside_each_other_the_outer_one_counts():
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3)).eval()
    model = dynpartition.capture(net, cells=["0", "0.0", "1"])
    assert cells_of(model, ROW) == ["0", "1"]
    assert len(model.weights()) > 0
    checked(model, ROW)


def test_user_code_runs_as_ever_when_nothing_is_captured():
    net = Net(lambda net, x: net.other(net.cell(x))).eval()
    expected = net(ROW)
    model = dynpartition.capture(net, cells=["cell", "other"])
    torch.testing.assert_close(net(ROW), expected)
    assert net(ROW).requires_grad
    copied = copy.deepcopy(net)
    torch.testing.assert_close(copied(ROW), expected)
    copied.other.weight.data.zero_()
    torch.testing.assert_close(net(ROW), expected)
    other = dynpartition.capture(net, cells=["other"])
    assert cells_of(model, ROW) == ["cell", "other"] and cells_of(other, ROW) == ["other"]


def test_several_arguments_and_objects_as_samples():
    def code(net, x, *, times):
        for _ in range(times["n"]):
            x = net.other(x)
        return x

    model = captured(code)
    sample = Arguments(ROW, times={"n": 3})
    assert cells_of(model, sample) == ["other"] * 3
    checked(model, sample)
    assert model.digest(sample) == model.digest(Arguments(ROW.clone(), times={"n": 3}))
    assert model.digest(sample) != model.digest(Arguments(ROW, times={"n": 2}))
    with pytest.raises(InputError, match="cannot be read"):
        model.digest(lambda: 0)


def test_errors_of_the_model_reach_the_caller():
    model = captured(lambda net, x: net.cell(x) + torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="size of tensor"):
        run_eagerly(ModelInput(model, ROW))
    broken = captured(lambda net, x: net.other(torch.zeros(1, 7)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        broken.start(ROW).opening()


@pytest.mark.parametrize("is_cycle", [False, True])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_a_run_that_nobody_wants_changes_no_mode_of_the_thread(mode, is_cycle):
    """Its code stands still inside of modes of its own, whenever it is collected."""

    def code(net, x):
        with torch.inference_mode(), torch.enable_grad():
            return x if bool(net.cell(x).sum() > -1e9) else -x

    model = captured(code)
    run = model.start(ROW)
    run.opening()
    if is_cycle:
        run.itself = run
    with mode():
        before = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        del run
        gc.collect()
        assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == before
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


def test_modes_of_the_thread_are_kept_on_both_sides():
    def code(net, x):
        with torch.enable_grad():
            y = net.cell(x)
            assert torch.is_grad_enabled() and bool(y.sum() > -1e9) and torch.is_grad_enabled()
        with torch.inference_mode():
            z = net.other(y)
            assert bool(z.sum() > -1e9) and torch.is_inference_mode_enabled()
        return net.cell(z)

    model = captured(code)
    run = model.start(ROW)
    tasks, told = run.opening(), 0
    while any(task.reveals for task in tasks):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        number = next(n for n, task in enumerate(tasks) if task.reveals)
        first, told = told, told + len(tasks)
        tasks = run.expand(first + number, torch.ones(1, 3))
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_an_unfinished_run_can_be_dropped():
    left = []

    def code(net, x):
        try:
            return net.cell(x) if bool(net.cell(x).sum() > 0) else x
        finally:
            left.append(1)

    model = captured(code)
    run = model.start(ROW)
    run.opening()
    del run
    assert left == [1]


def test_each_kind_of_call_is_learnt_once():
    calls = []

    class Noted(nn.Module):
        def forward(self, x):
            calls.append(tuple(x.shape))
            return x + 1

    model = dynpartition.capture(nn.Sequential(Noted()).eval(), cells=["0"])
    for size in (1, 2, 1, 2, 3):
        model.start(torch.zeros(size, 3)).opening()
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_cell_that_refuses_random_numbers_is_learnt_from_real_ones():
    class Picky(nn.Module):
        def forward(self, x):
            if not bool((x > 0).all()):
                raise ValueError("positive numbers only")
            return x.log()

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.picky = Double(), Picky()

        def forward(self, x):
            return self.picky(self.twice(x) + 1)

    model = dynpartition.capture(Outer().eval(), cells=[Double, Picky])
    checked(model, ROW.abs())


def test_inputs_survive_a_pickle():
    model = dynpartition.capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), cells=["0"])
    item = ModelInput(model, ROW)
    again = pickle.loads(pickle.dumps(item))
    assert again.graph.digest == item.graph.digest
    assert agrees(run_eagerly(again), run_eagerly(item))


def test_what_is_remembered_is_bounded_and_learnt_again(monkeypatch):
    from dynpartition.models.capturing import cells, recorder, stage

    for module, name in (
        (stage, "PATTERNS_MAX"),
        (recorder, "CALLINGS_MAX"),
        (cells, "VARIANTS_MAX"),
    ):
        monkeypatch.setattr(module, name, 3)
    model = captured(lambda net, x: net.other(net.cell(x) * x.shape[0] + 1).sum(0))
    for size in (1, 2, 3, 4, 5, 1, 2, 6):
        checked(model, torch.randn(size, 3))
    assert len(model.patterns) <= 4 and len(model.callings) <= 4
    assert all(len(cell._variants) <= 3 for cell in model.cells.values())


def test_ways_to_run_batches_are_remembered_of_so_many_shapes(monkeypatch):
    monkeypatch.setattr("dynpartition.models.capturing.cells.WAYS_MAX", 3)
    double = Batched(lambda row: [row[0] * 2])
    for width in range(1, 9):
        columns = [torch.ones(2, width)]
        assert torch.equal(double(columns)[0], columns[0] * 2)
        assert 1 <= len(double._ways) <= 3


def test_shapes_that_threads_meet_at_once_have_numbers_of_their_own(monkeypatch):
    monkeypatch.setattr(values, "_CODES", {})
    monkeypatch.setattr(values, "CODES_MAX", 500)
    barrier, found = threading.Barrier(4), [{} for _ in range(4)]

    def meet(known, first):
        barrier.wait()
        for size in range(first, first + 400):
            known[size] = values.code_of((size,), torch.float32)

    threads = [
        threading.Thread(target=meet, args=(known, 200 * at)) for at, known in enumerate(found)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sizes = {code: size for known in found for size, code in known.items()}
    assert all(sizes[code] == size for known in found for size, code in known.items())
    assert len(values._CODES) <= 503  # each thread may add one more
