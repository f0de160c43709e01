"""Sampling against transformers' own `generate`, against itself in other company, and against exact probabilities."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy import stats
from test_attention import CONFIGS, SIZES, WINDOW
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from pipeline import attention, cells, chat, models, rows, sample
from pipeline.cells import Cells
from pipeline.errors import ConfigError
from pipeline.sample import Sampling
from pipeline.stage import Inputs
from pipeline.stages import generate

FAMILIES = ("llama", "qwen2", "qwen2_sliding", "mistral_sliding", "gemma2", "gpt2")
GPT2 = GPT2Config(vocab_size=128, n_positions=128, n_embd=32, n_layer=2, n_head=2)
STOPS = tuple(range(2, 128, 9))
GREEDY = Sampling(max_new=24, temperature=0.0, stops=STOPS)
FREE = replace(GREEDY, temperature=1.0)
DRAW = np.random.default_rng(0)
PROMPTS = [DRAW.integers(3, 128, n).tolist() for n in (5, 1, 30, 12, 9, 17, 3, 22)]
SEEDS = range(10, 10 + len(PROMPTS))


def lm(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = copy.deepcopy(GPT2 if name == "gpt2" else CONFIGS[name])
    config.tie_word_embeddings = False  # else it would repeat itself
    made = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():  # so large that what came before matters for what comes next
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return made


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return lm("llama")


def by_generate(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    settings: dict[str, Any] = {"do_sample": False, "eos_token_id": list(STOPS), "pad_token_id": 0}
    made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=GREEDY.max_new, **settings)  # type: ignore[operator]
    return made[0, len(prompt) :].tolist()


# --- the model is read right ---


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_generate_token_for_token(name: str) -> None:
    """Prompts of different lengths, some beyond the window; all at once, and three at a time."""
    model = lm(name)
    expected = [by_generate(model, prompt) for prompt in PROMPTS]
    assert max(map(len, PROMPTS)) > WINDOW and len({len(answer) for answer in expected}) > 3
    for slots in (None, 3):
        assert sample.sample(model, PROMPTS, GREEDY, SEEDS, slots=slots) == expected
    twice = sample.sample(model, PROMPTS, GREEDY, SEEDS, k=2, slots=5)
    assert twice == [answer for answer in expected for _ in range(2)]


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("mode", ["padded", "shared"])
def test_the_model_attends_as_before_afterwards(name: str, mode: Any) -> None:
    model = lm(name)
    attention.use(model, mode)
    before, logits = model.config._attn_implementation, model(input_ids=torch.tensor(PROMPTS[:1])).logits

    def stop(ended: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sample.sample(model, PROMPTS, GREEDY, SEEDS, tick=stop)
    sample.sample(model, PROMPTS, GREEDY, SEEDS)
    assert model.config._attn_implementation == before
    assert torch.equal(model(input_ids=torch.tensor(PROMPTS[:1])).logits, logits)


def test_what_is_soft_capped_last_is_sampled_capped() -> None:
    """Gemma 2's own logits, not those of its head: greedy would not tell."""
    model = lm("gemma2")
    model.config.final_logit_softcapping = 0.5
    n = 3000
    first = [a[0] for a in sample.sample(model, PROMPTS[:1] * n, replace(FREE, max_new=1), range(n))]
    with torch.no_grad():
        assert_drawn(first, model(input_ids=torch.tensor(PROMPTS[:1])).logits[0, -1].softmax(-1))


def test_a_model_that_cells_get_wrong_is_refused() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES, rope_parameters=rope)).eval()
    with pytest.raises(ValueError, match="LlamaForCausalLM cannot be sampled from: its position encoding depends"):
        sample.sample(model, PROMPTS, GREEDY, SEEDS)
    assert model.config._attn_implementation != cells.NAME


