"""Puts the current result table into README.md, between its markers."""

import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- begin: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(readme: str) -> str:
    """The text with every marked block replaced by the file that it names."""
    return BLOCK.sub(lambda m: m[1] + (PROJECT / m[2]).read_text() + m[3], readme)


def main() -> int:
    path = PROJECT / "README.md"
    path.write_text(filled(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
