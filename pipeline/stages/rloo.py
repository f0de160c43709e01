"""RLOO: k responses to each prompt, reward less β·KL, leave-one-out advantages, one on-policy update a step."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import attention, chat, contract, lora, models, packing, rows, scoring, world
from pipeline.advantages import leave_one_out
from pipeline.checkpoint import Checkpoints
from pipeline.experiment import Rloo
from pipeline.fit import fit
from pipeline.order import step_rows
from pipeline.packing import Group
from pipeline.sample import Sampling, sample
from pipeline.seeds import derive
from pipeline.stage import Inputs, Sections
from pipeline.track import Track

Reward = Callable[[Sequence[str], Sequence[str], Sequence[bool]], Tensor]  # prompts, responses, ended -> (n,)


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    policy, tokenizer = models.load_lm(inputs["sft"], x.run.packing)
    attention.refuse_dropout(policy)
    reference = copy.deepcopy(policy).eval()
    prompts = [rows.prompt_of(row) for row in rows.read(inputs["data"])]
    reward = whitened(x, inputs, reference, tokenizer, prompts)
    eos = chat.eos(tokenizer)
    curve: list[dict[str, float]] = []

    def update(step: int) -> dict[str, Tensor | float]:
        asked = [prompts[i] for i in step_rows(len(prompts), x.rloo.prompts, derive(x.seed, "rloo"), step)]
        texts = [t for t in asked for _ in range(x.rloo.k)]
        cues, answers = rollout(policy, tokenizer, asked, x.rloo, derive(x.seed, "rloo", "rollout", step), x.rloo.k)
        ended = [a[-1] == eos for a in answers]
        said = decode(tokenizer, answers)
        score = reward(texts, said, ended)
        at = packing.layout(grouped(cues, answers, x.rloo.k), attention.mode(policy))
        logp = per_response(models.logprobs(policy, at, x.rloo.temperature), at, len(texts))
        with torch.no_grad():
            kl = logp - per_response(models.logprobs(reference, at, x.rloo.temperature), at, len(texts))
            advantage = leave_one_out((score - x.rloo.kl * kl).view(-1, x.rloo.k)).flatten()
        loss = -(advantage * logp).mean()
        loss.backward()
        curve.append({
            "loss": float(loss.detach()),
            "reward": float(score.mean()),
            "kl": float(kl.mean()),
            "tokens": sum(map(len, answers)) / len(answers),
            "ended": sum(ended) / len(ended),
            "gold": sum(map(world.gold, texts, said, ended)) / len(texts),
        })  # fmt: skip
        return dict(curve[-1])

    steps = x.rloo.steps
    with lora.adapted(policy, x.rloo.optim.lora, derive(x.seed, "rloo", "lora")):
        fit(
            policy,
            update,
            steps,
            x.rloo.optim,
            Checkpoints(out, x.run),
            lambda at: Track(x, out, steps, at),
            {"curve": curve},
        )
    models.save(policy, tokenizer, out)
    (out / "curve.json").write_text(json.dumps(curve))
    return {f"final_{name}": value for name, value in curve[-1].items()}


def whitened(
    x: Sections, inputs: Inputs, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> Reward:
    """The reward of a response: learned or gold, on the scale of SFT samples if asked, less the penalty for no end."""
    raw = gold if x.rloo.reward == "gold" else learned(inputs["rm"], x.run.packing, x.run.micro_tokens)
    shift, scale = 0.0, 1.0
    if x.rloo.reward_transform == "whiten_sft":
        asked = list(prompts[: x.rloo.whiten_samples])
        _, answers = rollout(reference, tokenizer, asked, x.rloo, derive(x.seed, "rloo", "whiten"))
        scored = raw(asked, decode(tokenizer, answers))
        shift, scale = float(scored.mean()), float(scored.std()) + 1e-6

    def reward(asked: Sequence[str], said: Sequence[str], ended: Sequence[bool]) -> Tensor:
        return (raw(asked, said) - shift) / scale - x.rloo.missing_eos * (~torch.tensor(ended)).float()

    return reward


def gold(asked: Sequence[str], said: Sequence[str]) -> Tensor:
    return torch.tensor([world.gold(q, a) for q, a in zip(asked, said, strict=True)])


def learned(folder: Path, mode: packing.Mode, tokens: int) -> Callable[[Sequence[str], Sequence[str]], Tensor]:
    """By the scoring function, with the reward model's own tokenizer and template."""
    model, tokenizer = contract.load(folder, mode)
    return lambda asked, said: torch.from_numpy(scoring.score(model, tokenizer, asked, said, tokens)[0])


def rollout(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[str], settings: Rloo, seed: int,
    k: int = 1,
) -> tuple[list[list[int]], list[list[int]]]:  # fmt: skip
    """Ids of each prompt, and of k samples for each."""
    cues = chat.prompts(tokenizer, asked)
    how = Sampling(settings.max_new, settings.temperature, stops=(chat.eos(tokenizer),))
    return cues, sample(model, cues, how, [derive(seed, i) for i in range(len(cues))], k)


def grouped(cues: Sequence[list[int]], answers: Sequence[list[int]], k: int) -> list[Group]:
    """k answers to one prompt after the other."""
    return [Group(cue, list(answers[i * k : (i + 1) * k])) for i, cue in enumerate(cues)]


def decode(tokenizer: PreTrainedTokenizerBase, answers: Sequence[Sequence[int]]) -> list[str]:
    return tokenizer.batch_decode([list(a) for a in answers], skip_special_tokens=True)


def per_response(values: Tensor, at: packing.Layout, n: int) -> Tensor:
    """(m,) values of tokens → (n,) sums over each response."""
    return torch.zeros(n).index_add(0, at.owner, values)
