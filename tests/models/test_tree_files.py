"""Files as they should not be: every error names file, line and column, and comes fast."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition.errors import InputError
from dynpartition.models.tree_files import DEPTH_MAX, read_tree, read_trees

GOOD = "(2 (1 so) (1 be))"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "trees.txt"

    def write(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_blank_lines_line_ends_and_byte_order_mark(file):
    path = file(f"\ufeff{GOOD}\r\n\n   \n\t{GOOD}\n")
    assert [tree.text for tree in read_trees(path)] == [GOOD, GOOD]


def test_escaped_brackets_and_no_break_spaces_are_words(file):
    tree = read_tree("(2 (1 -LRB-) (1 1\xa01\\/2))")
    assert tree.words[:2] == ("-LRB-", "1\xa01\\/2")


@pytest.mark.parametrize(
    ("line", "column", "what"),
    [
        ("(2 (1 a) (1 b)", 15, "1 brackets still open, the last from column 1; add 1"),
        ("(2 (1 a", 8, "2 brackets still open, the last from column 4"),
        ("(2 a))", 6, "'\\)' after the tree; one tree a line"),
        (f"{GOOD} {GOOD}", 19, "after the tree"),
        (") (2 a)", 1, "outside of a tree"),
        ("word", 1, "'word' outside of a tree; begin with '\\('"),
        ("()", 2, "a node without a label"),
        ("((1 a) (1 b))", 2, "a bracket where a label is due"),
        ("(x a)", 2, "label 'x'; labels are whole numbers"),
        ("(-1 a)", 2, "label '-1'"),
        ("(2.5 a)", 2, "label '2.5'"),
        ("(٣ a)", 2, "label"),
        (f"({'9' * 10**6} a)", 2, "label '9{40}…'"),
        ("(2)", 3, "neither word nor children"),
        ("(2 (1 a))", 9, "a node with one child; give it one word or two children"),
        ("(2 (1 a) (1 b) (1 c))", 16, "a third child; make the tree binary"),
        ("(2 two words)", 8, "'words' in a node that is full"),
        ("(2 (1 a) b)", 10, "'b' in a node that is full"),
        ("(2 a (1 b))", 6, "a child beside a word"),
        ("(2 a\0b)", 5, "a NUL byte"),
    ],
)
def test_malformed_lines_are_named_with_line_and_column(file, line, column, what):
    path = file(f"{GOOD}\n\n{line}\n")
    with pytest.raises(InputError, match=f"trees.txt:3:{column}: .*{what}") as caught:
        read_trees(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("opening", ["(", "(1 ", "(1 (1 a) ", "(1 a "])
def test_a_million_brackets_fail_fast(file, opening):
    path = file(opening * 10**6)
    start = time.process_time()  # a busy machine must not fail a test
    with pytest.raises(InputError, match=r"trees.txt:1:\d+: "):
        read_trees(path)
    assert time.process_time() - start < 2


def test_the_depth_limit_is_exact():
    def chain(depth):
        return "(1 (1 a) " * depth + "(1 b)" + ")" * depth

    assert read_tree(chain(DEPTH_MAX - 1)).depth == DEPTH_MAX - 1
    with pytest.raises(InputError, match="over 1000 nested brackets"):
        read_tree(chain(DEPTH_MAX))


@pytest.mark.parametrize("content", ["", "\n\n", "  \t\r\n"])
def test_a_file_without_trees(file, content):
    with pytest.raises(InputError, match=r"trees.txt holds no trees; write one tree a line"):
        read_trees(file(content))


def test_bytes_that_are_not_utf8(file):
    with pytest.raises(InputError, match=r"trees.txt:2:4: bytes that are not UTF-8"):
        read_trees(file(GOOD.encode() + b"\n(2 \xff)\n"))


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match=r"cannot be read: .*; check the path"):
            read_trees(path)


def test_an_endless_line_is_not_read_to_its_end(file, monkeypatch):
    monkeypatch.setattr("dynpartition.models.tree_files.LINE_BYTES_MAX", 100)
    with pytest.raises(InputError, match=r"trees.txt:2: a line of over"):
        read_trees(file(f"{GOOD}\n" + "(" * 101))


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="() 12ax\0\n", max_size=40))
def test_any_text_is_a_tree_or_an_input_error(text):
    try:
        tree = read_tree(text)
    except InputError:
        return
    assert read_tree(tree.text) == tree
