"""Puts the current result tables into README.md, between their markers.

    <!-- begin: results/tables/micro/cross.md; rows: BT, NormBT -->
    <!-- end -->

Of a table the rows named, each with what stands below it, and the notes; without `rows:` all of it.
"""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- begin: ([^ ;]+)(?:; rows: ([^>]*))? -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(readme: str) -> str:
    """The text with every marked block replaced by what it names."""
    return BLOCK.sub(lambda m: m[1] + some((PROJECT / m[2]).read_text(), m[3]) + m[4], readme)


def some(table: str, rows: str | None) -> str:
    if rows is None:
        return table
    head, dashes, *lines = table.splitlines(keepends=True)
    labels = [label.strip() for label in rows.split(",")]
    starts = tuple(f"| {label}{after}" for label in labels for after in (" |", ", published |", " − "))
    return "".join([head, dashes, *(line for line in lines if not line.startswith("|") or line.startswith(starts))])


def main() -> int:
    path = PROJECT / "README.md"
    path.write_text(filled(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