@pytest.mark.parametrize("wrong", ["window", "turn"])
def test_so_is_one_whose_small_example_is_off(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lm("llama")
    own = cells.forward
    lost = {"window": {"sliding_window": 2}, "turn": {"turn": None}}[wrong]
    monkeypatch.setitem(
        attention.AttentionInterface._global_mapping, cells.NAME, lambda *a, **kw: own(*a, **{**kw, **lost})
    )
    message = {"window": "logits are off by", "turn": "does not hand on"}[wrong]
    with pytest.raises(ValueError, match=message):
        sample.sample(model, PROMPTS, GREEDY, SEEDS)


# --- a response depends on its prompt, its seed and its number alone ---


def test_not_on_company_order_or_room(llama: PreTrainedModel) -> None:
    together = sample.sample(llama, PROMPTS, FREE, SEEDS, k=3)
    assert len({len(answer) for answer in together}) > 5
    for slots in (3, 4, 7):
        assert sample.sample(llama, PROMPTS, FREE, SEEDS, k=3, slots=slots) == together
    backwards = sample.sample(llama, PROMPTS[::-1], FREE, SEEDS[::-1], k=3)
    assert [backwards[i : i + 3] for i in range(0, len(together), 3)][::-1] == [
        together[i : i + 3] for i in range(0, len(together), 3)
    ]
    alone = [sample.sample(llama, [p], FREE, [s], k=3) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert [answer for each in alone for answer in each] == together


def test_not_on_how_many_more_are_asked_or_how_long(llama: PreTrainedModel) -> None:
    three = sample.sample(llama, PROMPTS, FREE, SEEDS, k=3)
    assert sample.sample(llama, PROMPTS, FREE, SEEDS) == three[::3]
    for max_new in (1, 2, 17):
        short = sample.sample(llama, PROMPTS, replace(FREE, max_new=max_new), SEEDS, k=3)
        assert short == [answer[:max_new] for answer in three]


def test_but_on_each_of_them(llama: PreTrainedModel) -> None:
    torch.manual_seed(1)
    first = sample.sample(llama, PROMPTS[:1] * 2, FREE, [3, 4], k=2)
    assert len({tuple(answer) for answer in first}) == 4
    torch.manual_seed(2)
    assert sample.sample(llama, PROMPTS[:1], FREE, [3], k=2) == first[:2]


# --- rows come and go ---


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What the model was given: prompts that were read, and rows of each step."""
    found: dict[str, list[Any]] = {"read": [], "rows": []}
    read, write = Cells.read, Cells.write

    def reading(self: Cells, prompts: Sequence[list[int]], row: int, k: int = 1) -> Tensor:
        found["read"] += [prompts]
        return read(self, prompts, row, k)

    def writing(self: Cells, tokens: Tensor, at: Tensor) -> Tensor:
        found["rows"].append(len(tokens))
        return write(self, tokens, at)

    monkeypatch.setattr(Cells, "read", reading)
    monkeypatch.setattr(Cells, "write", writing)
    return found


@pytest.mark.parametrize(("k", "slots"), [(1, None), (1, 3), (3, None), (3, 3), (3, 8)])
def test_prompts_are_read_once_and_ended_rows_are_not_read_at_all(
    llama: PreTrainedModel, seen: dict[str, list[Any]], k: int, slots: int | None
) -> None:
    sample.sample(llama, PROMPTS[:1], GREEDY, [0])  # the model is checked
    seen.update(read=[], rows=[])
    answers = sample.sample(llama, PROMPTS, FREE, SEEDS, k, slots)
    assert sorted(p for part in seen["read"] for p in part) == sorted(PROMPTS)
    assert sum(seen["rows"]) == sum(len(answer) - 1 for answer in answers)
    assert max(seen["rows"]) <= (slots or k * len(PROMPTS))
    assert slots is None or len(seen["read"]) > 1


def test_a_pass_reads_as_many_prompts_as_it_may(
    llama: PreTrainedModel, seen: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = sample.sample(llama, PROMPTS, FREE, SEEDS)
    seen.update(read=[])
    monkeypatch.setattr(sample, "READ", 29)
    assert sample.sample(llama, PROMPTS, FREE, SEEDS) == usual
    assert [[len(p) for p in part] for part in seen["read"]] == [[30], [22], [17, 12], [9, 5, 3, 1]]


def test_whoever_waits_is_told_how_many_have_ended(llama: PreTrainedModel) -> None:
    told: list[int] = []
    sample.sample(llama, PROMPTS, FREE, SEEDS, 2, 4, told.append)
    assert told == sorted(told) and told[-1] == 2 * len(PROMPTS) and len(set(told)) > 5


def test_a_response_ends_with_its_first_stop(llama: PreTrainedModel) -> None:
    answers = sample.sample(llama, PROMPTS, FREE, SEEDS, k=8)
    for answer in answers:
        assert not set(STOPS) & set(answer[:-1])
        assert answer[-1] in STOPS or len(answer) == FREE.max_new
    assert len({answer[-1] for answer in answers} & set(STOPS)) > 2
    assert {len(a) for a in sample.sample(llama, PROMPTS, replace(FREE, stops=()), SEEDS)} == {FREE.max_new}


def test_no_prompts_no_responses(llama: PreTrainedModel) -> None:
    assert sample.sample(llama, [], FREE, []) == []


# --- what is drawn ---


def assert_drawn(tokens: Sequence[int], p: Tensor, surprise: float = 1e-4) -> None:
    """Pearson's chi-square against exact probabilities, the tokens that are too rare for it taken as one."""
    seen, expected = np.bincount(tokens, minlength=len(p)), p.double().numpy() / float(p.double().sum()) * len(tokens)
    assert not seen[expected == 0].any()
    common = expected >= 5
    seen, expected = (np.append(x[common], x[~common].sum()) for x in (seen, expected))
    kept = expected > 0
    if kept.sum() > 1:
        assert stats.chisquare(seen[kept], expected[kept] / expected.sum() * seen.sum()).pvalue > surprise


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_distributed_as_the_softmax(llama: PreTrainedModel, temperature: float) -> None:
    """The first, and the second after the commonest first."""
    n, how = 3000, replace(FREE, temperature=temperature, max_new=2, stops=())
    said = sample.sample(llama, PROMPTS[:1], how, [5], k=n)
    firsts = [a[0] for a in said]
    common = max(set(firsts), key=firsts.count)
    with torch.no_grad():
        logits = llama(input_ids=torch.tensor([[*PROMPTS[0], common]])).logits[0, -2:]
    assert_drawn(firsts, (logits[0] / temperature).softmax(-1))
    assert_drawn([b for a, b in said if a == common], (logits[1] / temperature).softmax(-1))
    with pytest.raises(AssertionError):
        assert_drawn(firsts, (logits[0] / (1.5 - temperature)).softmax(-1))


def left(logits: np.ndarray, how: Sampling) -> np.ndarray:
    """The oracle: token by token from the most probable on."""
    p = np.exp(logits / how.temperature - (logits / how.temperature).max())
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))[: how.top_k or None]
    whole, kept, so_far = p[order].sum(), np.zeros_like(p), 0.0
    for i in order:
        if so_far < how.top_p * whole:
            kept[i] = p[i]
        so_far += p[i]
    return kept / kept.sum()


