"""Rewards of a reward model for a file of your own.

    scripts/score_data.py rm=FOLDER data=my.jsonl                        writes my.rewards.jsonl
    scripts/score_data.py rm=org/name@revision data=my.jsonl out=scores.jsonl tokens=8192

A row has prompt and response; prompt, chosen and rejected; or messages that end with the assistant. Of lists of texts,
as in RM-Bench's files, the scores are what scripts/score.py bench=rm_bench reads. JSON lines, JSON, CSV or Parquet.
`tokens` are those of one forward pass (default 16384). Kill it, start it again: it goes on.
"""

import sys
from pathlib import Path

from pipeline import actions, external, live, options
from pipeline.errors import check


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with actions.kind_errors():
        given = options.read(arguments, required=["rm", "data"], optional=["out", "tokens"])
        data, tokens = Path(given["data"]), given.get("tokens", "16384")
        check(tokens.isdecimal() and int(tokens) > 0, "tokens", tokens, "expected a positive whole number")
        out = Path(given.get("out", data.with_name(f"{data.name.split('.')[0]}.rewards.jsonl")))
        check(out.parent.is_dir(), "out", str(out), "no such folder")
        folder = external.find(given["rm"])
        from pipeline import score_file  # torch: a typing error is told before

        line = live.Line(sys.stderr, seconds=15)
        try:
            done = score_file.run(folder, data, out, int(tokens), lambda n, of: line.show(n, of, ()))
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr)
            return 130
        line.end()
    print(", ".join(f"{name} {value:,.6g}" for name, value in done.items()))
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
