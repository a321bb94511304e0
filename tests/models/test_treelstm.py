import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition.models import ModelInput, build_model, read_tree, run_eagerly
from dynpartition.models.treelstm import word_vector, word_vectors
from dynpartition.models.trees import generate_trees

H = 6


@pytest.fixture(scope="module")
def model():
    return build_model("treelstm", {"input_dim": 10, "hidden_dim": H, "classes": 4}, seed=1)


def rows(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_tasks_are_in_post_order_with_the_output_after_each_node(model):
    r"""
         4                tasks 8, 9
        / \
       2   3 c            tasks 4, 5 and 6, 7
      / \
    0 a 1 b               tasks 0, 1 and 2, 3
    """
    graph = ModelInput(model, read_tree("(9 (8 (1 a) (2 b)) (3 c))")).graph
    assert [graph.cell_name(task) for task in range(0, 10, 2)] == [
        *("leaf", "leaf", "composer", "leaf", "composer")
    ]
    assert graph.input_lists == ((), (0,), (), (2,), (0, 2), (4,), (), (6,), (4, 6), (8,))
    assert graph.returns.tolist() == [0, 1] * 5
    assert graph.host_bytes.tolist() == [40, 0, 40, 0, 0, 0, 40, 0, 0, 0]
    assert graph.output_bytes.tolist() == [2 * H * 4, 4 * 4] * 5


def test_answer_has_a_distribution_for_every_node(model):
    tree = read_tree("(9 (8 (1 a) (2 b)) (3 c))")
    answer = run_eagerly(ModelInput(model, tree))
    assert answer.shape == (5, 4)
    assert torch.allclose(answer.exp().sum(1), torch.ones(5))
    assert torch.equal(answer[0], run_eagerly(ModelInput(model, read_tree("(0 a)")))[0])


def test_leaf_follows_its_equations(model):
    leaf, x = model.cells["leaf"], rows(5, 10)
    w_i, w_o, w_u = leaf.gates.weight.split(H)
    b_i, b_o, b_u = leaf.gates.bias.split(H)
    c = torch.sigmoid(x @ w_i.T + b_i) * torch.tanh(x @ w_u.T + b_u)
    h = torch.sigmoid(x @ w_o.T + b_o) * torch.tanh(c)
    torch.testing.assert_close(leaf(x), torch.cat([h, c], 1), rtol=1e-4, atol=1e-5)


def test_composer_follows_tai_et_al_2015_equations_9_to_14(model):
    composer, left, right = model.cells["composer"], rows(5, 2 * H), rows(5, 2 * H).flip(0)
    h = torch.cat([left[:, :H], right[:, :H]], 1)
    gates = [
        h @ w.T + b
        for w, b in zip(composer.gates.weight.split(H), composer.gates.bias.split(H), strict=True)
    ]
    i, f_l, f_r, o = (torch.sigmoid(gate) for gate in gates[:4])
    c = i * torch.tanh(gates[4]) + f_l * left[:, H:] + f_r * right[:, H:]
    expected = torch.cat([o * torch.tanh(c), c], 1)
    torch.testing.assert_close(composer(left, right), expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_children_matters(model):
    first, second = (
        model.eager(read_tree(text)) for text in ("(0 (0 a) (0 b))", "(0 (0 b) (0 a))")
    )
    assert not torch.allclose(first[-1], second[-1])


def test_labels_do_not_change_the_answer(model):
    first, second = (
        model.eager(read_tree(text)) for text in ("(0 (0 a) (0 b))", "(1 (2 a) (1 b))")
    )
    assert torch.equal(first, second)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_tasks_equal_eager_on_any_tree(model, seed):
    (tree,) = generate_trees(1, seed)
    expected = model.eager(tree)
    torch.testing.assert_close(run_eagerly(ModelInput(model, tree)), expected, rtol=1e-4, atol=1e-5)


def test_word_vectors_follow_from_the_word():
    vector = word_vector("film", 300)
    assert vector[:3].tolist() == pytest.approx([1.161923, -0.428334, -0.188775], abs=1e-6)
    assert torch.equal(vector, word_vector("film", 300))
    assert not torch.equal(vector, word_vector("films", 300))
    assert torch.equal(vector[:10], word_vector("film", 10))


def test_word_vectors_have_mean_0_and_variance_1():
    vectors = torch.stack([word_vector(f"w{i}", 300) for i in range(200)])
    assert vectors.mean().item() == pytest.approx(0, abs=0.02)
    assert vectors.var().item() == pytest.approx(1, abs=0.02)


def test_word_vectors_at_once_are_those_one_by_one(monkeypatch):
    monkeypatch.setattr("dynpartition.models.treelstm.VOCABULARY_MAX", 400)
    for first in range(0, 2000, 150):  # known and new words, and more than are kept
        words = [f"w{number % 700}" for number in range(first, first + 300)] + ["w1", "w1"]
        with torch.inference_mode(mode=first % 4 == 0):
            vectors = word_vectors(words, 5, torch.float64)
        expected = torch.stack([word_vector(word, 5, torch.float64) for word in words])
        assert torch.equal(vectors, expected)
    assert word_vectors([], 5, torch.float64).shape == (0, 5)
