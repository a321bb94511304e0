from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition.errors import InputError
from dynpartition.models.tree_files import read_tree, read_trees
from dynpartition.models.trees import ParseTree, TreeBuilder, generate_trees

TREEBANK = (
    Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "sst_trees_dev_part1.txt"
)


def sizes_and_depths(trees):
    return np.array([len(tree) for tree in trees]), np.array([tree.depth for tree in trees])


@pytest.fixture(scope="module")
def generated():
    return generate_trees(2_000, seed=0)


def test_generated_trees_have_the_treebanks_sizes(generated):
    nodes, _ = sizes_and_depths(generated)
    assert nodes.mean() == pytest.approx(38, abs=1.5)
    assert np.median(nodes) == pytest.approx(37, abs=2)
    assert np.percentile(nodes, [5, 95]) == pytest.approx([11, 68], abs=3)
    assert nodes.min() >= 3
    assert nodes.max() <= 93


def test_generated_trees_have_the_treebanks_depths(generated):
    nodes, depths = sizes_and_depths(generated)
    assert depths.mean() == pytest.approx(10, abs=0.5)
    assert depths.std() == pytest.approx(3.3, abs=0.5)
    assert 20 <= depths.max() <= 28
    assert np.corrcoef(nodes, depths)[0, 1] == pytest.approx(0.8, abs=0.06)


def test_words_follow_zipf(generated):
    words = [word for tree in generated for word in tree.words if word]
    names, counts = np.unique(words, return_counts=True)
    share = dict(zip(names, counts / len(words), strict=True))
    assert share["w0"] == pytest.approx(0.053, abs=0.006)
    assert share["w0"] / share["w8"] == pytest.approx(5, rel=0.25)


def test_the_treebank_itself():
    if not TREEBANK.exists():
        pytest.skip("the treebank's file is not beside this checkout")
    trees = read_trees(TREEBANK)
    nodes, depths = sizes_and_depths(trees)
    assert len(trees) == 500
    assert nodes.mean() == pytest.approx(38, abs=1)
    assert (np.median(nodes), nodes.max()) == (37, 91)
    assert depths.mean() == pytest.approx(9.93, abs=0.01)
    lines = TREEBANK.read_text(encoding="utf-8").split("\n")
    assert [tree.text for tree in trees] == [line.strip() for line in lines if line.strip()]


def test_a_tree_is_numbered_in_post_order():
    r"""
         4
        / \
       2   3 c
      / \
    0 a 1 b
    """
    tree = read_tree("(9 (8 (1 a) (2 b)) (3 c))")
    assert tree.labels == (1, 2, 8, 3, 9)
    assert tree.words == ("a", "b", "", "c", "")
    assert (tree.left, tree.right) == ((-1, -1, 0, -1, 2), (-1, -1, 1, -1, 3))
    assert (tree.root, tree.depth, len(tree)) == (4, 2, 5)


def test_one_word_is_a_tree_of_depth_zero():
    tree = read_tree("(2 Fine)")
    assert (len(tree), tree.depth) == (1, 0)


@pytest.mark.parametrize(
    ("left", "right"),
    [((-1, -1, 1), (-1, -1, 0)), ((-1, -1), (-1, -1)), ((-1, -1, 5), (-1, -1, 6)), ((), ())],
)
def test_arrays_that_are_no_tree(left, right):
    with pytest.raises(InputError):
        ParseTree((0,) * len(left), ("x",) * len(left), left, right)


def test_digest_reads_words_and_structure_but_no_labels():
    tree = read_tree("(9 (8 (1 a) (2 b)) (3 c))")
    assert read_tree("(0 (0 (0 a) (0 b)) (0 c))").digest == tree.digest
    assert read_tree("(9 (1 a) (8 (2 b) (3 c)))").digest != tree.digest
    assert read_tree("(9 (8 (1 a) (2 b)) (3 d))").digest != tree.digest


@st.composite
def trees(draw):
    words = st.text(alphabet="abc-é'\xa0.", min_size=1, max_size=4)
    builder, made = TreeBuilder(), []
    for word in draw(st.lists(words, min_size=1, max_size=30)):
        made.append(builder.leaf(draw(st.integers(0, 4)), word))
        while len(made) > 1 and draw(st.booleans()):
            right, left = made.pop(), made.pop()
            made.append(builder.inner(draw(st.integers(0, 4)), left, right))
    while len(made) > 1:
        right, left = made.pop(), made.pop()
        made.append(builder.inner(0, left, right))
    return builder.tree()


@settings(deadline=None)
@given(trees())
def test_what_is_written_reads_back(tree):
    assert read_tree(tree.text) == tree
