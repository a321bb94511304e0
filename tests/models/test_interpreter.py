import pytest
import torch
from torch import nn

from dynpartition.models.interpreter import Interpreter, call_cell, unfold
from dynpartition.models.tasks import ModelRun, NewTask


class Counter(nn.Module):
    """Adds one to the sum of its arguments, and remembers the batch sizes it was called with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, *arguments):
        self.calls.append(len(arguments[0]))
        return sum(arguments) + 1.0


class Chooser(ModelRun):
    """0 ── 1 reveals 2…: as many tasks as its output says, the last of which reveals one more.

    0 ── 3 is needed by no revealing task.
    """

    def __init__(self, value):
        self.value = value

    def opening(self):
        return [
            NewTask(cell="count", output_shape=(1,), host_input=torch.tensor([self.value])),
            NewTask(cell="count", output_shape=(1,), inputs=(0,), reveals=True),
            NewTask(cell="idle", output_shape=(1,), inputs=(0,), returns=True),
        ]

    def expand(self, task, output):
        if task == 1:
            count = int(output.item())
            new = [NewTask(cell="count", output_shape=(1,), inputs=(0,)) for _ in range(count - 1)]
            return [*new, NewTask(cell="count", output_shape=(1,), inputs=(1,), reveals=True)]
        return [NewTask(cell="idle", output_shape=(1,), inputs=(task,), returns=True)]

    def answer(self, outputs):
        return torch.cat([outputs[number] for number in sorted(outputs)])


@pytest.fixture
def cells():
    return {"count": Counter(), "idle": Counter()}


def test_unfolding_runs_only_what_revealing_tasks_need(cells):
    tasks, revealed_by = unfold(cells, Chooser(1.0))
    assert revealed_by == [-1, -1, -1, 1, 1, 1, 5]
    assert [task.cell for task in tasks] == ["count", "count", "idle", *["count"] * 3, "idle"]
    assert len(cells["count"].calls) == 3  # tasks 0, 1 and 5
    assert not cells["idle"].calls


def test_the_number_of_hidden_tasks_follows_the_value(cells):
    assert len(unfold(cells, Chooser(3.0))[0]) == len(unfold(cells, Chooser(1.0))[0]) + 2


def test_one_group_of_equal_shapes_is_one_call():
    cell = Counter()
    rows = [[torch.full((2,), float(i))] for i in range(4)]
    outputs = call_cell(cell, rows)
    assert cell.calls == [4]
    assert [output.tolist() for output in outputs] == [[i + 1.0] * 2 for i in range(4)]


def test_rows_of_different_arity_keep_their_order():
    cell = Counter()
    one = torch.ones(1)
    outputs = call_cell(cell, [[one], [one, one], [one], [one, one, one]])
    assert sorted(cell.calls) == [1, 1, 2]
    assert [output.item() for output in outputs] == [2.0, 3.0, 2.0, 4.0]


def test_missing_is_ascending_and_leaves_out_what_is_known(cells):
    interpreter = Interpreter(cells, Chooser(1.0))
    assert interpreter.missing(1) == [0, 1]
    interpreter.compute([0])
    assert interpreter.missing(1) == [1]
