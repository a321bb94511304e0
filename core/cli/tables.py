"""Tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dynpartition.cli.words import printable

if TYPE_CHECKING:
    from dynpartition.agent.evaluation import Evaluation

_COLUMNS = (
    "scheduler",
    "run ms",
    "× best single",
    "decision ms",
    "× with decision",
    "95 % interval",
)
_WIDTH_MIN = 100  # where the output is no terminal, rich assumes 80 and would fold the cells


def print_evaluation(evaluation: Evaluation) -> None:
    """Print one row per scheduler, the fastest first; the interval includes the decision."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    repeats = f", median of {evaluation.repeats}" if evaluation.repeats > 1 else ""
    table = Table(title=f"{evaluation.inputs} held-out inputs{repeats}", title_justify="left")
    for column in _COLUMNS:
        justify: Literal["left", "right"] = "left" if column == "scheduler" else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for row in sorted(evaluation.rows, key=lambda row: row.ratio_to_best_single):
        table.add_row(
            escape(printable(row.scheduler)),
            f"{row.makespan_ms:.3f}",
            f"{row.run_ratio:.3f}",
            f"{row.decision_ms:.3f}",
            f"{row.ratio_to_best_single:.3f}",
            f"{row.ratio_low:.3f} … {row.ratio_high:.3f}",
        )
    console = Console()
    console.width = max(console.width, _WIDTH_MIN)
    with console.capture() as captured:  # rich itself would end the program at a broken pipe
        console.print(table)
    print(captured.get(), end="")
