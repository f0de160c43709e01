"""One iteration of RLOO beside the same by TRL's RLOOTrainer: sample, score with a reward model, reference
log-probabilities, one update; same models, prompts and precision (fp32), no gradient checkpointing. A Llama of width
256 with 4 layers and 8,192 words as policy and as reward model.

TRL is run with its LM head restricted to response positions, as it does where Triton is there: without it the
comparison would be easier. An untrained model never stops, so many words count as ends of a response. Each side samples
for itself, so time is compared for each token sampled. Prompts are log-normal around 120 tokens.
"""

import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl import RLOOConfig, RLOOTrainer
from trl.trainer import utils as trl_utils

from benchmarks.bar import Bar, publish
from pipeline import attention, config, policy, rollout, scoring
from pipeline.dist import Learner
from pipeline.experiment import Rloo
from pipeline.objective import Objective
from pipeline.placed import Placed
from pipeline.rollout import Prompt
from pipeline.watch import Clock

ROUNDS = 5
K = 4
VOCABULARY, LAYERS, WIDTH, LONGEST = 8192, 4, 256, 1024
MICRO = 8  # responses in a micro-batch of TRL
TOKENS = 4096  # in a micro-batch of ours
PEER = "TRL RLOOTrainer, LM head on responses only, fp32, no checkpointing"


@dataclass(frozen=True)
class Case:
    name: str
    prompts: int
    max_new: int
    ends: int  # words that end a response


SHORT = Case("short", prompts=8, max_new=128, ends=100)
LONG = Case("long", prompts=4, max_new=384, ends=36)

Step = Callable[[], float]  # CPU seconds


def main() -> int:
    torch.set_num_threads(1)
    disable_progress_bars()
    trl_utils._use_triton = lambda device: True  # takes the path that leaves prompts out; it needs no Triton itself
    with tempfile.TemporaryDirectory() as folder:
        for name, made in (("policy", language_model()), ("rm", reward_model())):
            made.save_pretrained(Path(folder) / name)  # TRL loads its reference from there
        cases = {LONG: (2.0, 2.8), SHORT: (3.0, 4.0)}
        return publish([measured(case, Path(folder), *bounds) for case, bounds in cases.items()])


def measured(case: Case, folder: Path, must: float, aim: float) -> Bar:
    prompts = drawn(case)
    read: dict[str, int] = {}
    steps = {"ours": ours(case, prompts, folder, read), "trl": peer(case, prompts, folder, read)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    steps["ours"]()  # warm
    tokens: dict[str, list[int]] = {name: [] for name in steps}
    for i in range(ROUNDS):
        for name in list(steps)[:: 1 if i % 2 == 0 else -1]:
            seconds[name].append(steps[name]())
            tokens[name].append(read[name])
    own, theirs = ([s / n for s, n in zip(seconds[name], tokens[name], strict=True)] for name in ("ours", "trl"))
    ratios = [b / a for a, b in zip(own, theirs, strict=True)]
    value = statistics.median(ratios)
    about = {
        "cpu_seconds": statistics.median(seconds["ours"]),
        "peer_cpu_seconds": statistics.median(seconds["trl"]),
        "sampled": statistics.median(tokens["ours"]),
        "peer_sampled": statistics.median(tokens["trl"]),
    }
    name = f"RLOO iteration per sampled token, {case.prompts} prompts, {K} responses of at most {case.max_new} tokens"
    file = f"rloo-step-{case.name}"
    return Bar(file, name, value, "times as fast", "higher", ratios, must, aim, peer=PEER, ratio=value, more=about)


# --- prompts and models ---


def drawn(case: Case) -> list[Prompt]:
    """Of the lengths of a draw whose mean is near to that of a large one."""
    draw = random.Random(0)

    def lengths() -> list[int]:
        found = (int(draw.lognormvariate(math.log(120), 0.8)) for _ in range(100))
        return [n for n in found if 8 <= n <= LONGEST - case.max_new][: case.prompts]

    typical = statistics.mean(n for _ in range(100) for n in lengths())
    chosen = min((lengths() for _ in range(20)), key=lambda each: abs(statistics.mean(each) - typical))
    ids = [[draw.randrange(10, VOCABULARY - 200) for _ in range(n)] for n in chosen]
    return [Prompt(" ".join(f"w{i}" for i in each), each) for each in ids]


def sizes() -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "intermediate_size": 688,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
    }


