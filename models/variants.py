"""Cells whose tasks may do more than call the cell: what more is their variant, a text."""

from __future__ import annotations

from abc import abstractmethod

from torch import nn


class VariedCell(nn.Module):
    """A cell with variants. Tasks of all variants cost what the profile says of the cell."""

    is_optional = False
    """Whether inputs may well call it never."""

    @abstractmethod
    def variant(self, text: str) -> nn.Module:
        """Return what runs tasks of a variant; of the empty one, the cell itself."""


def variant_of(cell: nn.Module, text: str) -> nn.Module:
    """Return what runs tasks of a cell that are of the given variant."""
    if not text:
        return cell
    assert isinstance(cell, VariedCell), "only cells with variants have tasks of one"
    return cell.variant(text)
