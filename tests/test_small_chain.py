"""The whole chain at scale=small, offline, with the hub in a folder: stand-ins for its models, and made-up rows in its
data sets' own schemas. The preset is as it is but for steps, batches, new tokens and RLOO's learning rate."""

import json
import math
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import families
import hub_fixtures
import numpy as np
import pytest
import torch
from families import FAMILIES
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline import actions, config, contract, plan, rows, scoring, store
from pipeline.plan import Node
from pipeline.stages import STAGES

pytestmark = pytest.mark.slow

QWEN, GEMMA = FAMILIES["qwen2.5-0.5b"], FAMILIES["gemma-2b-it"]
LOSSES = ("bt", "norm_bt", "bsr")
SIZES = (
    *("scale=small", "sft.batch=8", "rm.batch=16", "rloo.steps=2", "rloo.prompts=4", "rloo.whiten_samples=4"),
    *("rloo.max_new=12", "generate.max_new=12", "data.alpaca_eval.sha256=null", "rm.probe_every=1"),
    "compute.precision=bf16",  # as on a GPU
    "rloo.optim.lr=1e-2",  # in two steps, from which other words must come
)
OTHERS = {  # what a chain of one model does not show: {stage: its choices}
    "rloo": ("dialect=reference", "rloo=reference", "model=llama-3.2-1b", "policy=bsr-ultrachat", "loss=bsr"),
    "score": ("data=skywork", "model=gemma-2b-it", "sft.steps=0", "sft.epochs=null", "compute.precision=fp32"),
}
CPU_SECONDS = 300
ROWS = 32  # of a data set
NO_NETWORK = """
import socket

class Socket(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            raise OSError("no network in tests")
        return super().connect(address)

socket.socket = Socket
"""


class Chains:
    """What was asked for, by stage and loss, or by stage and "other"."""

    def __init__(self, root: Path, graph: Mapping[str, Node], wanted: dict[tuple[str, str], Node]):
        self.hub, self.graph, self.wanted = root / "hub", graph, wanted

    def metrics(self, stage: str, which: str) -> dict[str, float]:
        made = store.manifest(self.wanted[stage, which].folder)
        assert made is not None
        return made["metrics"]

    def below(self, stage: str, which: str, *inputs: str) -> Path:
        """The folder of an input, or of an input's input."""
        node = self.wanted[stage, which]
        for name in inputs:
            node = node.inputs[name]
        return node.folder / "out"


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Chains:
    root = tmp_path_factory.mktemp("small")
    (root / "site").mkdir()
    (root / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    hub_fixtures.write(root / "hub", ROWS)
    where = (f"hub.root={root / 'hub'}", f"run.root={root / 'results'}", "run.jobs=1")
    own = {loss: config.experiment((*SIZES, *where, f"loss={loss}")) for loss in LOSSES}
    asked = {(stage, loss): (stage, x) for loss, x in own.items() for stage in ("bench", "alpaca_eval")}
    for stage, choices in OTHERS.items():
        asked[stage, "other"] = (stage, config.experiment((*SIZES, *where, *choices)))
    judge = own["bt"].judge.id
    models = {"Qwen/Qwen2.5-0.5B": QWEN, "Qwen/Qwen2.5-1.5B": QWEN, judge: replace(QWEN, eos="<|im_end|>")}
    models |= {"meta-llama/Llama-3.2-1B": FAMILIES["llama-3.2-3b"], "google/gemma-2b-it": GEMMA}
    for seed, (id, family) in enumerate(models.items()):
        families.write(root / "hub" / "models" / str(id), family, seed, positions=4096)
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {"PYTHONPATH": str(root / "site"), "HF_HUB_OFFLINE": "1", "HF_HOME": str(root)}.items():
            patch.setenv(key, value)
        net = "import socket; socket.create_connection(('127.0.0.1', 9))"
        done = subprocess.run([sys.executable, "-c", net], capture_output=True, text=True)
        assert "no network in tests" in done.stderr
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert actions.stages(list(asked.values()), {"run"}) == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_SECONDS
    graph, nodes = plan.build(STAGES, root / "results" / "runs", list(asked.values()))
    plan.judge(graph, nodes)
    return Chains(root, graph, dict(zip(asked, nodes, strict=True)))


def test_all_is_made_and_losses_share_what_comes_before(chains: Chains) -> None:
    assert {node.state for node in chains.wanted.values()} == {"reuse"}
    starts = {chains.below("bench", loss, "score", "rm", "sft") for loss in LOSSES}
    trained = {chains.below("bench", loss, "score", "rm") for loss in LOSSES}
    assert (len(starts), len(trained)) == (1, len(LOSSES))
    weights = [load_file(folder / "model.safetensors")["score.weight"] for folder in trained]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])
    # SFT itself: every conversation was learned from, in one epoch
    (start,) = starts
    folder = chains.hub / "models" / "Qwen/Qwen2.5-0.5B"
    before, after = (load_file(f / "model.safetensors")["model.norm.weight"] for f in (folder, start))
    assert (before.dtype, after.dtype) == (torch.bfloat16, torch.float32) and not torch.equal(before.float(), after)


