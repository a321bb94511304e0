"""`dynpartition profiles`."""

from __future__ import annotations

from dataclasses import dataclass

from dynpartition.cli.verb import Verb
from dynpartition.formats import load_shipped, shipped_names, write_json


@dataclass(frozen=True, kw_only=True)
class Profiles(Verb):
    """List the profiles that are shipped: where they come from, their devices and cells."""

    def execute(self) -> None:
        """List them."""
        entries = [_entry(name) for name in shipped_names()]
        if self.json:
            write_json(self.json, {"profiles": entries})
        for entry in entries:
            print(_describe(entry))


def _entry(name: str) -> dict[str, str | list[str]]:
    profile = load_shipped(name)
    return {
        "name": name,
        "origin": str(profile.provenance.get("origin", "unknown")),
        "devices": list(profile.cluster.names),
        "cells": list(profile.cells),
    }


def _describe(entry: dict[str, str | list[str]]) -> str:
    rows = [f"  {key}: {_joined(value)}" for key, value in entry.items() if key != "name"]
    return "\n".join([f"{entry['name']}", *rows])


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
