"""Streams give the numbers of one unpadded sequence at a time, for each architecture that we say; and a model that
would not is found out when it is loaded."""

import copy
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MambaConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3NextConfig,
)

from benchmarks.exactness import WINDOW, configs, sizes
from pipeline import attention, models, packing, policy
from pipeline.errors import ConfigError
from pipeline.packing import MODES, Group, Mode, Tree
from pipeline.sample import Sampling, sample

TOLERANCE = 1e-5  # relative to the largest entry
SIZES = sizes(hidden=32, mlp=48)
CONFIGS = configs(SIZES)
STREAMS: tuple[Mode, ...] = ("shared", "packed")


def groups_of(seed: int, most: int = 20) -> list[Group]:
    """Short and long, with one to three responses."""
    draw = random.Random(seed)

    def ids(longest: int) -> list[int]:
        return [draw.randint(1, 127) for _ in range(draw.randint(1, longest))]

    return [Group(ids(most), [ids(most) for _ in range(draw.choice((1, 2, 3)))]) for _ in range(4)]


GROUPS = groups_of(3)


def rm(of: str | PreTrainedConfig, attn: str | None = None) -> PreTrainedModel:
    """Random weights, large enough that attention matters."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[of] if isinstance(of, str) else of)
    model = AutoModelForSequenceClassification.from_config(config, attn_implementation=attn)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.1)
    return model.train()


def reading(name: str, mode: Mode) -> PreTrainedModel:
    model = rm(name)
    attention.use(model, mode)
    assert attention.mode(model) == mode
    return model


def one_by_one(model: PreTrainedModel, groups: Sequence[Group]) -> Tensor:
    """Rewards by transformers' own code."""
    body: Any = model.base_model
    rows = [torch.tensor([g.prompt + r]) for g in groups for r in g.responses]
    return torch.cat([model.score(body(input_ids=ids, use_cache=False).last_hidden_state[0, -1]) for ids in rows])  # type: ignore[operator]


def ours(model: PreTrainedModel, groups: Sequence[Group], tokens: int = 10**6) -> Tensor:
    """In the order of the groups' responses."""
    mode, made = attention.mode(model), {}
    for at, batch in packing.batches(groups, tokens, mode):
        reward, _ = models.rewards(model, packing.layout(batch, mode))
        made |= dict(zip(at, reward.split([len(g.responses) for g in batch]), strict=True))
    return torch.cat([made[i] for i in range(len(groups))])


def gradients(model: PreTrainedModel, reward: Tensor) -> Tensor:
    """Of a loss in which every reward counts differently."""
    model.zero_grad()
    (reward * torch.linspace(-1, 1, len(reward))).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def assert_close(got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert got.shape == expected.shape
    error = float((got - expected).detach().abs().max() / expected.detach().abs().max())
    assert error <= tolerance


# --- the same numbers ---


@pytest.mark.parametrize("name", CONFIGS)
def test_rewards_and_gradients_are_those_of_eager_single_sequences(name: str) -> None:
    eager = rm(name, "eager")
    expected = one_by_one(eager, GROUPS)
    slopes = gradients(eager, expected)
    for mode in MODES:
        model = reading(name, mode)
        got = ours(model, GROUPS)
        assert_close(got, expected)
        assert_close(gradients(model, got), slopes)


LOOSE = {"sliding_window": 1000, "attn_logit_softcapping": 1e6}  # as good as none


@pytest.mark.parametrize("name", ["qwen2_sliding", "mistral_sliding", "gemma2", "gemma3"])
def test_a_window_or_cap_that_was_forgotten_would_show(name: str) -> None:
    """The sequences are long, and the scores large enough."""
    for key, value in LOOSE.items():
        if getattr(CONFIGS[name], key, None):
            other = copy.deepcopy(CONFIGS[name])
            setattr(other, key, value)
            with torch.no_grad():
                got, loose = (one_by_one(rm(config, "eager"), GROUPS) for config in (name, other))
            assert float((got - loose).abs().max()) > 1e-3 * float(got.abs().max())


@pytest.mark.parametrize("mode", STREAMS)
def test_rewards_depend_on_no_order_budget_or_neighbour(mode: Mode) -> None:
    groups = groups_of(1) + groups_of(2) + groups_of(4)
    model = reading("mistral_sliding", mode)
    expected = ours(model, groups)
    for tokens in (1, 60, 200):
        assert_close(ours(model, groups, tokens), expected)
    assert_close(ours(model, groups[::-1]), torch.cat(by_group(expected, groups)[::-1]))
    assert_close(torch.cat([ours(model, [g]) for g in groups]), expected)
    singles = [Group(g.prompt, [r]) for g in groups for r in g.responses]
    assert_close(ours(model, singles), expected)


def by_group(values: Tensor, groups: Sequence[Group]) -> list[Tensor]:
    return list(values.split([len(g.responses) for g in groups]))


@pytest.mark.parametrize("mode", STREAMS)
def test_gradients_depend_on_no_budget(mode: Mode) -> None:
    model = reading("gemma3", mode)
    expected = gradients(model, ours(model, GROUPS))
    assert_close(gradients(model, ours(model, GROUPS, 30)), expected)


@pytest.mark.parametrize("mode", STREAMS)
def test_moving_tokens_between_prompt_and_responses_changes_nothing(mode: Mode) -> None:
    """A prompt is a matter of what is shared, not of meaning."""
    model = reading("llama", mode)
    early = [Group(g.prompt[:1], [g.prompt[1:] + r for r in g.responses]) for g in GROUPS]
    assert_close(ours(model, early), ours(model, GROUPS))


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_log_probabilities_are_the_same_in_all_modes(name: str) -> None:
    made = []
    for mode in MODES:
        model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name]))
        model.load_state_dict(rm(name).state_dict(), strict=False)
        tiny.varied(model)
        attention.use(model, mode)
        made.append(policy.logprobs(model, packing.layout(GROUPS, mode), 0.7)[0])
    assert_close(made[0], made[2])
    assert_close(made[1], made[2])


