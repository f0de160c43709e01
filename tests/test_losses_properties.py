"""What each loss promises, beyond its formula."""

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
import torch
from scores import CASES, FIELDS, YAML, D, head_gradient, names, pairs, reward_gradients, section, value
from torch import Tensor, nn

from pipeline import losses
from pipeline.losses import Loss, NormBT, PairScores, make


def weighted(**constants: Any) -> Loss:
    return make(**section("norm_bt", **constants))


def shifted(s: PairScores, by: float) -> PairScores:
    return replace(s, chosen=s.chosen + by, rejected=s.rejected + by)


def at(s: PairScores, rows: slice) -> PairScores:
    return replace(s, **{name: getattr(s, name)[rows] for name in FIELDS})


def apart(distances: list[float], seed: int = 0) -> PairScores:
    """Pairs whose representations are so far apart."""
    n = len(distances)
    s = pairs(n, seed)
    step = torch.zeros(n, D)
    step[torch.arange(n), torch.arange(n) % D] = torch.tensor(distances)
    return replace(s, h_rejected=s.h_chosen + step)


# --- terms ---

BLIND_TO_THE_OFFSET = {"bt", "margin", "margin_out", "label_smoothing", "hinge", "norm_bt", "bsr_var"}


@pytest.mark.parametrize("case", CASES)
def test_a_constant_added_to_all_rewards_matters_only_to_what_says_so(case: str) -> None:
    s = pairs(8)
    before, after = value(make(**CASES[case]), s), value(make(**CASES[case]), shifted(s, 4.0))
    assert (after == pytest.approx(before, rel=1e-5)) == (names(case) <= BLIND_TO_THE_OFFSET)


def test_margins_of_zero_or_one_give_bt_back() -> None:
    s = pairs(9)
    for name, m in (("margin", 0.0), ("margin_out", 1.0)):
        flat = replace(s, margin=torch.full((9,), m))
        assert value(make(name), flat) == pytest.approx(value(make("bt"), s), rel=1e-6)


@pytest.mark.parametrize("name", ["margin", "margin_out"])
@pytest.mark.parametrize("of", [None, "norm_bt", "bsr"])
def test_a_loss_that_needs_margins_says_so_when_there_are_none(name: str, of: str | None) -> None:
    loss = make(**section(of, name)) if of else make(name)
    with pytest.raises(ValueError, match=r"needs margins and these pairs have none: .* loss=bt"):
        loss(replace(pairs(3), margin=None))


@pytest.mark.parametrize("name", ["margin", "margin_out"])
def test_a_label_that_contradicts_its_margin_cannot_be_rewarded_without_end(name: str) -> None:
    s = replace(pairs(2), chosen=torch.tensor([-1e3, 1e3]), rejected=torch.zeros(2), margin=torch.tensor([-2.0, -2.0]))
    assert value(make(name), s) >= 0


def test_whole_numbers_are_good_margins() -> None:
    """Ratings are."""
    s = pairs(3)
    whole = make("margin")(replace(s, margin=torch.tensor([0, 1, 3])))
    assert whole.dtype == torch.float32
    assert torch.equal(whole, make("margin")(replace(s, margin=torch.tensor([0.0, 1.0, 3.0]))))


def test_label_smoothing_is_least_where_the_model_is_as_sure_as_the_labels() -> None:
    alpha = 0.2
    best = math.log((1 - alpha) / alpha)
    s = replace(pairs(1), chosen=torch.tensor([best]), rejected=torch.tensor([0.0]))
    assert float(reward_gradients(make("label_smoothing", alpha=alpha), s)[0]) == pytest.approx(0, abs=1e-7)
    assert value(make("label_smoothing", alpha=0.0), s) == pytest.approx(value(make("bt"), s), rel=1e-6)


def test_the_scale_of_rewards_does_not_matter_to_bt_norm() -> None:
    s = pairs(8)
    scaled = replace(s, chosen=100 * s.chosen, rejected=100 * s.rejected)
    assert value(make("bt_norm"), scaled) == pytest.approx(value(make("bt_norm"), s), rel=1e-5)
    best = replace(pairs(1), chosen=torch.tensor([3.0]), rejected=torch.tensor([-3.0]))
    assert value(make("bt_norm"), best) == pytest.approx(math.log(1 + math.exp(-math.sqrt(2))), rel=1e-5)


