"""Prompts of the benchmarks that nearly repeat a training prompt, and every score with and without them.

    scripts/leak.py scale=micro loss=bt seed=0                     of a reward model trained here
    scripts/leak.py rm=FOLDER scale=small data=skywork             of an existing one, against data.preferences
    scripts/leak.py leak.words=8 leak.similarity=0.3 ...           by another rule

Any key of conf/ can follow. What lacks is made first; nothing is scored twice. The rows themselves, with the training
rows that they repeat, are in the `leak` artefact's out/rows.parquet.
"""

import sys

from pipeline import actions, leak_table


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with actions.kind_errors():
        return leak_table.run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