def test_gradient_checkpointing_recomputes_the_same_attention() -> None:
    model = reading("qwen2_sliding", "shared")
    expected = gradients(model, ours(model, GROUPS))
    model.activation_checkpointing_enable()
    assert_close(gradients(model, ours(model, GROUPS)), expected)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral_sliding"])
def test_sampling_and_padded_layouts_do_not_see_that_a_mode_was_set(name: str) -> None:
    padded, even = [[5, 6, 7], [8], [9, 10, 11, 12]], [[5, 6, 7], [8, 9, 10]]
    said, rewards = [], []
    for mode in MODES:
        model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name])).eval()
        model.load_state_dict(rm(name).state_dict(), strict=False)
        tiny.varied(model)
        attention.use(model, mode)
        for prompts in (padded, even):
            how = Sampling(max_new=20, temperature=1.0, stops=(1,))
            said.append(sample(model, prompts, how, seeds=range(len(prompts))))
        rewards.append(models.hidden(model, packing.layout(GROUPS, "padded")).detach())
    assert said[:2] == said[2:4] == said[4:]
    assert_close(rewards[0], rewards[2])


@pytest.mark.parametrize("name", CONFIGS)
def test_no_mask_is_built_for_a_stream(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It would have the square of the stream's tokens."""
    model = reading(name, "shared")

    def built(**_: Any) -> None:
        raise AssertionError("a mask was built")

    monkeypatch.setitem(attention.AttentionMaskInterface._global_mapping, attention.NAMES["shared"], built)
    ours(model, GROUPS)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_without_a_mask_a_new_query_sees_all_keys(softcap: float | None) -> None:
    """As when one token is sampled after others that are in the cache."""
    q, k, v = (torch.randn(2, 4, 5, 8) for _ in range(3))
    module = torch.nn.Module()
    whole, _ = attention.forward(module, q, k, v, None, softcap=softcap)
    last, _ = attention.forward(module, q[:, :, -1:], k, v, None, softcap=softcap)
    assert_close(last, whole[:, -1:])


# --- the kernel that a GPU has ---


def plain_varlen(
    q: Tensor, k: Tensor, v: Tensor, starts_q: Tensor, starts_k: Tensor, longest_q: int, longest_k: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """What torch documents of varlen_attn, with flash attention's alignment: the last query of a segment is level
    with its last key, and (left, 0) lets a query see `left` keys before its own."""
    left, right = window_size
    assert right == 0 and enable_gqa == (q.shape[1] != k.shape[1])
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    out = []
    for i in range(len(starts_q) - 1):
        a, b, c, d = int(starts_q[i]), int(starts_q[i + 1]), int(starts_k[i]), int(starts_k[i + 1])
        assert b - a <= longest_q and d - c <= longest_k
        level = torch.arange(b - a)[:, None] + (d - c) - (b - a) - torch.arange(d - c)
        seen = (level >= 0) & ((level <= left) if left >= 0 else True)
        scores = torch.einsum("qhd,khd->hqk", q[a:b], k[c:d]) * scale
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        out.append(torch.einsum("hqk,khd->qhd", weights, v[c:d]))
    return torch.cat(out)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_query_sees_a_window_of_keys_itself_included(softcap: float | None) -> None:
    """Down to the edge: for width = window + 1 one pair is hidden."""
    for width in range(1, 6):
        q, k, v = (torch.randn(2, 4, width, 8, dtype=torch.float64) for _ in range(3))
        for window in (None, *range(1, 7)):
            expected = torch.empty_like(q)
            for i in range(width):
                seen = slice(0 if window is None else max(0, i - window + 1), i + 1)
                scores = torch.einsum("bhd,bhkd->bhk", q[:, :, i], k[:, :, seen]) * 0.3
                weights = (scores if softcap is None else softcap * (scores / softcap).tanh()).softmax(-1)
                expected[:, :, i] = torch.einsum("bhk,bhkd->bhd", weights, v[:, :, seen])
            got = attention.sequences(q, k, v, 0.3, softcap, window)
            assert_close(got, expected, 1e-12 if softcap is None else 1e-6)  # softmax of capped scores is in fp32


@pytest.mark.parametrize("window", [None, 1, 7, 1000])
@pytest.mark.parametrize("heads", [2, 4])
def test_segments_attend_as_rows_do(monkeypatch: pytest.MonkeyPatch, heads: int, window: int | None) -> None:
    monkeypatch.setattr(attention, "varlen_attn", plain_varlen)
    tree = packing.layout(groups_of(5), "shared").tree
    assert isinstance(tree, Tree)
    tokens = len(tree.rows.put)
    q, k, v = (torch.randn(tokens, n, 8, dtype=torch.float64) for n in (4, heads, heads))
    by_segments = attention.by_segments(q, k, v, tree.varlen, 0.3, window)

    def attend(*each: Tensor) -> Tensor:
        return attention.sequences(*each, scale=0.3, softcap=None, window=window)

    assert_close(by_segments, attention.by_rows(q, k, v, tree.rows, attend), 1e-12)


# --- which mode ---


def used(model: PreTrainedModel, wanted: Mode) -> tuple[Mode, list[str]]:
    """The mode that was taken, and the warnings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        attention.use(model, wanted)
    return attention.mode(model), [str(w.message) for w in seen]


def causal(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def test_what_a_model_can_do_is_done_without_a_word() -> None:
    for mode in MODES:
        assert used(tiny.lm(), mode) == (mode, [])


class DeafModel(LlamaModel):
    """Like code that takes any keyword and hands none on."""

    def forward(self, input_ids: Tensor, attention_mask: Any = None, position_ids: Any = None, **_: Any) -> Any:  # type: ignore[override]
        return super().forward(input_ids, attention_mask, position_ids)


class Deaf(LlamaForCausalLM):
    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.model = DeafModel(config)


def test_a_model_that_ignores_the_tree_is_found_out() -> None:
    torch.manual_seed(0)
    model = Deaf(LlamaConfig(**SIZES))
    taken, (warning,) = used(model, "shared")
    assert taken == "padded" and model.config._attn_implementation == "sdpa"  # its own again
    assert "Deaf" in warning and "run.packing=padded, not shared" in warning and "off by" in warning


def wrong_attention(module: Any, query: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """Plain causal attention over the stream."""
    out = torch.nn.functional.scaled_dot_product_attention(query, *args[:2], is_causal=True, enable_gqa=True)
    return out.transpose(1, 2), None


def test_an_attention_that_ignores_the_tree_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in attention.NAMES.values():
        monkeypatch.setitem(attention.AttentionInterface._global_mapping, name, wrong_attention)
    taken, (warning,) = used(causal(LlamaConfig(**SIZES)), "shared")
    assert taken == "padded" and "off by" in warning


def test_what_only_sharing_breaks_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here an attention that forgets the responses' prompts."""

    def forgetful(module: Any, *qkv: Any, tree: Tree, **rest: Any) -> tuple[Tensor, None]:
        lone = tuple((n, ()) for prompt, own in tree.lengths for n in (prompt, *own))
        cut = Tree(tuple((max(1, n - 1), (1,) * (n > 1)) for n, _ in lone), "cpu")
        return attention.forward(module, *qkv, tree=cut, **rest)

    name = attention.NAMES["shared"]
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, name, forgetful)
    taken, (warning,) = used(causal(LlamaConfig(**SIZES)), "shared")
    assert taken == "packed" and "run.packing=packed, not shared" in warning


def test_code_whose_attention_cannot_be_replaced_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "_can_set_attn_implementation", classmethod(lambda cls: False))
    taken, (warning,) = used(causal(LlamaConfig(**SIZES)), "shared")
    assert taken == "padded" and "replaced" in warning


