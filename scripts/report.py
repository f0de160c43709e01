"""The report from what is there: results/report.html, one file that opens from disk.

    scripts/report.py                  of scale micro
    scripts/report.py scale=smoke      results/report-smoke.html

Nothing is made for it: what is missing says how to make it.
"""

import sys

from pipeline import actions, config
from pipeline.report import page
from pipeline.report.found import Found


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with actions.kind_errors():
        config.check_first_names(arguments, ())
        x = config.experiment(arguments)
        path = actions.results(x) / ("report.html" if x.size == "micro" else f"report-{x.size}.html")
        page.write(Found(actions.results(x), x.size), path)
        print(f"written: {actions.shorter(path)}")
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
