"""The pages in docs/ say what the code does: their commands run, and nothing is left out."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path

import msgspec
import pytest

from dynpartition.__main__ import main
from dynpartition.agent.registry import scheduler_names
from dynpartition.cli.options import ModelVerb
from dynpartition.cli.registry import VERBS, load_verb
from dynpartition.cli.verb import Verb
from dynpartition.formats.fields import Record
from dynpartition.formats.graph import GraphFields
from dynpartition.formats.plan import PlanFields
from dynpartition.formats.profile_fields import ProfileFields
from dynpartition.formats.trace import TraceFields
from dynpartition.hardware.backend import ARENA_BYTES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FOLDERS = ("core", "models", "sim", "hardware", "agent", "calibration", "interop", "serving")
NEEDS = {"interop.md": ("onnx", "tensorboard")}
"""Page → libraries that only extras of this package bring along."""
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIMES = re.compile(r"decided in [\d.]+ ms")


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """Return (file name, content) of a page's fenced blocks in one language."""
    return [(name, body) for kind, name, body in FENCE.findall(text_of(page)) if kind == language]


def section(page: str, title: str) -> str:
    """Return what stands under a heading, up to the next one of that level."""
    return f"{text_of(page)}\n## ".split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def console_steps(page: str) -> Iterator[tuple[str, str]]:
    """Yield every command of a page and what it shows."""
    for _, body in blocks(page, "console"):
        for step in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            yield command, shown


@pytest.mark.parametrize("page", ["formats.md", "semantics.md", "commands.md"])
def test_commands_of_a_page_print_and_write_what_it_shows(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    files = dict(blocks(page, "json"))
    written = re.findall(r"--json (\S+)", "\n".join(command for command, _ in console_steps(page)))
    for name in files.keys() - set(written):
        Path(name).write_text(files[name], encoding="utf-8")
    for command, shown in console_steps(page):
        program, *words = shlex.split(command)
        assert program == "dynpartition"
        status = main(words)
        out, err = capsys.readouterr()
        assert status == (2 if err else 0)
        assert TIMES.sub("decided", out + err) == TIMES.sub("decided", shown)
    for name in written:
        assert Path(name).read_text(encoding="utf-8") == files[name]


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("capture.md", ["True", "True"]),
        ("environment.md", ["True", "2 updates", "[1.09, 1.0]"]),
        ("hardware.md", ["6 True"]),
        (
            "interop.md",
            [
                "load runs on cuda:0",
                "left runs on cuda:0",
                "right runs on cuda:0",
                "join runs on cpu:0",
                "2 edges deep",
                "('_0', '_1', '_2') ('0', '1', '2')",
                "('product', 'activation') [2048, 2048]",
                'digraph "small" {',
                "(240,) (12,)",
                "2 1",
            ],
        ),
        ("schedulers.md", ["True"]),
        (
            "serving.md",
            ["True", "20", "the request was not answered before its deadline", "42"],
        ),
        ("simulators.md", ["1000 True"]),
    ],
)
def test_python_code_of_a_page_runs(page: str, printed: list[str], tmp_path: Path) -> None:
    for library in NEEDS.get(page, ()):
        pytest.importorskip(library, reason=f"{library}, which the page uses, is not installed")
    code = "\n".join(body for _, body in blocks(page, "python"))
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=240)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == printed


def option_row(option: Field[object]) -> str:
    """Return how the table row of an option begins: its name and default."""
    if option.default is MISSING and option.default_factory is MISSING:
        default = "required"
    elif option.default in (None, ()):
        default = "none"
    else:
        value = option.default
        default = f"{value:g}" if isinstance(value, float) else str(value)
    return f"| `--{option.name.replace('_', '-')}` | {default} |"


@pytest.mark.parametrize("name", VERBS)
def test_a_command_has_a_section_with_all_options_and_defaults(name: str) -> None:
    verb = load_verb(name)
    shared = [("every command", Verb), ("commands that take inputs", ModelVerb)]
    bases = [(f"Options of {who}", base) for who, base in shared if issubclass(verb, base)]
    known: set[str] = set()
    for title, kind in [*bases, (name, verb)]:
        text = section("commands.md", title)
        own = [option for option in fields(kind) if option.name not in known]
        assert [option_row(option) for option in own if option_row(option) not in text] == []
        rows = set(re.findall(r"^\| `--([\w-]+)` \|", text, re.MULTILINE))
        assert rows == {option.name.replace("_", "-") for option in own}
        known |= {option.name for option in own}


def test_the_commands_page_has_a_section_for_nothing_else() -> None:
    headings = re.findall(r"^## (\w+)$", text_of("commands.md"), re.MULTILINE)
    assert [name for name in headings if name.islower()] == list(VERBS)
    text = section("commands.md", "Options of commands that take inputs")
    listed = re.findall(r"`(\w+)`", text.splitlines()[1])
    assert listed == [name for name in VERBS if issubclass(load_verb(name), ModelVerb)]


def test_every_scheduler_is_listed() -> None:
    listed = re.findall(r"^\| `(\S+)` \|", section("commands.md", "Schedulers"), re.MULTILINE)
    assert listed == list(scheduler_names())


def records_of(kind: object) -> Iterator[type[Record]]:
    """Yield the records that a type mentions, itself included."""
    if isinstance(kind, type) and issubclass(kind, Record):
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from records_of(field.type)
    for part in getattr(kind, "__args__", ()):
        yield from records_of(part)


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("Graph: `dynpartition-graph`", GraphFields),
        ("Profile: `dynpartition-profile`", ProfileFields),
        ("Plan: `dynpartition-plan`", PlanFields),
        ("Trace: `dynpartition-trace`", TraceFields),
    ],
)
def test_every_field_of_a_format_is_described(title: str, kind: type[Record]) -> None:
    text = section("formats.md", title)
    names = {field.name for record in records_of(kind) for field in msgspec.structs.fields(record)}
    assert {name for name in names if not re.search(rf"[`.]{name}`", text)} == set()


def test_every_module_has_a_row_in_the_architecture_page() -> None:
    rows = re.findall(r"^\| `(\S+\.py)` \|", text_of("architecture.md"), re.MULTILINE)
    modules = {p.relative_to(ROOT).as_posix() for f in FOLDERS for p in (ROOT / f).rglob("*.py")}
    assert len(rows) == len(set(rows))
    assert set(rows) ^ modules == set()


def test_numbers_that_pages_quote() -> None:
    assert f"{ARENA_BYTES >> 20} MiB" in text_of("hardware.md")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        path = (DOCS / file).resolve() if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target
