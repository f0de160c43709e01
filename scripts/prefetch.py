"""What missing artefacts need of the hub, into its client's cache; sizes first.

    scripts/prefetch.py table=bsr-2 scale=paper                models and data sets of a table's missing artefacts
    scripts/prefetch.py table=bsr-2 scale=paper fetch=false    only say which, and how large
    scripts/prefetch.py repository=models/org/name@revision    one model
    scripts/prefetch.py repository=datasets/org/name@revision  one data set, or of it split=, config=, file=

Afterwards HF_HUB_OFFLINE=1 works. What was interrupted goes on where it ended. HF_HOME says where the cache lies; for
gated models ask for access on their hub page, then hf auth login. Any key of conf/ can follow. Exit code 1 if something
could not be fetched.
"""

import sys

from pipeline import actions, prefetch


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with actions.kind_errors():
        return prefetch.run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