@pytest.mark.parametrize("loss", LOSSES)
def test_benchmarks_and_win_rates_are_there(chains: Chains, loss: str) -> None:
    bench, won = chains.metrics("bench", loss), chains.metrics("alpaca_eval", loss)
    for name in ("in_domain/accuracy", "reward_bench/average", "reward_bench_2/average", "rm_bench/total_avg_acc"):
        assert math.isfinite(bench[name])
    for name in ("in_domain", "prompt", "response", "mutual"):
        assert bench[f"scenarios/{name}/n"] == ROWS and -1 <= bench[f"scenarios/{name}/tau"] <= 1
    assert bench["in_domain/ties"] == 0 and won["n_total"] == ROWS and 0 <= won["win_rate"] <= 100
    judged = rows.read(chains.below("alpaca_eval", loss, "judge"))
    assert {letter["token"] for row in judged for letter in json.loads(row["top_logprobs"] or "[]")} == {"m", "M"}
    policy = chains.below("alpaca_eval", loss, "judge", "policy", "policy")
    assert (policy / "curve.json").is_file()
    start, end = (
        load_file(f / "model.safetensors")["model.norm.weight"]
        for f in (chains.below("bench", loss, "score", "rm", "sft"), policy)
    )
    assert not torch.equal(start, end)


def test_a_policy_of_another_family_writes_as_the_published_code_does(chains: Chains) -> None:
    """The reward model is a Llama, the policy a Qwen; zephyr for both, BOS for neither's reward."""
    policy, rm = chains.below("rloo", "other", "sft"), chains.below("rloo", "other", "rm")
    words = {folder: AutoTokenizer.from_pretrained(folder) for folder in (policy, rm, chains.below("rloo", "other"))}
    assert [t.eos_token for t in words.values()] == ["<|im_end|>", "<|eot_id|>", "<|im_end|>"]
    assert all("<|assistant|>" in t.apply_chat_template(scoring.talk("?", "!"), tokenize=False) for t in words.values())
    said = json.loads((rm / contract.NAME).read_text())
    assert (said["ending"][0], len(said["ending"]), said["bos"]["times"]) == ("<|eot_id|>", 2, 0)


def test_without_sft_the_reward_model_begins_with_the_hubs_weights(chains: Chains) -> None:
    start = load_file(chains.below("score", "other", "rm", "sft") / "model.safetensors")
    own = load_file(chains.hub / "models" / "google/gemma-2b-it" / "model.safetensors")
    assert all(torch.equal(start[name], weight.float()) for name, weight in own.items())


def test_what_is_scored_is_what_plain_transformers_says(chains: Chains) -> None:
    folder = chains.below("score", "other", "rm")
    scored = [row for row in rows.read(chains.below("score", "other"), "scores") if row["set"] == "rm_bench"]
    data = {row["id"]: row for row in rows.read(chains.below("score", "other", "rm_bench"))}
    answers = [rows.responses_of(data[row["id"]])[row["response"]] for row in scored]
    talks = [scoring.talk(rows.asked_of(data[row["id"]]), said) for row, said in zip(scored, answers, strict=True)]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    batch = tokenizer.apply_chat_template(talks, return_tensors="pt", return_dict=True, padding=True)
    with torch.no_grad():
        plain = model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].numpy()
    ours = np.array([row["reward"] for row in scored])
    assert len(ours) == 6 * ROWS and np.abs(ours - plain).max() <= 1e-5 * np.abs(ours).max()
