from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition.errors import InputError, ModelError
from dynpartition.models import ModelInput, build_model, generate_tokens, run_eagerly
from dynpartition.models.interpreter import unfold
from dynpartition.models.moe import routed
from dynpartition.models.moe_cells import Combine

CONFIG = {"width": 16, "heads": 2, "experts": 4, "chunk_tokens": 4, "classes": 5}


@pytest.fixture(scope="module")
def model():
    return build_model("moe", CONFIG, seed=1)


def choice(experts, gates=None):
    gates = gates or [1.0] * len(experts)
    return torch.tensor([[float(e), g] for e, g in zip(experts, gates, strict=True)])


def test_routes_fill_chunks_and_name_the_row_of_every_token():
    """Chunks of 2: expert 0 takes tokens 1 | expert 2 takes 0, 2 and 3."""
    routes, where = routed(choice([2, 0, 2, 2], [0.5, 0.6, 0.7, 0.8]), chunk_tokens=2)
    assert [(e, index.tolist()) for e, index in routes] == [(0, [1, 1]), (2, [0, 2]), (2, [3, 3])]
    assert where[:, 0].tolist() == [2, 0, 3, 4]
    assert where[:, 1].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8])


@settings(deadline=None)
@given(experts=st.lists(st.integers(0, 5), min_size=1, max_size=40), chunk_tokens=st.integers(1, 9))
def test_every_token_finds_the_row_that_its_expert_made(experts, chunk_tokens):
    routes, where = routed(choice(experts), chunk_tokens)
    rows = [(e, token) for e, index in routes for token in index.tolist()]
    assert all(len(index) == chunk_tokens for _, index in routes)
    assert len(routes) == sum(-(-count // chunk_tokens) for count in Counter(experts).values())
    assert [rows[int(row)] for row in where[:, 0]] == [(e, t) for t, e in enumerate(experts)]


def test_combine_drops_the_rows_that_fill_up():
    tokens = torch.zeros(1, 2, 3)
    outputs = [torch.full((1, 2, 3), 7.0), torch.full((1, 2, 3), 9.0)]
    where = torch.tensor([[[2.0, 0.5], [0.0, 2.0]]])
    combined = Combine()(tokens, *outputs, where)
    assert combined[0, :, 0].tolist() == [4.5, 14.0]


def test_opening_and_expansions(model):
    (tokens,) = generate_tokens(1, 0, width=16)
    tasks, revealed_by = unfold(model.cells, model.start(tokens))
    names = [task.cell for task in tasks]
    router = names.index("block1.router")
    assert names[:2] == ["block0.attention", "block0.router"]
    assert names[router - 2 : router + 1] == ["block0.combine", "block1.attention", "block1.router"]
    assert names[-2:] == ["block1.combine", "head"]
    assert revealed_by == [-1, -1] + [1] * (router - 1) + [router] * (len(tasks) - router - 1)
    assert [task.reveals for task in tasks].count(True) == 2
    assert [number for number, task in enumerate(tasks) if task.returns] == [len(tasks) - 1]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40))
def test_tasks_equal_eager_for_any_token_count(model, seed, count):
    (tokens,) = generate_tokens(1, seed, width=16, token_counts=(count,))
    answer = run_eagerly(ModelInput(model, tokens))
    torch.testing.assert_close(answer, model.eager(tokens), rtol=1e-4, atol=1e-5)
    assert answer.shape == (count, 5)


def test_an_expansion_depends_on_the_choice_alone(model):
    first, second = (model.start(tokens) for tokens in generate_tokens(2, 0, width=16))
    made = torch.cat([choice([0, 1, 3, 3] * 8)])
    first.opening(), second.opening()
    shown = [
        [(task.cell, task.inputs, task.output_shape) for task in run.expand(1, made)]
        for run in (first, second)
    ]
    assert shown[0] == shown[1]


def test_what_later_blocks_hold_changes_nothing_revealed_before():
    """Other weights in block 1: the same tasks up to its router."""
    one, other = build_model("moe", CONFIG, seed=1), build_model("moe", CONFIG, seed=1)
    donor = build_model("moe", CONFIG, seed=2)
    for name, cell in other.cells.items():
        if name.startswith("block1"):
            cell.load_state_dict(donor.cells[name].state_dict())
    (tokens,) = generate_tokens(1, 3, width=16)
    graphs = [ModelInput(model, tokens).graph for model in (one, other)]
    until = graphs[0].revealers[1] + 1
    assert graphs[0].tasks()[:until] == graphs[1].tasks()[:until]


def test_what_is_revealed_is_never_seen_before(model):
    (tokens,) = generate_tokens(1, 0, width=16)
    graph = ModelInput(model, tokens).graph
    first, second = graph.revealers
    assert all(graph.gates[task] == () for task in range(2))
    assert all(graph.gates[task] == (first,) for task in range(2, second + 1))
    assert all(graph.gates[task] == (first, second) for task in range(second + 1, len(graph)))


def test_routes_spread_over_experts_and_differ_between_samples():
    model = build_model("moe")
    load, routes = Counter(), set()
    for tokens in generate_tokens(40, 0, width=128):
        names = [task.cell for task in unfold(model.cells, model.start(tokens))[0]]
        load.update(name for name in names if "expert" in name)
        routes.add(tuple(names))
    assert len(load) == 8
    assert max(load.values()) < 2 * min(load.values())
    assert len(routes) > 20


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(4, 8), r"tokens are \(4, 8\); give \(T, 16\)"),
        (torch.zeros(0, 16), "T from 1"),
        (torch.zeros(16), "give"),
        (torch.zeros(4, 16).double(), "not finite; give finite float32"),
        (torch.full((4, 16), float("inf")), "give finite float32"),
    ],
)
def test_unusable_tokens(model, tokens, message):
    with pytest.raises(InputError, match=message):
        model.start(tokens)


def test_width_must_divide_by_heads():
    with pytest.raises(ModelError, match="width 10 is no multiple of heads 4"):
        build_model("moe", {"width": 10})


def test_only_the_awaited_router_expands(model):
    (tokens,) = generate_tokens(1, 0, width=16)
    run = model.start(tokens)
    run.opening()
    with pytest.raises(ModelError, match="task 0 reveals nothing"):
        run.expand(0, torch.zeros(32, 2))
