"""A pairwise reward model with one loss: the SFT model's body, a head, one update for each batch of pairs.

Beside it lies what training did to each pair (`dynamics`) and, given a probe, to what is not trained on (`probe`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline import (
    attention,
    chat,
    contract,
    dist,
    dynamics,
    implicit,
    lora,
    losses,
    models,
    order,
    rows,
    scoring,
    text,
)
from pipeline.checkpoint import Checkpoints
from pipeline.dist import Learner
from pipeline.dynamics import Recorder
from pipeline.experiment import Rm
from pipeline.fit import fit
from pipeline.losses import PairScores
from pipeline.metrics.dynamics import of_training
from pipeline.packing import Group, Mode
from pipeline.probe import Probe
from pipeline.rows import Row
from pipeline.seeds import derive
from pipeline.stage import Inputs, Sections
from pipeline.track import Track
from pipeline.world.sft import RIGHT_REPLY, WRONG_REPLY

OFFSET_PAIRS = 64


def run(x: Sections, inputs: Inputs, out: Path) -> dict[str, float]:
    seed = x.seed if x.rm.draw is None else derive(x.seed, "draw", x.rm.draw)
    model, tokenizer = started(x.rm, inputs["sft"], derive(seed, "rm", "head"), x.run.packing)
    learner = Learner(model, text.rewards if x.rm.text else models.rewards, x.run.parallel, x.run.recompute)
    chat.end(tokenizer, x.rm.read == "after_eos", x.rm.bos != "never")
    limit = x.rm.max_length or scoring.max_length(model, tokenizer)
    headed = x.rm.implicit is None
    whole = not headed or x.rm.text is not None
    pairs, kept, counts = encode(tokenizer, rows.read(inputs["data"]), limit, x.rm.overlong, whole)
    steps = x.rm.epochs * order.epoch_steps(len(pairs), x.rm.batch)
    batches = [order.step_rows(len(pairs), x.rm.batch, derive(seed, "rm"), step) for step in range(steps)]
    loss, margin = losses.make(**x.loss).to(dist.device()), margins(kept)
    recorder = Recorder(steps, x.rm.batch, (*loss.kept, *(["text"] if x.rm.text else [])))
    watched = rows.read(inputs["probe"]) if "probe" in inputs else None
    probe = None if watched is None else Probe(watched, tokenizer, steps, x.rm.probe_every, headed)

    def update(step: int) -> dict[str, Tensor | float]:
        if probe is not None and step in probe.times:
            with learner.entire() as entire:
                probe.look(step, entire, x.run.micro_tokens)
        groups = [pairs[i] for i in batches[step]]
        scores = forward(learner, groups, x.run.micro_tokens)
        own = None if margin is None else margin[batches[step]].to(model.device)
        scores = replace(scores, margin=own, done=step / steps)
        weight = loss.weights(scores)  # the call moves what they depend on
        value = loss(scores)
        total, said = text.added(value, scores, groups, x.rm.text)
        total.backward()
        head = dist.gathered(models.head(learner.held).weight) if headed else None
        return {**recorder.add(step, scores, weight, value, head, {**loss.kept, **said})}

    state = {"loss": loss, "recorder": recorder, **({} if probe is None else {"probe": probe})}
    with lora.adapted(model, x.rm.optim.lora, derive(seed, "rm", "lora")):
        with dist.spread(learner):
            if x.rm.head_offset is not None:
                offset_head(learner, pairs[:OFFSET_PAIRS], x.rm.head_offset, x.run.micro_tokens)
            few = pairs[: x.rm.batch]
            gradient_error = head_gradient_error(learner, few, x.run.micro_tokens) if headed else math.nan
            fit(
                learner,
                update,
                steps,
                x.rm.optim,
                Checkpoints(out, x.run),
                lambda step: Track(x, out, steps, step),
                state,
                names=lambda step: [kept[i].get("id", i) for i in batches[step]],
            )
        if probe is not None:  # gradients at the end are of what was trained, as at the start
            learner.to(dist.device())
            probe.look(steps, model, x.run.micro_tokens)
    if x.rm.text:
        text.drop_lm_head(model)
    models.save(model, tokenizer, out)
    learner.cpu()  # room for the one that is read again
    contract.write(out)
    said = recorded(out, recorder, [kept[i] for at in batches for i in at])
    said |= {} if probe is None else probe.write(out)
    said["head_norm"] = float(models.head(model).weight.detach().norm()) if headed else math.nan
    said["head_gradient_error"] = gradient_error
    return {
        **{name: value for name, value in said.items() if not math.isnan(value)},  # where it is defined
        "pairs": len(pairs),
        "tokens": sum(pairs[i].tokens for at in batches for i in at),
        **counts,
    }


def recorded(out: Path, recorder: Recorder, trained: Sequence[Row]) -> dict[str, float]:
    """dynamics.parquet and steps.parquet; returns what they say. `trained`: the pairs of all steps, in that order."""
    pairs, steps = recorder.columns([row.get("id") for row in trained])
    dynamics.write(out, "dynamics", pairs)
    dynamics.write(out, "steps", steps)
    families = [row["family"] for row in trained] if trained and "family" in trained[0] else None
    return of_training(pairs, steps, families)


def started(settings: Rm, sft: Path, seed: int, packing: Mode) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The reward model before its first step."""
    if settings.implicit is not None:
        model, tokenizer = implicit.new(sft, settings.implicit.beta), chat.load(sft)
        attention.use(model, packing)
    elif settings.head_init == "verdict":
        model, tokenizer = models.new_rm(sft, "stiennon", seed, packing)
        set_head(model, verdict(sft, tokenizer))
    else:
        model, tokenizer = models.new_rm(sft, settings.head_init, seed, packing, settings.head)
    if settings.norm_before_head:
        models.fix_gain(model)
    if settings.text:
        text.keep_lm_head(model, sft)
    attention.refuse_dropout(model)
    if settings.trains == "head":
        model.base_model.requires_grad_(False)
    return model, tokenizer


