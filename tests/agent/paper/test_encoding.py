"""Nodes and their encoding, by hand on small graphs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynpartition import Cell, Task, TaskGraph
from dynpartition.agent.paper.encoding import channels, encode, n_columns, position_table
from dynpartition.agent.paper.nodes import node_tree
from dynpartition.agent.synthetic import random_tree, synthetic_workloads
from dynpartition.calibration.paper_trees import paper_graph
from dynpartition.errors import SchedulerError
from dynpartition.models.tree_files import read_tree
from dynpartition.models.trees import generate_trees
from tests.agent.worlds import tree_graph, two_cpus


def graph_of(inputs) -> TaskGraph:
    tasks = [Task(id=n, cell="a", inputs=row, output_bytes=1) for n, row in enumerate(inputs)]
    return TaskGraph.from_tasks("by hand", [Cell("a")], tasks)


def test_a_small_tree_by_hand():
    """In in-order: a, the node above a and b, b, the root, c.

          root
         /    \\
       node    c
       /  \\
      a    b
    """
    tree = node_tree(paper_graph(read_tree("(1 (1 (1 a) (1 b)) (1 c))")))
    assert len(tree) == 5
    # Tasks stand in post-order, a state and its output: a, b, node, c, root.
    assert tree.node_of.tolist() == [0, 0, 2, 2, 1, 1, 4, 4, 3, 3]
    assert tree.depth.tolist() == [2, 1, 2, 0, 1]
    assert tree.parent.tolist() == [1, 3, 1, -1, 3]
    assert tree.is_leaf.tolist() == [True, False, True, False, True]
    expected = [[1, 2, 2, 1], [2, 1, 4, 0], [3, 2, 2, 1], [4, 0, 0, 0], [5, 1, 4, 1]]
    assert channels(tree).tolist() == expected


def test_the_published_parent_channel_holds_a_nodes_own_place():
    tree = node_tree(paper_graph(read_tree("(1 (1 (1 a) (1 b)) (1 c))")))
    parents = channels(tree, parent_channel=False)[:, 2]
    assert parents.tolist() == [1, 2, 3, 0, 5]


def test_the_table_by_hand():
    table = position_table(8)
    assert table.shape == (9, 2) and n_columns(8) == 2
    np.testing.assert_allclose(table[:, 0], np.sin(np.arange(9)), rtol=1e-6)
    table = position_table(128)
    assert table.shape == (129, 32)
    angle = 7 * math.exp(-3.5 * 10 / 32)
    assert table[7, 10] == pytest.approx(math.sin(angle), rel=1e-5)
    assert table[7, 11] == pytest.approx(math.cos(angle), rel=1e-5)
    assert [n_columns(size) for size in (1, 4, 5, 9, 128, 200)] == [2, 2, 2, 4, 32, 50]


def test_a_code_is_the_mean_of_four_rows_and_zero_beyond_the_tree():
    tree = node_tree(paper_graph(read_tree("(1 (1 a) (1 b))")))
    code, table = encode(tree, 8), position_table(8)
    np.testing.assert_allclose(code[0], (table[1] + table[1] + table[2] + table[1]) / 4, rtol=1e-6)
    np.testing.assert_allclose(code[1], (table[2] + 3 * table[0]) / 4, rtol=1e-6)
    assert not code[3:].any()


def test_a_tree_as_large_as_the_network_fits_and_a_larger_one_is_refused():
    row = [(), *((n,) for n in range(6))]  # the last task is an output of the one before
    assert encode(node_tree(graph_of(row)), 6).shape == (6, 2)
    with pytest.raises(SchedulerError, match="has 6 nodes and this agent has room for 5"):
        encode(node_tree(graph_of(row)), 5)


def test_a_graph_that_is_no_tree():
    """A diamond and a task apart: 0 is read by 1 and 2, and hangs below 1."""
    tree = node_tree(graph_of([(), (0,), (0,), (1, 2), ()]))
    assert tree.node_of.tolist() == [0, 1, 3, 2, 4]
    assert tree.parent.tolist() == [1, 2, -1, 2, -1]
    assert tree.depth.tolist() == [2, 1, 0, 1, 0]
    assert tree.is_leaf.tolist() == [True, False, False, True, True]


def test_three_children_all_stay():
    tree = node_tree(graph_of([(), (), (), (0, 1, 2)]))
    assert tree.node_of.tolist() == [0, 1, 3, 2]


def test_a_very_deep_tree_is_no_recursion():
    chain = node_tree(graph_of([(), *((n,) for n in range(5000))]))
    assert len(chain) == 5000 and chain.depth.max() == 4999


@given(st.integers(1, 30), st.integers(0, 99))
def test_in_order_puts_left_subtrees_before_and_right_ones_after(n_leaves, seed):
    tree = node_tree(tree_graph(n_leaves, seed))
    inputs = random_tree(n_leaves, np.random.default_rng(seed))
    assert len(tree) == len(inputs) == 2 * n_leaves - 1
    for task, row in enumerate(inputs):
        node = tree.node_of[task]
        assert tree.node_of[len(inputs) + task] == node  # its output
        assert tree.is_leaf[node] == (not row)
        for child in row:
            assert tree.parent[tree.node_of[child]] == node
            assert tree.depth[tree.node_of[child]] == tree.depth[node] + 1
        if row:
            assert tree.node_of[row[0]] < node < tree.node_of[row[1]]


@given(st.integers(0, 10_000))
def test_any_graph_has_every_task_in_one_node(seed):
    for workload in synthetic_workloads(two_cpus(), 2, seed):
        tree = node_tree(workload.graph)
        assert sorted(set(tree.node_of.tolist())) == list(range(len(tree)))
        roots = tree.parent < 0
        assert (tree.depth[roots] == 0).all()
        below = np.flatnonzero(~roots)
        assert (tree.depth[below] == tree.depth[tree.parent[below]] + 1).all()


def test_trees_of_a_treebank_fit_into_the_published_size():
    sizes = [len(node_tree(paper_graph(tree))) for tree in generate_trees(50, 0)]
    assert max(sizes) <= 128 and sizes == [len(tree) for tree in generate_trees(50, 0)]
