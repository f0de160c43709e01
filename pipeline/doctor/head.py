"""The head that gives the reward: is there one, is it trained, and are its numbers far enough apart?"""

from itertools import combinations
from typing import Any

import torch
from torch import nn

from pipeline import models
from pipeline.doctor.patient import Patient, Seen, easy
from pipeline.implicit import Implicit

NO_HEAD = "save the model with its head; a causal LM's folder is none"
LEAST_EASY = 0.75  # share of easy pairs that a trained model ranks right
MOST_TIES = 0.05


def output(p: Patient) -> Seen:
    if isinstance(p.model, Implicit):
        said = f"what a language model says beside a frozen one, times {p.model.config.implicit_beta:g}"
        return "good", f"implicit: {said}", ""
    name = models.head_name(p.model.config)
    head = getattr(p.model, name, None)
    labels = p.model.config.num_labels
    if labels != 1:
        return "FAIL", f"{labels} labels", "name a reward model: num_labels = 1 in config.json"
    if not isinstance(head, nn.Linear):
        kind = type(p.model).__name__
        return "FAIL", f"{kind} has no linear head named {name}", "take a decoder's ...ForSequenceClassification"
    return "good", f"one label, read by a linear head from {head.in_features} numbers", ""


def trained(p: Patient) -> Seen:
    implicit = isinstance(p.model, Implicit)
    last: Any = p.model.get_output_embeddings() if implicit else models.head(p.model)
    weight = last.weight.detach().float()
    part = "reference" if implicit else models.head_name(p.model.config)
    fresh = sorted(name for name in p.absent if name.startswith(part))
    if fresh:
        remedy = "save the model with its reference" if implicit else NO_HEAD
        return "FAIL", f"{', '.join(fresh)} is not in the folder: random at every load", remedy
    if not torch.isfinite(weight).all() or not weight.any():
        return "FAIL", "the head is all zero or not finite", "train it"
    pairs = p.score(easy())
    right = sum(float(r[0]) > float(r[1]) for r in pairs)
    said = f"prefers the right answer in {right} of {len(pairs)} easy pairs"
    if right < LEAST_EASY * len(pairs):
        return "FAIL", said, "train it; a model of another language or field may be good: judge it on pairs of its own"
    return "good", said if implicit else f"{said}; norm {float(weight.norm()):.3g}", ""


def bf16_ties(p: Patient) -> Seen:
    asked = [a for a in p.sample if len(a.responses) > 1] or easy()
    both = [pair for r in p.score(asked) for pair in combinations(r.tolist(), 2) if pair[0] != pair[1]]
    half = torch.tensor(both).bfloat16()  # (n, 2)
    tied = int((half[:, 0] == half[:, 1]).sum())
    middle = float(torch.tensor(both).median())
    said = f"{tied} of {len(both)} pairs would tie if rewards were rounded to bf16 (their median is {middle:.3g})"
    if tied > MOST_TIES * len(both):
        return (
            "FAIL",
            said,
            "compute the head in fp32, as is done here, or train it to rewards around zero (BSR, centring)",
        )
    return "good", said, ""
