"""Learning from rollouts: the gradient is that of one unpadded sequence after the other, and reaches known optima."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
import toy_policy as toy
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.objective import LOGP, Objective
from pipeline.packing import MODES, Group, Mode
from pipeline.placed import Placed
from pipeline.policy import logprobs
from pipeline.watch import Clock

TOLERANCE = 1e-5
K, BETA, CLIP = 4, 0.3, 0.2
FIXED = ("rloo.kl=0.3", "rloo.temperature=0.7")


def objective(model: PreTrainedModel, reference: PreTrainedModel, *overrides: str, tokens: int = 10**6) -> Objective:
    x = toy.settings(*FIXED, *overrides)
    frozen = Placed(reference, partial(logprobs, temperature=x.rloo.temperature))
    return Objective(toy.learner(model, x), frozen, x.rloo, tokens, Clock())


def models(mode: Mode = "shared") -> tuple[PreTrainedModel, PreTrainedModel]:
    """A policy and the reference that it has left."""
    return toy.lm(mode), toy.lm(mode, seed=1)


def said(model: PreTrainedModel, group: Group, i: int) -> Tensor:
    """Log-probabilities of one response's tokens, by transformers' own forward."""
    response = group.responses[i]
    logits = model(input_ids=torch.tensor([group.prompt + response])).logits[0, len(group.prompt) - 1 : -1]
    return (logits / 0.7).log_softmax(-1)[range(len(response)), response]


def by_hand(
    model: PreTrainedModel, old: PreTrainedModel, reference: PreTrainedModel, groups: list[Group], reward: Tensor,
    part: range, kept: int = K, estimator: str = "k1",
) -> Tensor:  # fmt: skip
    """The loss of some prompts, one sequence at a time."""
    losses = []
    for i in part:
        group, worth, logp = groups[i], [], []
        for j in range(K):
            with torch.no_grad():
                before, ref = said(old, group, j), said(reference, group, j)
                d = before - ref
                penalty = {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) - 1 + d}[estimator].sum()
            worth.append(float(reward[i * K + j] - BETA * penalty))
            logp.append((said(model, group, j).sum(), before.sum()))
        for j in range(kept):
            advantage = worth[j] - (sum(worth) - worth[j]) / (K - 1)
            ratio = torch.exp(logp[j][0] - logp[j][1])
            losses.append(-torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage))
    return torch.stack(losses).mean()


def gradient(model: PreTrainedModel) -> Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert float((got - expected).norm()) <= TOLERANCE * float(expected.norm())


@pytest.fixture
def reward() -> Tensor:
    return torch.randn(len(toy.PROMPTS) * K, generator=torch.Generator().manual_seed(5)) * 2 + 1


@pytest.mark.parametrize("tokens", [1, 40, 10**6])
@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_that_of_one_sequence_at_a_time(mode: Mode, tokens: int, reward: Tensor) -> None:
    model, reference = models(mode)
    groups = toy.rollouts()
    made = objective(model, reference, tokens=tokens)
    (part,) = made.parts()
    seen = made.learn(groups, reward, part, None)
    got = gradient(model)
    expected = by_hand(model, model, reference, groups, reward, part)
    expected.backward()
    assert_close(got, gradient(model))
    assert float(got.norm()) > 0.1
    assert float(seen[:, 0].mean()) == pytest.approx(float(expected.detach()), abs=1e-5)
    with torch.no_grad():
        logp = [float(said(model, group, j).sum()) for group in groups for j in range(K)]
    assert seen[:, 2 + LOGP].tolist() == pytest.approx(logp, rel=TOLERANCE)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_penalty_may_be_another_estimate(estimator: str, reward: Tensor) -> None:
    model, reference = models()
    groups = toy.rollouts()
    made = objective(model, reference, f"rloo.kl_estimator={estimator}")
    made.learn(groups, reward, made.parts()[0], None)
    got = gradient(model)
    by_hand(model, model, reference, groups, reward, made.parts()[0], estimator=estimator).backward()
    assert_close(got, gradient(model))


@pytest.mark.parametrize(("trained", "kept"), [("all", K), ("first", 1)])
def test_several_optimizer_steps_learn_from_what_was_sampled_before(trained: str, kept: int, reward: Tensor) -> None:
    """Each from its own prompts, with ratios to the policy before the first of them, some of which are clipped."""
    model, reference = models()
    groups, old = toy.rollouts(), copy.deepcopy(model)
    made = objective(model, reference, "rloo.minibatches=2", "rloo.passes=2", f"rloo.trained={trained}", tokens=60)
    assert made.parts() == [range(2), range(2, 4)] * 2
    before, clipped = made.look(groups), list[bool]()
    for part in made.parts():
        seen = made.learn(groups, reward, part, before)
        got = gradient(model)
        by_hand(model, old, reference, groups, reward, part, kept).backward()
        assert len(seen) == 2 * kept
        assert_close(got, gradient(model))
        clipped += seen[:, 1].bool().tolist()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.004 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    assert any(clipped) and not all(clipped)


def test_looking_beforehand_changes_nothing_where_one_step_is_taken(reward: Tensor) -> None:
    model, reference = models()
    groups = toy.rollouts()
    made = objective(model, reference)
    found = []
    for before in (None, made.look(groups)):
        seen = made.learn(groups, reward, made.parts()[0], before)
        found.append((seen, gradient(model)))
    for once, looked in zip(*found, strict=True):
        torch.testing.assert_close(once, looked, rtol=1e-5, atol=1e-6)


# --- optima that can be worked out ---


def test_it_learns_to_say_one_word(tmp_path: Path) -> None:
    """The most that can be had: each of the tokens up to the limit."""
    _, curve = toy.trained(tmp_path, toy.count("a"), "rloo.steps=40")
    assert curve[0]["proxy"] < 0.3 * 5
    assert sum(r["proxy"] for r in curve[-5:]) / 5 >= 0.95 * 5


WORTH = {"a": 1.0, "b": 0.5, "c": -1.0}


def test_of_three_answers_it_weighs_worth_against_distance(tmp_path: Path) -> None:
    """max over π of E r − β KL(π, π₀) is β log E₀ exp(r / β), where π ∝ π₀ exp(r / β)."""
    beta, model = 0.2, toy.lm()
    start = toy.answers(model)
    policy, _ = toy.trained(tmp_path, toy.first(WORTH), "rloo.max_new=1", "rloo.k=8", f"rloo.kl={beta}", model=model)
    worth = torch.tensor([WORTH.get(word, 0.0) for word in toy.WORDS])
    best = beta * (start * (worth / beta).exp()).sum(1).log()
    end = toy.answers(policy)
    reached = (end * worth).sum(1) - beta * distance(end, start)
    untrained = (start * worth).sum(1)
    assert float(untrained.mean()) < 0.5 * float(best.mean())
    assert float(reached.mean()) >= 0.95 * float(best.mean())


def test_under_a_large_penalty_it_stays_where_it_was(tmp_path: Path) -> None:
    model = toy.lm()
    start = toy.answers(model)
    policy, _ = toy.trained(tmp_path, toy.first(WORTH), "rloo.max_new=1", "rloo.k=8", "rloo.kl=100", model=model)
    end = toy.answers(policy)
    assert not torch.equal(start, end) and float(distance(end, start).mean()) <= 0.01


def distance(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(1)
