"""Tables of the papers: plan them, make what is missing, render them.

    scripts/reproduce.py table=cross                        make what is missing, render to results/tables/
    scripts/reproduce.py table=cross,bsr-5                  both, from one graph
    scripts/reproduce.py table=cross action=plan            what would run, and why
    scripts/reproduce.py table=cross action=plan gpu=h200   what it would cost there (docs/cost.md); gpus=8 mfu=0.35
    scripts/reproduce.py table=cross action=status          where everything stands
    scripts/reproduce.py table=cross action=render          render what is there
    scripts/reproduce.py table=cross action=settings        what it is made with, and who says so
    scripts/reproduce.py table=cross action=facts           check what must hold at any size
    scripts/reproduce.py table=cross action=explain key=…   everything about one artefact
    scripts/reproduce.py table=cross action=gc [yes=true]   what no table reaches; with yes=true deleted
    scripts/reproduce.py table=cross action=verify          re-read every artefact

    scripts/reproduce.py table=cross cluster=slurm          submit what is missing to SLURM, and be done
    scripts/reproduce.py table=cross action=wait            until what was submitted has ended
    scripts/reproduce.py table=cross action=logs key=…      what the job of one artefact said
    scripts/reproduce.py table=cross action=cancel key=…    one artefact, or key=all: out of the queue
    scripts/reproduce.py table=cross action=retry cluster=slurm [key=…]   submit again, with what waits

Any key of conf/ can follow: scale=smoke, seed=7, seeds=[0,1,2], run.jobs=4, rm.optim.lr=3e-4, ...
"""

import gc
import sys

from pipeline import actions


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    gc.set_threshold(100_000, 50, 50)  # a large plan is many objects, and none of them garbage
    with actions.kind_errors():
        return actions.reproduce(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