# --- penalties ---


def test_a_constant_added_to_all_rewards_costs_its_square_under_bsr() -> None:
    s = pairs(8)
    s = shifted(s, -float(torch.cat([s.chosen, s.rejected]).mean()))
    cost = value(make(**YAML["bsr"]), shifted(s, 4.0)) - value(make(**YAML["bsr"]), s)
    assert cost == pytest.approx(YAML["bsr"]["coef"] * 4.0**2, rel=1e-4)


PENALTIES = {
    "bsr": lambda s: losses.bsr(s, coef=10.0, times_group=False),
    "bsr of groups": lambda s: losses.bsr(s, coef=10.0, group=3, times_group=True),
    "center": lambda s: losses.center(s, coef=10.0),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_does_not_pull_on_the_difference(name: str) -> None:
    s = pairs(6)
    r_w, r_l = s.chosen.requires_grad_(), s.rejected.requires_grad_()
    on_w, on_l = torch.autograd.grad(PENALTIES[name](replace(s, chosen=r_w, rejected=r_l)), (r_w, r_l))
    assert torch.allclose(on_w, on_l, atol=1e-6) and on_w.abs().min() > 0


def test_for_groups_of_one_pair_bsr_is_a_quarter_of_lambda_times_the_squared_sum() -> None:
    for s, group in ((pairs(1), None), (pairs(7), 1)):
        expected = 0.8 / 4 * float((s.chosen + s.rejected).square().mean())
        assert float(losses.bsr(s, coef=0.8, group=group, times_group=False)) == pytest.approx(expected, rel=1e-5)
        assert float(losses.center(s, coef=0.8 / 4)) == pytest.approx(expected, rel=1e-5)


def test_groups_are_consecutive_pairs_each_with_its_own_penalty() -> None:
    s = pairs(12)
    alone = [losses.bsr(at(s, slice(i, i + 4)), coef=0.5, times_group=False) for i in (0, 4, 8)]
    together = losses.bsr(s, coef=0.5, group=4, times_group=False)
    assert float(together) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-5)
    whole = losses.bsr(s, coef=0.5, times_group=False)
    assert torch.equal(losses.bsr(s, coef=0.5, group=12, times_group=False), whole)
    assert float(whole) != pytest.approx(float(together), rel=1e-2)


@pytest.mark.parametrize(("group", "g"), [(None, 12), (4, 4), (1, 1)])
def test_the_reference_multiplies_lambda_by_the_group(group: int | None, g: int) -> None:
    """With S the sum of a device's 2b rewards, its code's penalty is λ S² / 4b."""
    s = pairs(12)
    clean = losses.bsr(s, coef=0.5, group=group, times_group=False)
    reference = losses.bsr(s, coef=0.5, group=group, times_group=True)
    assert float(reference) == pytest.approx(g * float(clean), rel=1e-6)
    sums = (s.chosen + s.rejected).view(-1, g).sum(1)
    assert float(reference) == pytest.approx(float((0.5 * sums.square() / (4 * g)).mean()), rel=1e-5)


