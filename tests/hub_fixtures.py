"""Little data sets in the hub's own schemas, as files of a `hub.root`: what the owners' cards and the official tools'
code say of columns and types, with made-up rows. `write(root)` writes all of them.

Parquet where the owner has it, JSON or JSON lines where not; some with a card that names the files of a split, some
with file names alone.
"""

import json
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.metrics.reward_bench import EXAMPLE_COUNTS, PRIOR_SETS
from pipeline.metrics.reward_bench_2 import SUBSETS

Row = dict[str, Any]
DOMAINS = ("chat", "math", "code", "safety-refuse", "safety-response")


def user(text: str) -> Row:
    return {"content": text, "role": "user"}


def assistant(text: str) -> Row:
    return {"content": text, "role": "assistant"}


def question(i: int) -> str:
    return f"What is {i} + {i}?"


def right(i: int) -> str:
    return f"It is {2 * i}."


def wrong(i: int) -> str:
    return f"It is {2 * i + 1}, I think."


def pair(i: int) -> Row:
    return {"chosen": [user(question(i)), assistant(right(i))], "rejected": [user(question(i)), assistant(wrong(i))]}


def several(i: int) -> list[str]:
    """Four responses, better ones first."""
    return [right(i), wrong(i), f"{i}", "No idea."]


def ultrachat(n: int) -> list[Row]:
    """Every second one goes on."""
    whole = [[user(question(i)), assistant(right(i)), user("Sure?"), assistant("Yes.")] for i in range(n)]
    talks = [talk[: 2 + 2 * (i % 2)] for i, talk in enumerate(whole)]
    return [{"prompt": t[0]["content"], "prompt_id": f"{i:064x}", "messages": t} for i, t in enumerate(talks)]


def tulu(n: int) -> list[Row]:
    system = {"content": "Be brief.", "role": "system"}
    talks = [[*([system] if i % 2 else []), user(question(i)), assistant(right(i))] for i in range(n)]
    return [{"id": f"row_{i}", "messages": t, "source": "made-up"} for i, t in enumerate(talks)]


def ranked(n: int, first: int = 0) -> list[Row]:
    made = []
    for i in range(first, first + n):
        said = {f"response_{k}_text": text for k, text in enumerate(several(i), start=1)}
        made.append({"instruction": question(i), **said, "all_scores": [0.15, 0.12, 0.1, 0.05]})
    return made


def completions(n: int) -> list[Row]:
    models = ["gpt-4", "alpaca-7b", "llama-2-7b-chat", "pythia-12b"]
    return [
        {
            "source": "evol_instruct",
            "instruction": question(i),
            "models": models,
            "completions": [
                {"model": m, "response": text, "overall_score": 9.0 - k, "fine-grained_score": 4.5 - k}
                for k, (m, text) in enumerate(zip(models, several(i), strict=True))
            ],
            "correct_answers": ["None"],
            "incorrect_answers": ["None"],
        }
        for i in range(n)
    ]


def rated(n: int) -> list[Row]:
    """Every fifth pair is rated the same; the second of a pair is the better one in odd rows."""
    made = []
    for i in range(n):
        sides = [pair(i)["chosen"], pair(i)["rejected"]]
        better, worse = (4.0, 4.0) if i % 5 == 4 else (4.0, 1.5)
        a, b = (0, 1) if i % 2 == 0 else (1, 0)
        ratings = [better, worse]
        source = "openai/summarize_from_feedback" if i % 4 == 2 else "argilla/ultrafeedback"
        own = {"conv_A_rating": ratings[a], "conv_B_rating": ratings[b], "num_turns": 1, "source": source}
        made.append({"id": i, "conv_A": sides[a], "conv_B": sides[b], **own})
    return made


def reward_bench(n: int) -> list[Row]:
    """At least one row of each subset; ids begin anew in each."""
    subsets = list(islice(cycle(EXAMPLE_COUNTS), max(n, len(EXAMPLE_COUNTS))))
    models = {"chosen_model": "gpt-4", "rejected_model": "alpaca-7b"}
    return [
        {"prompt": question(i), "chosen": right(i), "rejected": wrong(i), **models, "subset": name, "id": i}
        for i, name in enumerate(subsets)
    ]


def reward_bench_2(n: int) -> list[Row]:
    def row(i: int, name: str, subset: str, chosen: Sequence[str]) -> Row:
        wrongs = several(i)[1:]
        counts = {"num_correct": len(chosen), "num_incorrect": 3, "total_completions": len(chosen) + 3}
        own = {"id": name, "prompt": question(i), "chosen": list(chosen), "rejected": wrongs, "subset": subset}
        return {**own, **counts, "models": ["gpt-4"] * (len(chosen) + 3), "additional_metadata": "{}"}

    best = [row(i, str(i), name, [right(i)]) for i, name in enumerate(islice(cycle(SUBSETS[:-1]), max(n, 5)))]
    ties = [row(50, "ref:0", "Ties", ["100."]), row(50, "tied:0", "Ties", ["It is 100.", "100."])]
    return best + ties