CUTS: list[dict[str, Any]] = [
    *({"top_k": k} for k in (1, 3, 9, 40)),
    *({"top_p": p} for p in (0.05, 0.5, 0.9)),
    *({"top_k": 4, "top_p": p} for p in (0.3, 0.8)),
]
NINE = np.array([0.3, 2.0, -1.0, 2.0, 0.9, -0.4, 1.4, 0.0, -3.0])  # two are as probable


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_what_is_left_out_is_never_drawn_and_the_rest_in_proportion(cut: dict[str, Any], temperature: float) -> None:
    how, n = Sampling(1, temperature, **cut), 8000
    p = left(NINE, how)
    drawn = sample.choose(torch.tensor(NINE).float().repeat(n, 1), how, sample.numbers(3, n)[:, None]).tolist()
    assert set(drawn) <= set(np.flatnonzero(p))
    assert_drawn(drawn, torch.tensor(p))
    edges = sample.choose(torch.tensor(NINE).float().repeat(2, 1), how, torch.tensor([[0.0], [1 - 2**-53]]).double())
    assert set(edges.tolist()) <= set(np.flatnonzero(p))
    many = np.linspace(0, 1, 4001)[:-1, None]  # each token that is left is drawn by some number
    every = sample.choose(torch.tensor(NINE).float().repeat(4000, 1), how, torch.tensor(many))
    assert set(every.tolist()) == set(np.flatnonzero(p))