@pytest.mark.parametrize("g", [1, 4, 16])
def test_large_groups_hold_the_offset_and_small_ones_the_spread_too(g: int) -> None:
    n, mean, std = 80_000, 0.5, 2.0
    sums = mean + std * torch.randn(n, generator=torch.Generator().manual_seed(g), dtype=torch.float64)
    s = PairScores(sums, torch.zeros_like(sums), torch.zeros(n, 1), torch.zeros(n, 1))
    expected = 1 / 4 * (mean**2 + std**2 / g)
    assert float(losses.bsr(s, coef=1.0, group=g, times_group=False)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("group", [None, 4, 1])
def test_variance_and_squared_mean_are_the_mean_square(group: int | None) -> None:
    s = pairs(12)
    both = losses.bsr(s, coef=0.3, group=group, times_group=False) + losses.bsr_var(s, coef=0.3, group=group)
    assert float(both) == pytest.approx(0.3 * float(torch.cat([s.chosen, s.rejected]).square().mean()), rel=1e-5)


def test_of_one_pair_the_variance_is_a_quarter_of_its_squared_difference() -> None:
    s = pairs(7)
    expected = 0.8 / 4 * float(s.delta.square().mean())
    assert float(losses.bsr_var(s, coef=0.8, group=1)) == pytest.approx(expected, rel=1e-5)


def test_the_variance_pulls_on_the_difference_by_its_size() -> None:
    """∂/∂r_w − ∂/∂r_l = λ Δ / n."""
    s = pairs(6)
    on_w, on_l = reward_gradients(lambda s: losses.bsr_var(s, coef=0.9, group=3), s)
    assert torch.allclose(on_w - on_l, 0.9 * s.delta / 6, atol=1e-6)


@pytest.mark.parametrize(("done", "coef"), [(0.0, 0.1), (0.25, 0.2), (0.5, 0.3), (0.75, 0.3)])
def test_lambda_goes_on_a_line_to_its_end_and_stays(done: float, coef: float) -> None:
    s = replace(pairs(6), done=done)
    scheduled = losses.bsr_schedule(s, start=0.1, end=0.3, share=0.5)
    assert float(scheduled) == pytest.approx(float(losses.bsr(s, coef=coef, times_group=False)), rel=1e-6)


def test_a_schedule_that_does_not_know_the_time_says_so() -> None:
    with pytest.raises(ValueError, match=r"how much of training is done: PairScores\(\.\.\., done="):
        make(**YAML["bsr_schedule"])(replace(pairs(3), done=None))


def around(mean: float) -> PairScores:
    """Pairs whose rewards have this mean."""
    s = pairs(4)
    return shifted(s, mean - float(torch.cat([s.chosen, s.rejected]).mean()))


def test_an_adaptive_lambda_by_hand() -> None:
    """It rises above the target, falls below it, is used before it moves and stays in its bounds."""
    loss = make(**section("bsr_adaptive", coef=0.5, target=1.0, rate=1.0, factor=3.0, decay=0.5))
    # batch mean; λ that is used; λ after: q is 4, (4 + 0.04)/2, (2.02 + 0.04)/2, (1.03 + 0.01)/2
    l2, l3, l4 = 2.02**0.5, (2.02 * 1.03) ** 0.5, (2.02 * 1.03 * 0.52) ** 0.5
    steps = [(2.0, 0.5, 1.0), (0.2, 1.0, l2), (-0.2, l2, l3), (0.1, l3, l4)]
    for mean, used, after in steps:
        assert float(loss.kept["lambda"]) == pytest.approx(used, rel=1e-4)
        s = around(mean)
        cost = value(loss, s) - value(make("bt"), s)
        assert cost == pytest.approx(used * mean**2, rel=1e-3)
        assert float(loss.kept["lambda"]) == pytest.approx(after, rel=1e-4)
    for mean, bound in ((5.0, 0.5 * 3), (0.0, 0.5 / 3)):
        for _ in range(20):
            loss(around(mean))
        assert float(loss.kept["lambda"]) == pytest.approx(bound, rel=1e-5)


def test_the_gradient_of_an_adaptive_penalty_is_that_of_the_lambda_before() -> None:
    loss = make(**section("bsr_adaptive", coef=0.5, rate=1.0))
    loss(around(3.0))
    before, s = float(loss.kept["lambda"]), around(2.0)
    fixed = make(**section("bsr", coef=before))
    for got, expected in zip(reward_gradients(loss, s), reward_gradients(fixed, s), strict=True):
        assert torch.allclose(got, expected, rtol=1e-5)
    assert float(loss.kept["lambda"]) != before


def test_what_a_loss_keeps_has_a_name_in_the_records() -> None:
    assert {case: set(make(**CASES[case]).kept) for case in ("bt", "bsr_var", "bsr_adaptive", "bsr of norm_bt")} == {
        "bt": set(), "bsr_var": set(), "bsr_adaptive": {"lambda"}, "bsr of norm_bt": {"mu"}
    }  # fmt: skip
    assert set(make(**CASES["bsr_adaptive of bsr_var of norm_bt"]).kept) == {"mu", "lambda"}


def test_pairs_that_are_not_whole_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"10 pairs are not groups of 4: let loss\.group divide rm\.batch"):
        make(**section("bsr", group=4))(pairs(10))


