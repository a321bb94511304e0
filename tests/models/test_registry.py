"""What holds for every registered model."""

import pickle

import pytest
import torch

from dynpartition.errors import CheckpointError, ModelError
from dynpartition.graph import TaskGraph
from dynpartition.models import (
    MODELS,
    ModelInput,
    build_model,
    check_model,
    generate_inputs,
    run_eagerly,
)
from dynpartition.models.check import agrees

SMALL = {
    "treelstm": {"input_dim": 12, "hidden_dim": 8},
    "mathfunc": {"width": 16, "work": 2},
    "moe": {"width": 16, "heads": 2, "experts": 3, "chunk_tokens": 4},
    "earlyexit": {"width": 16, "blocks": 4},
    "layerskip": {"width": 16, "layers": 4},
    "refine": {"width": 12},
    "resnet50": {"width": 2, "image": 32, "images": 3, "micro_batch": 2, "classes": 4},
    "sequence": {"width": 8, "vocabulary": 30},
    "softmoe": {"width": 8, "tokens": 5, "experts": 3},
}
REVEALING = {"moe", "earlyexit", "layerskip", "refine"}

every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_model(name, seed=0):
    return build_model(name, SMALL[name], seed)


@every_model
def test_model_keeps_its_contract(name):
    model = small_model(name)
    check_model(model, model.generate(20, 3, model.config))


@every_model
def test_model_of_default_size_keeps_its_contract(name):
    model = build_model(name)
    check_model(model, MODELS[name].generate(2, 5))


@every_model
def test_tasks_node_by_node_equal_eager(name):
    model = small_model(name, seed=1)
    for item in generate_inputs(model, 40, seed=2):
        expected = model.eager(item.sample)
        assert agrees(run_eagerly(item), expected)


@every_model
def test_graph_is_valid_and_has_all_tasks(name):
    for item in generate_inputs(small_model(name), 10, seed=4):
        graph = item.graph
        checked = TaskGraph.from_tasks(graph.name, graph.cells, graph.tasks())
        assert checked.digest == graph.digest
        assert graph.topological_order == tuple(range(len(graph)))
        assert graph.returns.any()
        assert graph is item.graph


@every_model
def test_only_models_with_reveals_run_cells_for_their_graph(name):
    model = small_model(name)
    calls = []
    for cell in model.cells.values():
        cell.register_forward_hook(lambda *_: calls.append(1))
    (item,) = generate_inputs(model, 1, seed=0)
    assert bool(item.graph.revealers) == bool(calls) == (name in REVEALING)


@every_model
def test_weights_travel_as_bytes(name):
    source, target = small_model(name, seed=1), small_model(name, seed=2)
    (item,) = generate_inputs(source, 1, seed=0)
    target.load_weights(source.weights())
    torch.testing.assert_close(
        target.eager(item.sample), source.eager(item.sample), rtol=0.0, atol=0.0
    )
    assert target.weights() == source.weights()


@every_model
def test_spec_builds_the_model_again(name):
    model = small_model(name, seed=3)
    spec = model.spec()
    again = build_model(spec.name, spec.config, seed=3)
    assert again.weights() == model.weights()
    assert again.graph_cells == model.graph_cells


@every_model
def test_seed_alone_decides_weights_and_global_state_stays(name):
    before = torch.get_rng_state()
    first = small_model(name, seed=5).weights()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert small_model(name, seed=5).weights() == first


@every_model
def test_samples_follow_from_seed_and_index(name):
    entry, model = MODELS[name], small_model(name)
    some, more = (entry.generate(n, 9, SMALL[name]) for n in (3, 6))
    digests = [item.digest for item in entry.inputs(model, more)]
    assert [item.digest for item in entry.inputs(model, some)] == digests[:3]
    assert len(set(digests)) == 6


@every_model
def test_parameters_are_frozen(name):
    model = small_model(name)
    modules = model.cells.values()
    assert not any(p.requires_grad for module in modules for p in module.parameters())
    assert not any(module.training for module in modules)


@every_model
def test_inputs_survive_a_pickle(name):
    (item,) = generate_inputs(small_model(name), 1, seed=0)
    copy = pickle.loads(pickle.dumps(item))
    assert isinstance(copy, ModelInput)
    assert copy.graph.digest == item.graph.digest


@every_model
def test_param_bytes_are_those_of_the_weights(name):
    model = small_model(name)
    total = sum(cell.param_bytes for cell in model.graph_cells)
    n_tensors = sum(len(cell.state_dict()) for cell in model.cells.values())
    assert total <= len(model.weights()) <= total + 1000 + 200 * n_tensors


def test_unknown_model_suggests_a_near_one():
    with pytest.raises(ModelError, match="no model is named 'treelstn'; did you mean 'treelstm'"):
        build_model("treelstn")


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_unusable_seed(seed):
    with pytest.raises(ModelError, match=f"seed {seed} cannot be used"):
        build_model("mathfunc", seed=seed)
    with pytest.raises(ModelError, match="cannot be used"):
        MODELS["treelstm"].generate(1, seed)


def test_weights_of_other_sizes_are_refused_as_a_whole():
    model, other = small_model("treelstm"), build_model("treelstm", {"hidden_dim": 5})
    before = model.weights()
    with pytest.raises(CheckpointError, match=r"weight 'leaf/gates\.weight' is"):
        model.load_weights(other.weights())
    assert model.weights() == before
