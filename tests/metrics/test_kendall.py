import numpy as np
import pytest
from scipy.stats import kendalltau

from pipeline.metrics import kendall


@pytest.mark.parametrize("k", [2, 3, 4, 6])
@pytest.mark.parametrize("levels", [3, 1000])
def test_every_prompt_equals_scipy(k, levels):
    rng = np.random.default_rng(k * levels)
    rewards, gold = rng.integers(0, levels, (2, 200, k)).astype(float)
    expected = [kendalltau(r, g)[0] for r, g in zip(rewards, gold, strict=True)]
    np.testing.assert_array_equal(kendall.per_prompt(rewards, gold), expected)


def test_by_hand():
    rewards = [[1, 2, 3, 4], [1, 2, 3, 4], [1, 1, 3, 4], [0, 0, 0, 0]]
    gold = [[1, 2, 4, 3], [4, 3, 2, 1], [1, 2, 3, 4], [1, 2, 3, 4]]
    tau = kendall.per_prompt(rewards, gold)
    # 5 concordant, 1 discordant; all 6 discordant; 5 concordant and 1 tied in rewards: 5 / sqrt(5 * 6); undefined.
    np.testing.assert_allclose(tau[:3], [4 / 6, -1.0, 5 / np.sqrt(30)], rtol=1e-15)
    assert np.isnan(tau[3])
    result = kendall.score(rewards, gold)
    assert result["tau"] == pytest.approx((4 / 6 - 1 + 5 / np.sqrt(30)) / 3, abs=1e-15)
    assert result["tau_a"] == pytest.approx((4 / 6 - 1 + 5 / 6 + 0) / 4, abs=1e-15)
    assert {k: result[k] for k in ("nan_prompts", "ties", "gold_ties", "n")} == {
        "nan_prompts": 1,
        "ties": 1 + 6,
        "gold_ties": 0,
        "n": 4,
    }


def test_undefined_prompts_are_excluded_or_zero_by_name():
    rewards, gold = [[1, 2], [1, 1]], [[1, 2], [1, 2]]
    assert kendall.score(rewards, gold)["tau"] == 1.0
    assert kendall.score(rewards, gold, undefined="zero")["tau"] == 0.5
    assert np.isnan(kendall.score([[1, 1]], [[1, 2]])["tau"])
    with pytest.raises(ValueError, match="'exclude' or 'zero'"):
        kendall.score(rewards, gold, undefined="drop")  # pyright: ignore[reportArgumentType]


def test_without_ties_four_responses_give_seven_values():
    rng = np.random.default_rng(0)
    tau = kendall.per_prompt(rng.random((500, 4)), rng.random((500, 4)))
    np.testing.assert_allclose(np.unique(np.round(tau, 12)), -1 + np.arange(7) / 3, atol=1e-12)


def test_infinite_rewards_order_and_nan_is_refused():
    assert kendall.per_prompt([[-np.inf, 0.0, np.inf]], [[1, 2, 3]]) == [1.0]
    with pytest.raises(ValueError, match="gold of prompt 1 hold"):
        kendall.score([[1, 2], [1, 2]], [[1, 2], [np.nan, 2]])
    with pytest.raises(ValueError, match="responses >= 2"):
        kendall.score([[1], [2]], [[1], [2]])
