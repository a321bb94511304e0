"""Every example in the README and in docs/ runs, in order, and shows what the page says."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from textwrap import dedent

import pytest

from tests.doc_blocks import COMMENT, Block, blocks_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {page: blocks_of(page) for page in PAGES}
LANGUAGES = {"python", "console", "output", "json", "text", "sh", "indented"}
MARK = re.compile(
    r"numbers vary(: .*#.*)?(, rows in any order)?|needs: [\w, ]+|uses: \S+ of \S+|not run: .+"
)
REASONS = {
    "a pattern, not a command",
    "installs packages",
    "needs a GPU",
    "needs measurements of others",
    "needs several machines",
    "takes minutes",
}
"""Why a block may be left out."""
NOT_RUN = {
    "README.md": 3,  # the main job and the test command
    "commands.md": 1,
    "paper.md": 1,
    "peers.md": 1,
    "policy.md": 11,
    "scale-out.md": 7,
    "serving.md": 1,
    "tutorial.md": 2,
}
"""How many blocks of each page are not run. A block more is a decision, to be made here too."""
COMMAND = re.compile(
    r"^\s*(\$ |>>> |dynpartition |python3? |pip |import |from \w+ import )", re.MULTILINE
)


@dataclass(frozen=True)
class Step:
    """Something to run, and what the page says that comes of it."""

    block: Block
    kind: str
    text: str
    shown: str


def commands(block: Block) -> Iterator[Step]:
    """Yield the commands of a console block and what it shows of each."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.replace("\\\n", "").partition("\n")
        yield Step(block, "command", command, shown)


def runnable(blocks: list[Block]) -> Iterator[tuple[Block, Block | None]]:
    """Yield the blocks to run, with the block that shows what they print, where there is one."""
    blocks = [block for block in blocks if not block.why_not_run and not block.file]
    for block, after in zip_longest(blocks, blocks[1:]):
        if block.language in ("python", "console"):
            yield block, after if after is not None and after.language == "output" else None


def steps_of(block: Block, output: Block | None) -> Iterator[Step]:
    """Yield what a block asks for."""
    if block.language == "console":
        yield from commands(block)
    else:
        yield Step(output or block, "python", block.text, output.text if output else "")


def play(steps: list[Step], folder: Path) -> None:
    """Run steps in one new process and compare what each of them prints."""
    asked = [(step.block.place, step.kind, step.text) for step in steps]
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "doc_player.py")],
        cwd=folder,
        input=json.dumps(asked),
        capture_output=True,
        encoding="utf-8",
        timeout=580,
    )
    assert ran.returncode == 0, ran.stderr
    for step, (status, printed) in zip(steps, json.loads(ran.stdout), strict=False):
        told = f"{step.block.place}: {step.text}\nprinted:\n{printed}\ninstead of:\n{step.shown}"
        assert status == (2 if step.shown.startswith("dynpartition: error") else 0), told
        assert step.block.shows(printed, step.shown), told


def borrowed(blocks: list[Block]) -> Iterator[Block]:
    """Yield the files that blocks need of other pages."""
    for file, page in [used for block in blocks for used in block.uses]:
        yield next(block for block in BLOCKS[ROOT / "docs" / page] if block.file == file)


