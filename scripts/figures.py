"""Figures from the store: plan them, make what they lack, render them to results/figures/.

    scripts/figures.py                           all of them
    scripts/figures.py figure=hidden-norms       one
    scripts/figures.py action=render             from what is there; says what is missing
    scripts/figures.py action=plan               what would run, and why

Any key of conf/ can follow: scale=smoke, seeds=[0,1], run.jobs=4, ...
"""

import sys

from pipeline import actions


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with actions.kind_errors():
        from pipeline.figures import make  # NumPy: --help needs none

        return make.figures(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
