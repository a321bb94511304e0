"""Whether workers are processes or threads follows from what the interpreter's lock costs."""

import os
import threading

import pytest
import torch

from dynpartition.errors import InputError
from dynpartition.hardware import locking
from dynpartition.hardware.locking import CellLock, choose_workers, measure_locks
from dynpartition.models import build_model, generate_inputs


@pytest.fixture(scope="module")
def tree_inputs():
    return generate_inputs(build_model("treelstm", {"input_dim": 8, "hidden_dim": 4}), 2, seed=1)


def test_every_cell_is_measured_and_counted(tree_inputs, two_threads):
    settings = (torch.get_num_threads(), os.sched_getaffinity(0), threading.active_count())
    cells = {cell.cell: cell for cell in measure_locks(tree_inputs)}
    assert (torch.get_num_threads(), os.sched_getaffinity(0), threading.active_count()) == settings
    assert set(cells) == {"leaf", "composer", "output"}
    for name, cell in cells.items():
        graphs = [one.graph for one in tree_inputs]
        number = [c.name for c in graphs[0].cells].index(name)
        assert cell.calls == sum((graph.cell_of == number).sum() for graph in graphs)
        assert cell.alone_ns > 0
        assert 0 <= cell.lock_share < 1


def test_revealed_tasks_are_counted_too():
    model = build_model("moe", {"width": 16, "heads": 2, "experts": 2})
    inputs = generate_inputs(model, 1, seed=3)
    assert sum(cell.calls for cell in measure_locks(inputs)) == len(inputs[0].graph)


@pytest.mark.parametrize(
    ("alone_us", "beside_us", "workers", "loss"),
    [
        (50, 100, "processes", 1.6),  # the lock
        (100, 100, "processes", 0.3),  # waking up
        (5000, 5050, "threads", 0.016),
        (5000, 4000, "threads", 0.006),  # noise is no gain
    ],
)
def test_threads_have_to_pay(tree_inputs, monkeypatch, alone_us, beside_us, workers, loss):
    cell = CellLock("cell", 10, alone_us * 1000, beside_us * 1000)
    monkeypatch.setattr(locking, "measure_locks", lambda inputs: [cell])
    monkeypatch.setattr(locking, "available_cores", lambda: [0, 1])
    choice = choose_workers(tree_inputs)
    assert choice.workers == workers
    assert choice.loss == pytest.approx(loss)
    assert choice.lock_share == max(0, 1 - alone_us / beside_us)
    assert str(choice).startswith(f"{workers}: ")
    monkeypatch.setattr(locking, "available_cores", lambda: [0])
    assert choose_workers(tree_inputs).workers == "processes"


def test_inputs_are_needed():
    with pytest.raises(InputError, match="give at least one"):
        choose_workers([])