def missing(blocks: list[Block]) -> list[str]:
    """Return what blocks need and this machine has not."""
    named = {name for block in blocks if not block.why_not_run for name in block.needs}
    cores = {"two cores"} if (os.cpu_count() or 1) > 1 else set()
    return sorted(name for name in named - cores if name == "two cores" or not find_spec(name))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(runnable(BLOCKS[p]))], ids=lambda path: path.stem
)
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    absent = missing(BLOCKS[page])
    if absent:
        pytest.skip(f"the page needs {', '.join(absent)}")
    steps = [step for block in runnable(BLOCKS[page]) for step in steps_of(*block)]
    written = re.findall(r"--json (\S+)", "\n".join(step.text for step in steps))
    files = {block.file: block for block in [*borrowed(BLOCKS[page]), *BLOCKS[page]] if block.file}
    for name in files.keys() - set(written):
        (tmp_path / name).write_text(files[name].text, encoding="utf-8")
    if steps:
        play(steps, tmp_path)
    for name in files.keys() & set(written):
        assert (tmp_path / name).read_text(encoding="utf-8") == files[name].text, files[name].place


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_block_of_a_page_is_of_a_kind_that_is_checked(page: Path) -> None:
    before = None
    for block in BLOCKS[page]:
        assert block.language in LANGUAGES, f"{block.place}: {block.language}"
        assert all(MARK.fullmatch(mark) for mark in block.marks), f"{block.place}: {block.marks}"
        if block.language == "output":
            assert before is not None, block.place
            assert (before.language, before.file) in (("python", ""), ("sh", "")), block.place
            assert bool(before.why_not_run) == bool(block.why_not_run), block.place
        if block.language == "sh" or (block.language == "json" and not block.file):
            assert block.why_not_run, block.place
        if block.language in ("text", "indented") and not block.file:
            assert not looks_like_code(block.text), f"{block.place}: give it a language"
        before = block
    names = [block.file for block in BLOCKS[page] if block.file]
    assert len(names) == len(set(names)), "a file that stands twice"
    comments = COMMENT.findall(page.read_text(encoding="utf-8"))
    assert sum(len(block.marks) for block in BLOCKS[page]) == len(comments), (
        "a mark without a block"
    )


def looks_like_code(text: str) -> bool:
    """Whether a drawing, formula or list of names is rather something to type."""
    try:
        tree = ast.parse(dedent(text))
    except SyntaxError:
        return COMMAND.search(text) is not None
    return any(isinstance(node, ast.Call | ast.Import | ast.ImportFrom) for node in ast.walk(tree))


@pytest.mark.parametrize(
    ("text", "is_code"),
    [
        ("dynpartition pretrain --profile here.json", True),
        ("    $ ls", True),
        ("with backend.monitored():\n    pass", True),
        ("import numpy", True),
        ("cpu:0,cpu:1x0.5", False),
        ("time = curve(cell, k) + k · bookkeeping", False),
        ("cpu:1   |0|1|2 … ✗", False),
    ],
)
def test_code_is_told_from_drawings(text: str, is_code: bool) -> None:
    assert looks_like_code(text) is is_code


def test_blocks_that_are_not_run_are_few_and_have_a_reason() -> None:
    left_out = [block for blocks in BLOCKS.values() for block in blocks if block.why_not_run]
    assert {block.why_not_run for block in left_out} <= REASONS
    assert Counter(block.place.partition(":")[0] for block in left_out) == NOT_RUN


SHOWN = "│ heft │  1.20 │\nerror 2.1%, bias -0.7%\nverdict: …\n"


@pytest.mark.parametrize(
    ("printed", "marks", "is_shown"),
    [
        ("│ heft │  1.20 │\nerror 2.1%, bias -0.7%\nverdict: pass\n", (), True),
        ("│ heft │  1.21 │\nerror 2.1%, bias -0.7%\nverdict: pass\n", (), False),
        ("│ heft │ 11.21 │\nerror 12%, bias +0.7%\nverdict: fail\n", ("numbers vary",), True),
        ("│ peft │ 11.21 │\nerror 12%, bias +0.7%\nverdict: fail\n", ("numbers vary",), False),
        ("│ heft │ 11.21 │\nerror nan%, bias +1%\nverdict: fail\n", ("numbers vary",), False),
        ("error 2%, bias 1%\n│ heft │ 1 │\nverdict: x\n", ("numbers vary",), False),
        (
            "error 2%, bias 1%\n│ heft │ 1 │\nverdict: x\n",
            ("numbers vary, rows in any order",),
            True,
        ),
        ("│ heft │ 1.20 │\nerror 2.1%, bias -0.7%\n", ("numbers vary",), False),
    ],
)
def test_what_is_shown_is_compared(printed: str, marks: tuple[str, ...], is_shown: bool) -> None:
    assert Block("page.md:1", "console", "", "", marks).shows(printed, SHOWN) is is_shown
