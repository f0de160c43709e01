"""A language model of a dozen words that RLOO trains in a second or two, rewards that can be worked out, and a reward
model that reads bytes."""

import dataclasses
from functools import cache, partial
from pathlib import Path
from typing import Any

import tiny
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from pipeline import attention, contract, models, policy
from pipeline.checkpoint import Checkpoints
from pipeline.dist import Learner, Parallel
from pipeline.experiment import Experiment
from pipeline.fit import fit
from pipeline.packing import Group, Mode
from pipeline.proxy import Reward
from pipeline.rollout import Prompt
from pipeline.stages.rloo import Steps

WORDS = ["<pad>", "<eos>", *"abcdefghij"]
A, B, C = (WORDS.index(word) for word in "abc")
PROMPTS = [Prompt(" ".join(words), [WORDS.index(w) for w in words]) for words in ("de", "fgh", "d", "ihgfe")]
OVERRIDES = (
    *("rloo.steps=100", "rloo.prompts=4", "rloo.k=4", "rloo.max_new=5", "rloo.whiten_samples=4"),
    *("rloo.reward_transform=none", "rloo.missing_eos=0", "rloo.kl=0", "log.every=1"),
    *("rloo.optim.lr=0.02", "rloo.optim.schedule=linear", "rloo.optim.warmup=0"),
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")


def lm(mode: Mode = "shared", seed: int = 0, std: float = 0.3) -> PreTrainedModel:
    """With opinions, but no strong ones."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **sizes, **heads, pad_token_id=0, eos_token_id=1))
    for parameter in made.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=std)
    attention.use(made, mode)
    return made


def settings(*overrides: str) -> Experiment:
    return tiny.experiment(*OVERRIDES, *overrides)


def learner(model: PreTrainedModel, x: Experiment, parallel: Parallel = "ddp") -> Learner:
    return Learner(model, partial(policy.logprobs, temperature=x.rloo.temperature), parallel)


def trained(
    folder: Path, reward: Reward, *overrides: str, model: PreTrainedModel | None = None, parallel: Parallel = "ddp",
    **run: Any,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:  # fmt: skip
    """The policy after RLOO, and its curve."""
    x = settings(*overrides)
    x = dataclasses.replace(x, run=dataclasses.replace(x.run, **run))
    out = folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    learning = learner(lm() if model is None else model, x, parallel)
    steps = Steps(tiny.view_of("rloo", x), out, learning, tokenizer(), PROMPTS, reward)
    turns = len(steps.objective.parts())
    state = {"curve": steps.curve}
    how = steps.update, x.rloo.steps, x.rloo.optim, Checkpoints(out, x.run), steps.track, state
    fit(learning, *how, turns=turns, shown=steps.watch)
    return learning.model, steps.curve


def count(word: str) -> Reward:
    """How often a response says it."""
    return lambda asked, said: torch.tensor([float(text.split().count(word)) for text in said])


def first(worth: dict[str, float]) -> Reward:
    """What its first word is worth."""
    return lambda asked, said: torch.tensor([worth.get(text.split()[0] if text else "", 0.0) for text in said])


@torch.no_grad()
def answers(model: PreTrainedModel) -> Tensor:
    """(prompts, words) probabilities of the first word."""
    each = [model(input_ids=torch.tensor([p.ids])).logits[0, -1].softmax(-1) for p in PROMPTS]
    return torch.stack(each)


def rollouts(seed: int = 0, k: int = 4) -> list[Group]:
    """k responses of different lengths to each prompt."""
    draw = torch.Generator().manual_seed(seed)

    def response() -> list[int]:
        length = int(torch.randint(1, 6, (), generator=draw))
        return [*torch.randint(2, len(WORDS), (length,), generator=draw).tolist(), 1]

    return [Group(p.ids, [response() for _ in range(k)]) for p in PROMPTS]


# --- a reward model that speaks another language ---

TEMPLATE = "{% for m in messages %}[{{ m['role'][0] }}]{{ m['content'] }}{% endfor %}|"


@cache
def reward_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and a template that no policy here has."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(BPE({token: i for i, token in enumerate(["<none>", "<end>", *alphabet])}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<none>", eos_token="<end>", chat_template=TEMPLATE, model_max_length=2000
    )


def reward_model() -> LlamaForSequenceClassification:
    torch.manual_seed(4)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_labels": 1, "pad_token_id": 0}
    config = LlamaConfig(vocab_size=len(reward_tokenizer()), **sizes, **heads, max_position_embeddings=2000)
    model = LlamaForSequenceClassification(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def reward_folder(folder: Path) -> Path:
    models.save(reward_model(), reward_tokenizer(), folder)
    contract.write(folder)
    return folder
