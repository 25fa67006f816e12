"""What a command found, line by line: a table for people, JSON lines for programs."""

from __future__ import annotations

import json
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH: Final = 200
"""Columns when stdout is no terminal: no value is worth wrapping in a file."""
MOST_ROWS: Final = 100
"""Rows of a table; the rest is counted."""


def stdout_console() -> Console:
    """Return a console on stdout, wide enough where nobody looks at its edges."""
    console = Console()
    console.width = console.width if console.is_terminal else PIPE_WIDTH
    return console


def counted(number: int, thing: str) -> str:
    """Return `1 upload` or `1,234 uploads`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


class Report:
    """Rows that are printed as they come (JSON), or together at the end (table).

    Args:
        columns: headings; names in JSON are made of them (`Would be`, `would_be`).
        as_json: one object per line instead of a table.
    """

    def __init__(self, *columns: str, as_json: bool) -> None:
        self._columns = columns
        self._as_json = as_json
        self._table = Table(*columns, box=None, pad_edge=False)
        self._left_out = 0

    def add(self, *values: str, style: str | None = None) -> None:
        """Add a row; `style` is for the table."""
        if self._as_json:
            names = (column.lower().replace(" ", "_") for column in self._columns)
            print(json.dumps(dict(zip(names, values, strict=True))), flush=True)
        elif self._table.row_count < MOST_ROWS:
            self._table.add_row(*map(Text, values), style=style)
        else:
            self._left_out += 1

    def end(self, summary: str, facts: dict[str, object]) -> None:
        """Print what is left: the table and `summary`, or `facts` as the last JSON line."""
        if self._as_json:
            print(json.dumps(facts))
            return
        console = stdout_console()
        if self._table.row_count:
            console.print(self._table)
        if self._left_out:
            console.print(f"and {self._left_out:,} more; --json lists them all", style="dim", highlight=False)
        console.print(("\n" if self._table.row_count else "") + summary, highlight=False)