def prior(n: int) -> list[Row]:
    """Of every second one the prompt has several turns."""
    more = [user("Hello."), assistant("Hi.")]
    return [
        {"prompt": [*more[: 2 * (i % 2)], user(question(i))], "chosen": right(i), "rejected": wrong(i)}
        for i in range(n)
    ]


def rm_bench(n: int) -> list[Row]:
    """ids repeat across domains, as in the real one."""
    made = []
    for i, domain in enumerate(islice(cycle(DOMAINS), max(n, len(DOMAINS)))):
        chosen, rejected = ([said, f"{said} Indeed.", f"**{said}** Indeed."] for said in (right(i), wrong(i)))
        own = {"id": str(i // len(DOMAINS)), "prompt": question(i), "chosen": chosen, "rejected": rejected}
        made.append({**own, "domain": domain})
    return made


def alpaca_eval(n: int) -> list[Row]:
    own = {"generator": "gpt4_1106_preview", "dataset": "helpful_base"}
    return [{"dataset": own["dataset"], "instruction": question(i), "output": right(i), **own} for i in range(n)]


def card(splits: dict[str, str], config: str = "default") -> str:
    files = [{"split": split, "path": path} for split, path in splits.items()]
    return f"---\nconfigs:\n- config_name: {config}\n  data_files: {json.dumps(files)}\n---\n# A data set\n"


def repositories(n: int = 8) -> dict[str, dict[str, list[Row] | str]]:
    """{id: {file: its rows, or its text}}."""
    shard = "data/{}-00000-of-00001.parquet"
    rm = "rm-robustness/ultrafeedback-"
    return {
        "HuggingFaceH4/ultrachat_200k": {
            shard.format("train_sft"): ultrachat(n),
            shard.format("test_sft"): ultrachat(2),
            "README.md": card({"train_sft": "data/train_sft-*", "test_sft": "data/test_sft-*"}),
        },
        "allenai/tulu-3-sft-mixture": {shard.format("train"): tulu(n)},
        f"{rm}train": {shard.format("train"): [pair(i) for i in range(n)]},
        f"{rm}valid-1-in-domain": {shard.format("train"): [pair(i) for i in range(n)]},
        f"{rm}valid-2-prompt-ood": {shard.format("train"): ranked(n, 100)},
        f"{rm}valid-3-response-ood": {shard.format("train"): ranked(n)},
        f"{rm}valid-4-mutual-ood": {shard.format("train"): ranked(n, 100)},
        "openbmb/UltraFeedback": {
            "evol_instruct.jsonl": completions(n - n // 2),
            "sharegpt.jsonl": [{**row, "source": "sharegpt"} for row in completions(n)[n - n // 2 :]],
            "README.md": "# No header\n",
        },
        "Skywork/Skywork-Reward-Preference-80K-v0.2": {
            shard.format("train"): [{**pair(i), "source": "magpie"} for i in range(n)]
        },
        "llm-blender/Unified-Feedback": {
            "all/train-00000-of-00001.parquet": rated(max(n, 40)),
            "all/val-00000-of-00001.parquet": rated(2),
            "README.md": card({"train": "all/train-*", "val": "all/val-*"}, "all"),
        },
        "allenai/reward-bench": {
            "data/filtered-00000-of-00001.parquet": reward_bench(n),
            "data/raw-00000-of-00001.parquet": reward_bench(2),
        },
        "allenai/reward-bench-2": {shard.format("test"): reward_bench_2(n)},
        "allenai/pref-test-sets": {shard.format(name): prior(4) for name in PRIOR_SETS},
        "THU-KEG/RM-Bench": {"total_dataset.json": rm_bench(n), "README.md": "---\nlicense: odc-by\n---\n"},
        "tatsu-lab/alpaca_eval": {
            "alpaca_eval_gpt4_baseline.json": alpaca_eval(n),
            "alpaca_eval.py": "raise RuntimeError('a loading script was run')\n",
        },
    }


def write(root: Path, n: int = 8) -> Path:
    """All of them under root/datasets."""
    for id, files in repositories(n).items():
        for name, rows in files.items():
            path = root / "datasets" / id / name
            path.parent.mkdir(parents=True, exist_ok=True)
            put(path, rows)
    return root


def put(path: Path, rows: list[Row] | str) -> None:
    if isinstance(rows, str):
        path.write_text(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