def language_model() -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**sizes()))


def reward_model() -> PreTrainedModel:
    torch.manual_seed(1)
    return AutoModelForSequenceClassification.from_config(LlamaConfig(**sizes(), num_labels=1))


def policy_in(folder: Path, case: Case) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder / "policy")
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [2, *range(VOCABULARY - case.ends, VOCABULARY)]
    model.generation_config.pad_token_id = 0
    return model


def words(padding_side: str = "left") -> PreTrainedTokenizerFast:
    vocabulary = {f"w{i}": i for i in range(3, VOCABULARY)} | {"<pad>": 0, "<bos>": 1, "<eos>": 2}
    made = Tokenizer(WordLevel(vocabulary, unk_token="w9"))
    made.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]  # a property with a setter
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side=padding_side,
        chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}",
    )


# --- the steps ---


def ours(case: Case, prompts: Sequence[Prompt], folder: Path, read: dict[str, int]) -> Step:
    model, reference = policy_in(folder, case).train(), policy_in(folder, case)
    rm = AutoModelForSequenceClassification.from_pretrained(folder / "rm").eval()
    for each in (model, reference, rm):
        attention.use(each, "shared")
    settings = settings_of(case)
    learner = Learner(model, policy.logprobs)
    objective = Objective(learner, Placed(reference, policy.logprobs), settings, TOKENS, Clock())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    tokenizer, draw = words(), random.Random(0)

    def step() -> float:
        seeds = [draw.getrandbits(40) for _ in prompts]
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        rollouts = rollout.roll(model, tokenizer, prompts, settings, seeds, K)
        reward = torch.from_numpy(scoring.score(rm, tokenizer, rollouts.asked, rollouts.said, TOKENS)[0])
        objective.learn(rollouts.groups, reward, objective.parts()[0], None)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        read["ours"] = sum(rollouts.lengths)
        return time.process_time() - start

    return step


def settings_of(case: Case) -> Rloo:
    return replace(config.experiment(()).rloo, prompts=case.prompts, k=K, max_new=case.max_new)


class Seconds(TrainerCallback):
    """CPU seconds of the iteration alone."""

    spent = 0.0

    def on_epoch_begin(self, *_: object, **__: object) -> None:
        self.spent -= time.process_time()

    def on_epoch_end(self, *_: object, **__: object) -> None:
        self.spent += time.process_time()


def peer(case: Case, prompts: Sequence[Prompt], folder: Path, read: dict[str, int]) -> Step:
    data = Dataset.from_dict({"prompt": [p.text for p in prompts]})
    rm = AutoModelForSequenceClassification.from_pretrained(folder / "rm")
    draw = random.Random(1)

    class Counting(RLOOTrainer):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            found = super()._generate_single_turn(*args, **kwargs)
            read["trl"] = sum(map(len, found))
            return found

    def step() -> float:
        clock = Seconds()
        with tempfile.TemporaryDirectory() as scratch:
            settings = RLOOConfig(
                output_dir=scratch,
                per_device_train_batch_size=MICRO,
                gradient_accumulation_steps=len(prompts) * K // MICRO,
                num_generations=K,
                max_completion_length=case.max_new,
                beta=0.05,
                max_steps=1,
                seed=draw.getrandbits(30),
                shuffle_dataset=False,
                bf16=False,
                gradient_checkpointing=None,  # none; False warns
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            )
            trainer = Counting(
                policy_in(folder, case),
                rm,
                settings,
                train_dataset=data,
                processing_class=words(),
                reward_processing_classes=[words("right")],
                callbacks=[clock],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return clock.spent

    return step


if __name__ == "__main__":
    sys.exit(main())
