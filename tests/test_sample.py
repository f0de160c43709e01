"""Sampling against transformers' own `generate`, against itself on each prompt alone, and against the softmax."""

from collections.abc import Sequence

import pytest
import tiny
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from pipeline import chat, sample
from pipeline.sample import cut

FAMILIES = ("llama", "qwen2", "gpt2")
MAX_NEW = 24
EOS = tiny.tokenizer().eos_token_id
assert isinstance(EOS, int)
PROMPTS = chat.prompts(tiny.tokenizer(), [row["prompt"] for row in tiny.rows_of("prompts", 12)])


def gpt2() -> PreTrainedModel:
    """Its positions are absolute: what is off by the padding shows, which rotary ones forgive."""
    torch.manual_seed(0)
    made = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tiny.tokenizer()),
            n_positions=160,
            n_embd=16,
            n_layer=1,
            n_head=2,
            tie_word_embeddings=False,
            bos_token_id=tiny.tokenizer().bos_token_id,
            eos_token_id=EOS,
        )
    )
    for embedding in (made.transformer.wte, made.transformer.wpe):
        torch.nn.init.normal_(embedding.weight, std=0.5)
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A talker that ends its turn now and then, so that rows end at different times."""
    made = tiny.varied(gpt2() if request.param == "gpt2" else tiny.lm(request.param), seed=1).eval()
    made.generation_config.pad_token_id = tiny.tokenizer().pad_token_id
    head: torch.Tensor = made.get_output_embeddings().weight  # type: ignore[union-attr,assignment]
    with torch.no_grad():
        head[EOS] *= 1.5
    return made


def say(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    seed: int = 0,
    temperature: float = 1.0,
    max_new: int = MAX_NEW,
) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return sample.sample(model, prompts, max_new=max_new, temperature=temperature, eos=EOS, generator=generator)


def by_generate(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    made = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_NEW, do_sample=False, eos_token_id=EOS
    )
    return made[0, len(prompt) :].tolist()


def test_greedy_is_generate_token_for_token(model: PreTrainedModel) -> None:
    """Prompts of different lengths in one batch, against each alone and unpadded."""
    assert len({len(p) for p in PROMPTS}) > 3
    said = say(model, PROMPTS, temperature=0)
    assert said == [by_generate(model, prompt) for prompt in PROMPTS]
    assert len({len(answer) for answer in said}) > 3  # else dropping rows was not tried


@pytest.mark.parametrize("share", [0.0, 1.01])
def test_dropping_ended_rows_changes_nothing(
    model: PreTrainedModel, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never, and at once."""
    usual = say(model, PROMPTS, temperature=0)
    monkeypatch.setattr(sample, "DROP_BELOW", share)
    assert say(model, PROMPTS, temperature=0) == usual


def test_greedy_does_not_depend_on_who_else_is_in_the_batch(model: PreTrainedModel) -> None:
    together = say(model, PROMPTS, temperature=0)
    assert [say(model, [prompt], temperature=0)[0] for prompt in PROMPTS] == together
    assert say(model, PROMPTS[::-1], temperature=0) == together[::-1]


def test_the_generator_alone_decides_what_is_sampled(model: PreTrainedModel) -> None:
    torch.manual_seed(1)
    first = say(model, PROMPTS, seed=3)
    torch.manual_seed(2)
    assert say(model, PROMPTS, seed=3) == first
    assert say(model, PROMPTS, seed=4) != first


def test_a_response_is_at_most_max_new_tokens_and_ends_where_it_ends(model: PreTrainedModel) -> None:
    answers = say(model, PROMPTS * 4)
    for answer in answers:
        assert 1 <= len(answer) <= MAX_NEW
        assert EOS not in answer[:-1]
        assert answer[-1] == EOS or len(answer) == MAX_NEW
    ended = [answer for answer in answers if answer[-1] == EOS]
    assert ended and len(ended) < len(answers)


@pytest.mark.parametrize("max_new", [1, 2, 5])
def test_less_to_say_is_the_beginning_of_more(model: PreTrainedModel, max_new: int) -> None:
    whole = say(model, PROMPTS, temperature=0)
    assert say(model, PROMPTS, temperature=0, max_new=max_new) == [answer[:max_new] for answer in whole]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_are_distributed_as_the_softmax(model: PreTrainedModel, temperature: float) -> None:
    """4,000 draws: the total variation distance of the empirical from the true distribution is about
    Σ sqrt(p(1−p)/(2πn)); three times that is generous and would still see another temperature."""
    n, prompt = 4000, PROMPTS[0]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
    true = (logits / temperature).softmax(-1)
    firsts = torch.tensor(
        [answer[0] for answer in say(model, [prompt] * n, seed=7, temperature=temperature, max_new=1)]
    )
    empirical = torch.bincount(firsts, minlength=len(true)) / n
    expected = (true * (1 - true) / (2 * torch.pi * n)).sqrt().sum()
    assert (empirical - true).abs().sum() / 2 < 3 * expected
    other = (logits / (1.5 - temperature)).softmax(-1)
    assert (empirical - other).abs().sum() / 2 > 3 * expected


def test_later_tokens_are_distributed_as_the_softmax_too(model: PreTrainedModel) -> None:
    """The second token, given the commonest first: the cache and the positions are right while sampling as well."""
    n, prompt = 4000, PROMPTS[1]
    pairs = [a for a in say(model, [prompt] * n, seed=8, temperature=0.5, max_new=2) if len(a) == 2]
    firsts = [a[0] for a in pairs]
    common = max(set(firsts), key=firsts.count)
    seconds = torch.tensor([a[1] for a in pairs if a[0] == common])
    with torch.no_grad():
        true = (model(input_ids=torch.tensor([[*prompt, common]])).logits[0, -1] / 0.5).softmax(-1)
    empirical = torch.bincount(seconds, minlength=len(true)) / len(seconds)
    expected = (true * (1 - true) / (2 * torch.pi * len(seconds))).sqrt().sum()
    assert len(seconds) > 200
    assert (empirical - true).abs().sum() / 2 < 3 * expected


def test_a_row_is_cut_after_its_first_end() -> None:
    assert cut([5, 9, 7, 9], eos=9) == [5, 9]
    assert cut([5, 7], eos=9) == [5, 7]
    assert cut([9, 9, 9], eos=9) == [9]