def test_what_just_reaches_top_p_is_enough() -> None:
    four = torch.zeros(400, 4)  # a quarter each
    drawn = sample.choose(four, Sampling(1, 1.0, top_p=0.5), sample.numbers(3, 400)[:, None])
    assert set(drawn.tolist()) == {0, 1}


def test_a_token_without_probability_is_not_drawn_at_the_edges() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).repeat(3, 1)
    uniform = torch.tensor([[0.0], [0.51], [1 - 2**-53]], dtype=torch.float64)
    assert sample.choose(logits, Sampling(1, 1.0), uniform).tolist() == [1, 3, 3]


# --- the stage ---


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("generate")
    models.save(tiny.varied(tiny.lm(), seed=1), tiny.tokenizer(), root / "policy")
    return Inputs(policy=root / "policy", data=tiny.data(root / "data", "prompts", 6))


Run = Callable[..., tuple[dict[str, float], list[dict[str, Any]]]]


@pytest.fixture
def run(inputs: Inputs, tmp_path: Path) -> Run:
    def made(*overrides: str, **other: Path) -> tuple[dict[str, float], list[dict[str, Any]]]:
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        settings = ("generate.max_new=8", *overrides)
        metrics = generate.run(tiny.view_of("generate", tiny.experiment(*settings)), Inputs({**inputs, **other}), out)
        return metrics, rows.read(out)

    return made


def test_the_stage_answers_each_instruction(run: Run, inputs: Inputs) -> None:
    metrics, made = run()
    asked = rows.read(inputs["data"])
    assert [(row["id"], row["prompt"], row["sample"]) for row in made] == [(r["id"], r["prompt"], 0) for r in asked]
    assert metrics["responses"] == 6 and metrics["mean_tokens"] == sum(row["tokens"] for row in made) / 6
    assert run()[1] == made != run("seed=1")[1]


def test_more_samples_begin_with_the_one(run: Run) -> None:
    (_, one), (metrics, three) = run(), run("generate.samples=3")
    assert metrics["responses"] == 18 and [row["sample"] for row in three] == [0, 1, 2] * 6
    assert [{**row, "sample": 0} for row in three[::3]] == one
    assert len({row["output"] for row in three[:3]}) == 3


def test_the_stage_leaves_out_what_it_is_told_to(run: Run) -> None:
    greedy = run("generate.temperature=0")[1]
    assert run("generate.top_k=1")[1] == greedy == run("generate.top_p=1e-9")[1] != run()[1]


def test_stops_are_those_of_tokenizer_and_folder() -> None:
    model, tokenizer = tiny.lm(), tiny.tokenizer()
    eos = chat.eos(tokenizer)
    assert sample.stops(model, tokenizer) == (eos,)
    model.generation_config.eos_token_id = [700, eos, 5]
    assert sample.stops(model, tokenizer) == tuple(sorted((eos, 5, 700)))
    model.generation_config.eos_token_id = None
    assert sample.stops(model, tokenizer) == (eos,)


def test_what_cannot_be_answered_is_said_before_anything_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "sample", lambda *_: pytest.fail("it was asked"))
    longest = max(map(len, chat.prompts(tiny.tokenizer(), [r["prompt"] for r in tiny.rows_of("prompts", 6)])))
    remedy = f"generate.max_new = 999: .* {longest} tokens, .* 160 .*: lower it to {160 - longest}"
    with pytest.raises(ConfigError, match=remedy):
        run("generate.max_new=999")
    long = tmp_path / "long"
    long.mkdir()
    rows.write(long, [{"id": "a", "prompt": "what is this? " * 99}])
    with pytest.raises(ConfigError, match=r"generate.max_new = 8: .* leave out such prompts"):
        run(data=long)
    rows.write(long, [{"id": "a", "prompt": "what?"}][:0])
    with pytest.raises(ConfigError, match="data = 0: there is no prompt to answer"):
        run(data=long)
    endless = tmp_path / "endless"
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.eos_token = None
    models.save(tiny.lm(), tokenizer, endless)
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        run(policy=endless)
