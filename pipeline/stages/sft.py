"""Supervised fine-tuning of a causal language model on conversations; the artefact is an ordinary Hugging Face
folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import attention, base, chat, dist, lora, models, order, packing, rows
from pipeline.checkpoint import Checkpoints
from pipeline.dist import Learner
from pipeline.experiment import Model
from pipeline.fit import fit
from pipeline.packing import Group
from pipeline.rows import Row
from pipeline.seeds import derive
from pipeline.stage import Inputs, Sections
from pipeline.track import Track

NORM_SAMPLES = 256  # conversations on which the mean ‖h‖ is measured


@dataclass(frozen=True)
class Sample:
    """A conversation as one group, and how much each token after the prompt counts."""

    group: Group
    weights: list[float]


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    seed = x.sft.seed
    model, tokenizer = base.make(x.model, derive(seed, "sft", "init"), x.hub.root)
    if x.sft.steps == 0:
        models.save(model, tokenizer, out)
        return {}
    attention.use(model, x.run.packing)
    attention.refuse_dropout(model)
    learner = Learner(model, weighted_loss, x.run.parallel, x.run.recompute)
    samples, too_long = encode(tokenizer, rows.read(inputs["data"]), x.sft.max_length, x.sft.learns)
    steps = x.sft.steps or x.sft.epochs * order.epoch_steps(len(samples), x.sft.batch)

    def batch_of(step: int) -> list[Sample]:
        return [samples[i] for i in order.step_rows(len(samples), x.sft.batch, derive(seed, "sft"), step)]

    def update(step: int) -> dict[str, Tensor | float]:
        return {"loss": learn(learner, batch_of(step), x.run.micro_tokens)}

    with lora.adapted(model, x.sft.optim.lora, derive(seed, "sft", "lora")), dist.spread(learner):
        fit(learner, update, steps, x.sft.optim, Checkpoints(out, x.run), lambda step: Track(x, out, steps, step))
    learner.to(dist.device())
    final = mean_loss(model, samples[: 32 * x.sft.batch], x.run.micro_tokens)
    spread(x.model, model, samples, seed)
    models.save(model, tokenizer, out)
    tokens = sum(s.group.tokens for step in range(steps) for s in batch_of(step))
    return {"loss": final, "samples": len(samples), "too_long": too_long, "tokens": tokens}


def encode(
    tokenizer: PreTrainedTokenizerBase, data: Sequence[Row], limit: int, learns: Literal["all"] | None = None
) -> tuple[list[Sample], int]:
    """Token ids and weights of every conversation. Those over the limit are left out and counted."""
    whole = chat.ids(tokenizer, [row["messages"] for row in data])
    fitting = [(row["messages"], ids) for row, ids in zip(data, whole, strict=True) if len(ids) <= limit]
    return [weighted(tokenizer, talk, ids, learns) for talk, ids in fitting], len(data) - len(fitting)


def weighted(
    tokenizer: PreTrainedTokenizerBase, talk: chat.Messages, ids: list[int], learns: Literal["all"] | None
) -> Sample:
    """Each answer's tokens have its weight, from where it is the assistant's to speak to its end. A user's last word
    is learned by its first token, the verdict, and ends the sample: the rest of it would teach nothing. `all`: each
    other token up to the last answer counts as well, 1."""
    weights = [1.0 if learns == "all" else 0.0] * len(ids)
    starts, end = [], 0
    for at, turn in enumerate(talk):
        if turn["role"] == "assistant":
            (cue,), (said,) = chat.ids(tokenizer, [talk[:at]], cue=True), chat.ids(tokenizer, [talk[: at + 1]])
            start, end = chat.common_prefix([cue, ids]), chat.common_prefix([said, ids])
            weights[start:end] = [turn["weight"]] * (end - start)
            starts.append(start)
    assert starts, "there is an answer"
    if talk[-1]["role"] == "user":
        verdict = first_word(tokenizer, talk, ids, end)
        weights[end : verdict + 1] = [0.0] * (verdict - end) + [talk[-1]["weight"]]
        end = verdict + 1
    start = 1 if learns == "all" else starts[0]
    return Sample(Group(ids[:start], [ids[start:end]]), weights[start:end])


def first_word(tokenizer: PreTrainedTokenizerBase, talk: chat.Messages, ids: list[int], end: int) -> int:
    """Where the last turn's words begin, after an answer that ends at `end`."""
    (silent,) = chat.ids(tokenizer, [[*talk[:-1], *chat.user("")]])
    said = chat.common_prefix([silent, ids])
    if said > end:  # what the template writes may take the space of the first word away from it
        said += next(i for i, id in enumerate(ids[said:]) if str(tokenizer.decode([id])).strip())
    return said


def learn(learner: Learner, batch: Sequence[Sample], tokens: int) -> Tensor:
    """Adds up the gradient of the batch's mean loss; returns that loss."""
    total = sum(sum(s.weights) for s in batch)
    loss = torch.zeros((), device=learner.model.device)
    for at, groups in learner.batches([s.group for s in batch], tokens):
        part = learner(groups, [batch[i].weights for i in at]) / total
        part.backward()
        loss += part.detach()
    return learner.total(loss)


def weighted_loss(model: PreTrainedModel, groups: Sequence[Group], weights: Sequence[Sequence[float]]) -> Tensor:
    """Sum over tokens of weight times cross-entropy."""
    at = packing.layout(groups, attention.mode(model), str(model.device))
    weight = torch.tensor([w for each in weights for w in each], device=model.device)
    learned = weight > 0
    with dist.autocast():
        logits = model.get_output_embeddings()(models.hidden(model, at)[at.before[learned]])  # type: ignore[misc]  # a module
    return (weight[learned] * F.cross_entropy(logits.float(), at.target[learned], reduction="none")).sum()


@torch.no_grad()
def mean_loss(model: PreTrainedModel, samples: Sequence[Sample], tokens: int) -> float:
    batches = packing.batches([s.group for s in samples], tokens, attention.mode(model))
    total = sum(float(weighted_loss(model, groups, [samples[i].weights for i in at])) for at, groups in batches)
    return total / sum(sum(s.weights) for s in samples)


def spread(settings: Model, model: PreTrainedModel, samples: Sequence[Sample], seed: int) -> None:
    """Tiny models only: see conf/model/tiny-llama.yaml."""
    if settings.gain_spread is not None and settings.gain_norm is not None:
        at = packing.layout([s.group for s in samples[:NORM_SAMPLES]], attention.mode(model), str(model.device))
        models.spread_gain(model, settings.gain_spread, settings.gain_norm, at, derive(seed, "sft", "gain"))