def test_a_penalty_is_never_weighted_whichever_stands_on_the_other() -> None:
    s = pairs(8)
    outside = make(**section("bsr", "norm_bt", coef=3.0))
    inside = make(**section("norm_bt", section("bsr", coef=3.0)))
    for step in range(3):
        s = pairs(8, seed=step)
        assert torch.equal(outside(s), inside(s))
    s = pairs(8)
    penalty = value(make(**section("bsr", "norm_bt", coef=3.0)), s) - value(weighted(), s)
    assert penalty == pytest.approx(float(losses.bsr(s, coef=3.0, times_group=False)), rel=1e-4)


# --- NormBT ---

TERMS = sorted(losses.TERMS)


@pytest.mark.parametrize("term", TERMS)
def test_with_equal_distances_the_weight_is_one(term: str) -> None:
    loss = make(**section("norm_bt", term))
    plain = make(**section(term))
    for step in range(3):
        s = apart([2.5] * 12, seed=step)
        assert value(loss, s) == pytest.approx(value(plain, s), rel=1e-5)


@pytest.mark.parametrize("term", TERMS)
def test_a_pairs_gradient_is_parallel_to_that_of_its_term(term: str) -> None:
    """Also for the body: the weight is a positive number, and no gradient flows through the distance."""
    torch.manual_seed(0)
    body, w = nn.Linear(D, D), torch.randn(D)
    loss, plain = make(**section("norm_bt", term, mu="one")), make(**section(term))
    for seed in range(5):
        s = replace(pairs(1, seed), margin=torch.ones(1))
        flat = []
        for each in (loss, plain):
            h_w, h_l = body(s.h_chosen), body(s.h_rejected)
            scored = replace(s, chosen=h_w @ w - 5, rejected=h_l @ w, h_chosen=h_w, h_rejected=h_l)
            flat.append(torch.cat([g.flatten() for g in torch.autograd.grad(each(scored), tuple(body.parameters()))]))
        assert float(torch.cosine_similarity(*flat, dim=0)) == pytest.approx(1.0, abs=1e-5)
        assert not torch.allclose(*flat)


def test_no_gradient_flows_through_the_weight() -> None:
    for case in CASES:
        if "norm_bt" in names(case):
            s = pairs(4)
            h_w, h_l = s.h_chosen.requires_grad_(), s.h_rejected.requires_grad_()
            r = torch.ones(4, requires_grad=True)
            make(**CASES[case])(PairScores(r, -r, h_w, h_l, s.margin)).backward()
            assert h_w.grad is None and h_l.grad is None and r.grad is not None


def test_the_length_of_a_pairs_head_gradient_depends_on_its_error_alone() -> None:
    """Under BT it is in proportion to the distance."""
    w = torch.zeros(D)  # every error is 1/2
    lengths = {
        name: [float(head_gradient(loss, apart([d]), w).norm()) for d in (0.5, 2.0, 8.0)]
        for name, loss in (("bt", make("bt")), ("norm_bt", weighted(mu="one")))
    }
    assert lengths["bt"] == pytest.approx([0.25, 1.0, 4.0], rel=1e-5)
    assert lengths["norm_bt"] == pytest.approx([0.5] * 3, rel=1e-5)


def test_the_mean_weight_of_the_first_step_is_at_least_one() -> None:
    """Jensen: mean(d) · mean(1/d) >= 1, the ratio of the arithmetic to the harmonic mean."""
    for seed in range(20):
        s = pairs(16, seed)
        weights = weighted().weights(s)
        assert float(weights.mean()) >= 1
        assert float(weights.mean()) == pytest.approx(float(s.distance.mean() * (1 / s.distance).mean()), rel=1e-4)


def test_mu_by_hand() -> None:
    """A moving average that starts at the first mean, is used before its update and moves once a step."""
    loss = weighted()
    assert isinstance(loss.weight, NormBT)
    steps = [([1.0, 3.0], 2.0, 2.0), ([4.0, 4.0], 2.0, 0.9 * 2 + 0.1 * 4), ([1.0, 1.0], 2.2, 0.9 * 2.2 + 0.1 * 1)]
    for distances, used, after in steps:
        s = apart(distances)
        expected = torch.tensor([used / d for d in distances])
        assert torch.allclose(loss.weights(s), expected, rtol=1e-5)
        loss(s)
        assert float(loss.weight.mu) == pytest.approx(after, rel=1e-5)


