"""The papers' claims, each with the verdict that the artefacts give.

    scripts/claims.py                   verdicts from what is there, into results/claims/
    scripts/claims.py action=run        make what the claims ask for first
    scripts/claims.py action=plan       what would run, and why
    scripts/claims.py action=status     where everything stands
    scripts/claims.py only=ema-matters  one claim: shown, not written

Any key of conf/ that no claim sets can follow: scale=smoke, seeds=[0,1,2], run.jobs=4, rm.optim.lr=3e-4, ...
"""

import sys

from pipeline import actions


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with actions.kind_errors():
        return actions.judge_claims(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
