"""From words on the command line to a verb, with one clear line for every mistake."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, fields
from itertools import pairwise

import dynpartition
from dynpartition.cli.registry import VERBS, load_verb
from dynpartition.cli.verb import Verb
from dynpartition.errors import UsageError, did_you_mean

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FRAME = re.compile(r"[╭╰+].*|[│|]?[ ─-]*[│|]?")
_TITLE = re.compile(r"(Value error|Invalid choice|Parsing error) ")
_NO_NUMBER = re.compile(
    r"Error parsing (--[\w-]+): (?:could not convert string to float|"
    r"invalid literal for (int)\(\) with base 10): (.*)"
)
_MORE = ("For full helptext", "Argument helptext")


def parse(arguments: Sequence[str]) -> Verb | str:
    """Return the verb that `arguments` ask for, or the text that answers them.

    Raises UsageError for words that are not understood; exits with 0 after `VERB --help`.
    """
    if not arguments:
        raise UsageError(f"give a command: {', '.join(VERBS)}; see dynpartition --help")
    if arguments[0] in ("-h", "--help"):
        return overview()
    if arguments[0] == "--version":
        return f"dynpartition {dynpartition.__version__}"
    name, *words = arguments
    return _parse_verb(name, load_verb(name), words)


def overview() -> str:
    """Return the text of `dynpartition --help`."""
    rows = [f"  {name:<12}{summary}" for name, summary in VERBS.items()]
    return "\n".join(
        [
            "usage: dynpartition COMMAND [options]",
            "",
            "Decides, per input, which device runs which part of a dynamic neural network.",
            "",
            "commands:",
            *rows,
            "",
            "dynpartition COMMAND --help shows a command's options; --version the version.",
        ]
    )


def _parse_verb(name: str, kind: type[Verb], words: Sequence[str]) -> Verb:
    import tyro  # slow to import, and not needed for the overview

    for option, value in pairwise([name, *words]):
        if not value:  # a path would become the working directory
            raise UsageError(
                f"{name}: an empty word follows {option}; give a value or leave it out"
            )
    captured = io.StringIO()
    try:
        with redirect_stderr(captured):
            verb = tyro.cli(kind, prog=f"dynpartition {name}", args=words)
    except SystemExit as stop:
        if not stop.code:
            raise
        what = _mistake(kind, words) or _folded(captured.getvalue())
        raise UsageError(f"{name}: {what}; see dynpartition {name} --help") from None
    if verb.seed < 0:
        raise UsageError(f"{name}: --seed is {verb.seed}; give a number from 0")
    return verb


def _mistake(kind: type[Verb], words: Sequence[str]) -> str | None:
    """Name an option that does not exist, or required ones that were not given."""
    given = {word.split("=")[0].replace("_", "-") for word in words if word.startswith("--")}
    known = {_option(field.name): field for field in fields(kind)}
    negated = {option.replace("--", "--no-", 1) for option in known}
    for option in sorted(given - known.keys() - negated):
        if "." not in option:  # options of nested records are tyro's business
            return f"no option is named {option}; {did_you_mean(option, known)}"
    missing = [
        option
        for option, field in known.items()
        if option not in given and field.default is field.default_factory is MISSING
    ]
    return f"{' and '.join(missing)} must be given" if missing else None


def _option(field_name: str) -> str:
    return f"--{field_name.replace('_', '-')}"


def _folded(box: str) -> str:
    """Return what tyro says in a framed box as one line."""
    said = []
    for line in _COLOUR.sub("", box).splitlines():
        text = line.strip(" │|")
        if text.startswith(_MORE):
            break
        if not _FRAME.fullmatch(line.strip()):
            said.append(text)
    return _reworded(" ".join(said).rstrip(".")) or "the options are not understood"


def _reworded(said: str) -> str:
    """Drop a frame's title and say `is no number` in words of users, not of programmers."""
    text = _TITLE.sub("", said, count=1) if _TITLE.match(said) else said
    match = _NO_NUMBER.fullmatch(text)
    if match is None:
        return text
    return f"{match[1]} is {match[3]}; give a {'whole ' if match[2] else ''}number"
