"""`dynpartition profiles`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dynpartition.cli.verb import Verb
from dynpartition.formats import load_shipped, shipped_names, write_json


@dataclass(frozen=True, kw_only=True)
class Profiles(Verb):
    """List the profiles that are shipped: where they come from, their error, devices and cells."""

    def execute(self) -> None:
        """List them."""
        entries = [_entry(name) for name in shipped_names()]
        if self.json:
            write_json(self.json, {"profiles": entries})
        for entry in entries:
            print(_describe(entry))


def _entry(name: str) -> dict[str, str | list[str]]:
    profile = load_shipped(name)
    story = profile.provenance
    return {
        "name": name,
        "origin": str(story.get("origin", "unknown")),
        "error": describe_error(story.get("error", story.get("held_out_error"))),
        "devices": list(profile.cluster.names),
        "cells": list(profile.cells),
    }


def describe_error(error: object) -> str:
    """Return what a profile says of its error: text as it stands, shares as `mape` in percent.

    Tables are written as `fitted: single_sync_cpu: 0.6 %, …; held_out: …`.
    """
    if error is None:
        return "not known"
    if not isinstance(error, Mapping):
        return _percent(error)
    if "mape" in error:
        return _percent(error["mape"])
    parts = [f"{name}: {describe_error(part)}" for name, part in error.items()]
    is_nested = any(isinstance(part, Mapping) and "mape" not in part for part in error.values())
    return ("; " if is_nested else ", ").join(parts)


def _percent(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{100 * value:.1f} %"
    return str(value)


def _describe(entry: dict[str, str | list[str]]) -> str:
    rows = [f"  {key}: {_joined(value)}" for key, value in entry.items() if key != "name"]
    return "\n".join([f"{entry['name']}", *rows])


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