def test_asking_for_the_weights_tells_the_next_call_and_changes_nothing() -> None:
    asked, other = weighted(), weighted()
    for step in range(3):
        s = pairs(6, step)
        weights = asked.weights(s)
        asked.weights(pairs(6, 99))
        made = asked(s)
        assert not weights.requires_grad
        assert torch.equal((weights * losses.bt(s)).mean(), made) and torch.equal(made, other(s))
    assert torch.equal(make("bt").weights(pairs(3)), torch.ones(3))


# --- controls of NormBT ---


def test_a_capped_weight_is_cut_and_the_others_stay() -> None:
    s = pairs(32)
    free, cut = weighted().weights(s), weighted(cap=1.25).weights(s)
    assert (free > 1.25).any() and (free < 1.25).any()
    assert torch.equal(cut, free.clamp(max=1.25))


def test_weights_with_mean_one_keep_their_ratios() -> None:
    s = pairs(32)
    free, one = weighted().weights(s), weighted(mean_one=True).weights(s)
    assert float(one.mean()) == pytest.approx(1.0, rel=1e-6) and float(free.mean()) > 1.01
    assert torch.allclose(one, free / free.mean())
    capped = weighted(mean_one=True, cap=1.25).weights(s)  # first cut, then scaled
    assert torch.allclose(capped, free.clamp(max=1.25) / free.clamp(max=1.25).mean())


def test_a_power_of_a_half_takes_the_root() -> None:
    s = pairs(32)
    assert torch.allclose(weighted(power=0.5).weights(s), weighted().weights(s).sqrt())


def test_the_cosine_distance_sees_directions_alone() -> None:
    s = pairs(16)
    longer = replace(s, h_chosen=3 * s.h_chosen, h_rejected=0.5 * s.h_rejected)
    assert torch.allclose(s.cosine_distance, longer.cosine_distance, atol=1e-6)
    assert torch.allclose(s.cosine_distance, 1 - torch.cosine_similarity(s.h_chosen, s.h_rejected), atol=1e-6)
    assert torch.allclose(
        weighted(distance="cosine").weights(s), weighted(distance="cosine").weights(longer), rtol=1e-4
    )
    assert not torch.allclose(weighted().weights(s), weighted().weights(longer), rtol=1e-1)


def test_the_cosine_distance_of_near_twins_is_not_lost() -> None:
    """1 − cos is 0 in single precision below 1e-7."""
    s = pairs(16)
    near = replace(s, h_chosen=s.h_chosen.double(), h_rejected=s.h_chosen.double() + 1e-4 * s.h_rejected.double())
    low = replace(near, h_chosen=near.h_chosen.float(), h_rejected=near.h_rejected.float())
    assert near.cosine_distance.max() < 1e-7
    assert torch.allclose(low.cosine_distance.double(), near.cosine_distance, rtol=0.05)


def test_without_a_moving_average_a_step_knows_nothing_of_those_before() -> None:
    for mu in ("batch", "one"):
        old, new = weighted(mu=mu), weighted(mu=mu)
        old(pairs(8, seed=1, scale=50.0))
        assert torch.equal(old(pairs(8)), new(pairs(8)))
    s = apart([1.0, 3.0])
    assert torch.allclose(weighted(mu="batch").weights(s), torch.tensor([2.0, 2 / 3]), rtol=1e-5)
    assert torch.allclose(weighted(mu="one").weights(s), torch.tensor([1.0, 1 / 3]), rtol=1e-5)
    followed, fresh = weighted(), weighted()
    followed(pairs(8, seed=1, scale=50.0))
    assert not torch.equal(followed(pairs(8)), fresh(pairs(8)))


# --- a world in which every pair has a reward of its own ---