def test_a_model_that_is_not_causal_is_refused() -> None:
    config = LlamaConfig(**SIZES)
    config.is_causal = False
    for mode in MODES:
        with pytest.raises(ValueError, match="cannot be used as a causal model"):
            attention.use(causal(config), mode)


ROPE = {"rope_theta": 10000.0}
LINEAR = {
    "num_experts": 0,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    **{f"linear_{name}": n for name, n in (("num_value_heads", 2), ("num_key_heads", 2))},
    **{f"linear_{name}": n for name, n in (("key_head_dim", 8), ("value_head_dim", 8))},
}
UNSUPPORTED: dict[str, tuple[Callable[[], PreTrainedConfig], Mode, str]] = {
    "experts": (
        lambda: MixtralConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1, sliding_window=None),
        "packed",
        "experts",
    ),
    "windows of an untested family": (lambda: Phi3Config(**SIZES, sliding_window=WINDOW), "padded", "windows"),
    "dynamic": (
        lambda: LlamaConfig(**SIZES, rope_parameters={**ROPE, "rope_type": "dynamic", "factor": 2.0}),
        "padded",
        "position encoding",
    ),
    "recurrent": (lambda: MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=128), "padded", "Mamba"),
    "linear attention": (lambda: Qwen3NextConfig(**SIZES, **LINEAR), "padded", "linear_attention"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_a_stream_would_change_is_not_streamed(name: str) -> None:
    config, expected, why = UNSUPPORTED[name]
    taken, (warning,) = used(causal(config()), "shared")
    assert taken == expected and why in warning


def test_a_lower_mode_that_was_asked_for_needs_no_warning() -> None:
    assert used(causal(UNSUPPORTED["dynamic"][0]()), "padded") == ("padded", [])


def test_a_stream_is_refused_where_no_mode_was_set() -> None:
    with pytest.raises(AssertionError, match="use"):
        models.hidden(tiny.lm(), packing.layout(GROUPS, "shared"))


def test_a_mode_is_chosen_once() -> None:
    with pytest.raises(AssertionError, match="once"):
        attention.use(reading("llama", "shared"), "packed")


def test_training_with_dropout_is_refused() -> None:
    with pytest.raises(ConfigError, match="set it to 0"):
        attention.refuse_dropout(causal(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=64)))
    with pytest.raises(ConfigError, match="attention_dropout"):
        attention.refuse_dropout(causal(LlamaConfig(**SIZES, attention_dropout=0.1)))
    attention.refuse_dropout(tiny.lm())


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_folder_knows_nothing_of_modes(tmp_path: Path, mode: Mode) -> None:
    model = tiny.lm()
    attention.use(model, mode)
    models.save(model, tiny.tokenizer(), tmp_path / "lm")
    reward_model, tokenizer = models.new_rm(tmp_path / "lm", "stiennon", 0, mode)
    assert attention.mode(reward_model) == mode
    models.save(reward_model, tokenizer, tmp_path / "rm")
    assert not [p for p in tmp_path.rglob("*.json") if "stream-" in p.read_text()]
    for load, name in ((models.load_lm, "lm"), (models.load_rm, "rm")):
        assert attention.mode(load(tmp_path / name)[0]) == "padded"
        assert attention.mode(load(tmp_path / name, mode)[0]) == mode
    assert attention.mode(copy.deepcopy(model)) == mode
