"""One stage with what it needs: `scripts/run.py stage=rm loss=norm_bt seed=0`; with `-m loss=bt,bsr seed=0,1` a
sweep.

Hydra's basic launcher calls `main` for each combination; they are collected and run as one graph, so that shared
inputs are made once and what can go side by side does.
"""

import sys
from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf

from pipeline import actions, config

OWN = ("stage", "action", "key")
WANTED: list[tuple[str, config.Experiment]] = []
ACTION: set[str] = set()
KEYS: set[str | None] = set()


@hydra.main(version_base="1.3", config_path="../conf", config_name="stage")
def main(cfg: DictConfig) -> None:
    with actions.kind_errors():
        config.check(not OmegaConf.is_missing(cfg, "stage"), "stage", "???", "required; say which, e.g. stage=rm")
        values = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
        WANTED.append((cfg.stage, config.from_values({k: v for k, v in values.items() if k not in OWN})))
        ACTION.add(cfg.action)
        KEYS.add(cfg.key)


if __name__ == "__main__":
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: not a.startswith("-"))  # Hydra wants its flags first
    with actions.kind_errors():
        config.check_overrides(sys.argv[1:], OWN)
        main()
        if WANTED:
            sys.exit(actions.stages(WANTED, ACTION, KEYS.pop()))