def verdict(sft: Path, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """(d,): with it as head, the reward is the SFT model's log-odds of the two replies of the world's user."""
    praise, blame = (tokenizer(reply, add_special_tokens=False)["input_ids"][0] for reply in (RIGHT_REPLY, WRONG_REPLY))  # type: ignore[index]  # ids
    embeddings = models.load_lm(sft)[0].get_output_embeddings()
    assert isinstance(embeddings, nn.Linear), "a causal LM's"
    return embeddings.weight[praise] - embeddings.weight[blame]


def offset_head(learner: Learner, groups: Sequence[Group], offset: float, tokens: int) -> None:
    """Adds `offset` to the mean reward of these pairs, along their mean representation."""
    with torch.no_grad():
        s = forward(learner, groups, tokens)
    mean = torch.cat([s.h_chosen, s.h_rejected]).mean(0)
    weight = dist.gathered(models.head(learner.held).weight.detach())[0]
    set_head(learner.held, weight + offset * mean / mean.square().sum())


@torch.no_grad()
def set_head(model: PreTrainedModel, weight: Tensor) -> None:
    own = models.head(model).weight
    own.copy_(dist.as_held(weight[None], own))


def encode(
    tokenizer: PreTrainedTokenizerBase,
    data: Sequence[Row],
    limit: int,
    overlong: Literal["cut"] | None = None,
    whole: bool = False,
) -> tuple[list[Group], list[Row], dict[str, int]]:
    """Pairs as groups of (chosen, rejected), their rows, and how many there are of which kind. Identical pairs teach
    nothing and are dropped; so are overlong ones, unless they are cut: as they are for scoring, so that the reward is
    read where it always is. `whole`: it is of all tokens of a response, so a group's prompt ends where these begin,
    and pairs are dropped whose prompts a cut has made different."""
    prompts = [rows.asked_of(row) for row in data]
    chosen = chat.answered(tokenizer, prompts, [row["chosen"] for row in data])
    rejected = chat.answered(tokenizer, prompts, [row["rejected"] for row in data])
    cues, ending = chat.prompts(tokenizer, prompts), scoring.ending(tokenizer)
    groups, kept = [], []
    found = {"dropped": 0, "identical": 0, "overlong": 0, "truncated": 0}
    for row, cue, *pair in zip(data, cues, chosen, rejected, strict=True):
        long = max(map(len, pair)) > limit
        starts = [chat.common_prefix([cue, ids]) for ids in pair]
        if long and overlong == "cut":
            pair, starts = zip(*(cut(*each, ending, limit) for each in zip(pair, starts, strict=True)), strict=True)
        same = chat.common_prefix(pair)
        if pair[0] == pair[1]:
            found["identical"] += 1
        elif long and (overlong is None or (whole and same < min(starts))):
            found["overlong"] += 1
        else:
            found["truncated"] += long
            own = starts if whole else [len(ids) - 1 for ids in pair]  # each keeps its response, or a token at least
            shared = min(same, *own)
            groups.append(Group(pair[0][:shared], [ids[shared:] for ids in pair]))
            kept.append(row)
    return groups, kept, found | {"dropped": len(data) - len(kept)}


def cut(ids: list[int], start: int, ending: int, limit: int) -> tuple[list[int], int]:
    """With where the response begins in what is left."""
    if len(ids) <= limit:
        return ids, start
    ids, dropped = scoring.cut(ids, start, ending, limit)
    return ids, start - dropped


def margins(kept: Sequence[Row]) -> Tensor | None:
    """(n,) if all pairs have one."""
    found = [row.get("margin") for row in kept]
    return None if None in found else torch.tensor(found, dtype=torch.float32)


def forward(learner: Learner, groups: Sequence[Group], tokens: int) -> PairScores:
    """Rewards and representations of a whole step, in input order whatever the micro-batches and processes; and what
    the LM head makes of the chosen responses, if there is one."""
    at: list[int] = []
    reward, hidden, nll = [], [], []
    for positions, batch in learner.batches(groups, tokens):
        r, h, *said = learner(learner.layout(batch))
        at += positions
        nll += said
        reward.append(r.view(-1, 2))
        hidden.append(h.view(len(batch), 2, -1))
    r, h = (learner.whole(torch.cat(own), at, len(groups)) for own in (reward, hidden))
    of_text = learner.whole(torch.cat(nll), at, len(groups)) if nll else None
    return PairScores(r[:, 0], r[:, 1], h[:, 0], h[:, 1], nll=of_text)


def head_gradient_error(learner: Learner, groups: Sequence[Group], tokens: int) -> float:
    """Largest difference between autograd's gradient of the BT loss for the head and the mean of σ(−Δ)(h_l − h_w),
    relative to the pairs' own gradients: the identity that both papers start from (BSR eq. 19, NormBT eq. 6)."""
    with torch.no_grad():
        s = forward(learner, groups, tokens)
    weight = dist.gathered(models.head(learner.held).weight.detach()).squeeze(0).double().requires_grad_()
    h_chosen, h_rejected = s.h_chosen.double(), s.h_rejected.double()  # their difference is small beside them
    scored = PairScores(h_chosen @ weight, h_rejected @ weight, h_chosen, h_rejected)
    (by_autograd,) = torch.autograd.grad(losses.bt(scored).mean(), weight)
    by_pair = torch.sigmoid(-scored.delta.detach())[:, None] * (h_rejected - h_chosen)  # (n, d)
    return float((by_autograd - by_pair.mean(0)).abs().max() / by_pair.abs().mean(0).max())