def tournament() -> tuple[Tensor, Tensor, Tensor]:
    """Winners, losers, and the log strengths that make them likeliest: of s_i + s_j games of i and j, i wins s_i. So
    labels are noisy, and exactly as a Bradley–Terry model says."""
    strength = torch.tensor([1, 2, 3, 5])
    games = [(i, j) for a, b in combinations(range(4), 2) for i, j in ((a, b), (b, a)) for _ in range(int(strength[i]))]
    log = strength.double().log()
    return torch.tensor([i for i, _ in games]), torch.tensor([j for _, j in games]), log - log.mean()


def fitted(loss: Loss, winners: Tensor, losers: Tensor) -> Tensor:
    """(4,) the rewards that a loss likes best, with mean 0."""
    h = 3 * torch.randn(4, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = torch.zeros(4, dtype=torch.float64)
    for _ in range(400):
        leaf = table.clone().requires_grad_()
        scored = PairScores(leaf[winners], leaf[losers], h[winners], h[losers])
        table = table - 4 * torch.autograd.grad(loss(scored), leaf)[0]
    return table - table.mean()


@pytest.mark.parametrize("case", ["bt", "norm_bt", "norm_bt cosine", "norm_bt sqrt", "norm_bt cap", "norm_bt mean_one"])
def test_noisy_labels_of_a_table_lead_norm_bt_to_the_optimum_of_bt(case: str) -> None:
    winners, losers, truth = tournament()
    assert torch.allclose(fitted(make(**CASES[case]), winners, losers), truth, atol=1e-5)


def test_another_term_has_another_optimum() -> None:
    winners, losers, truth = tournament()
    smoothed = fitted(make(**section("label_smoothing")), winners, losers)
    assert not torch.allclose(smoothed, truth, atol=1e-2)


# --- state and micro-batches ---


@pytest.mark.parametrize("case", CASES)
def test_the_state_of_a_loss_survives_saving(case: str) -> None:
    """2 + 2 steps are 4, to the last bit."""
    whole, first, second = (make(**CASES[case]) for _ in range(3))
    for step in range(2):
        assert torch.equal(whole(pairs(4, step)), first(pairs(4, step)))
    saved = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    assert {name.rpartition(".")[2] for name in saved} == {
        *({"mu"} if "norm_bt" in names(case) else ()),
        *({"lam", "square"} if "bsr_adaptive" in names(case) else ()),
    }
    second.load_state_dict(saved)
    for step in range(2, 4):
        assert torch.equal(whole(pairs(4, step)), second(pairs(4, step)))


class Scorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(D, D), nn.Linear(D, 1, bias=False)
        self.double()

    def forward(self, s: PairScores) -> PairScores:
        h_w, h_l = torch.tanh(self.body(s.h_chosen)), torch.tanh(self.body(s.h_rejected))
        chosen, rejected = self.head(h_w).squeeze(-1), self.head(h_l).squeeze(-1)
        return replace(s, chosen=chosen, rejected=rejected, h_chosen=h_w, h_rejected=h_l)

    def gradients(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("micro", [1, 3, 8])
def test_gradients_do_not_depend_on_micro_batches(case: str, micro: int) -> None:
    """Scores of all first, then the loss of the whole step, then its derivatives by them back through one part at a
    time."""
    inputs = pairs(8, dtype=torch.float64)
    direct, parts = Scorer(), Scorer()
    loss, again = make(**CASES[case]), make(**CASES[case])
    for each in (loss, again):  # not the first step
        each(pairs(8, seed=3, scale=2.0, dtype=torch.float64))
    loss(direct(inputs)).backward()

    slices = [slice(i, i + micro) for i in range(0, 8, micro)]
    with torch.no_grad():
        made = [parts(at(inputs, rows)) for rows in slices]
    fields = ("chosen", "rejected", "h_chosen", "h_rejected")
    leaves = [torch.cat([getattr(s, name) for s in made]).requires_grad_() for name in fields]
    again(replace(inputs, **dict(zip(fields, leaves, strict=True)))).backward()
    pulls = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    for rows in slices:
        scored = parts(at(inputs, rows))
        torch.autograd.backward([getattr(scored, name) for name in fields], [pull[rows] for pull in pulls])
    assert torch.allclose(parts.gradients(), direct.gradients(), rtol=1e-9, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(loss.buffers(), again.buffers(), strict=True))
