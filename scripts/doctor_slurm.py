"""Does this cluster do what the pipeline needs? One line for each check; exit code 1 if one fails.

scripts/doctor_slurm.py cluster=slurm        as conf/cluster/slurm.yaml describes it
scripts/doctor_slurm.py cluster=mine --json  one JSON object
"""

import sys

from pipeline import actions, config, finding


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    with actions.kind_errors():
        overrides = [a for a in arguments if a != "--json"]
        config.check_overrides(overrides, ())
        x = config.experiment(overrides)
        config.check(x.cluster.kind == "slurm", "cluster", x.cluster.kind, "say which, e.g. cluster=slurm")
        from pipeline.slurm import doctor

        found = doctor.examine(x.cluster, actions.results(x) / "slurm")
        return finding.report("SLURM", found, as_json="--json" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
