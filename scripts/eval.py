"""An existing reward model: the doctor, then every benchmark.

    scripts/eval.py rm=FOLDER                                      on the micro world's benchmarks
    scripts/eval.py rm=org/name@revision scale=small               on the real ones
    scripts/eval.py rm=... bench=rm_bench,reward_bench             on some
    scripts/eval.py rm=... bench=best_of_n                         what it picks among samples of the SFT model

Any key of conf/ can follow. Exit code 1 if a check of the doctor fails or a benchmark cannot be made.
"""

import sys

from pipeline import actions, evaluate


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with actions.kind_errors():
        return evaluate.run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
