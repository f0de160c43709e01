"""Where the model's output is read, which groups share a forward pass, and how conversations become token ids."""

import random
from itertools import chain, pairwise

import pytest
import tiny
import torch
from transformers import PreTrainedTokenizerBase

from pipeline import chat, packing, rows
from pipeline.packing import Group

Ids = list[int]


def ids(draw: random.Random, least: int, most: int) -> Ids:
    return [draw.randint(1, 50) for _ in range(draw.randint(least, most))]


def groups_of(seed: int, n: int = 7) -> list[Group]:
    """Prompts and responses of all lengths, some groups with one response, some with four."""
    draw = random.Random(seed)
    return [Group(ids(draw, 1, 9), [ids(draw, 1, 7) for _ in range(draw.randint(1, 4))]) for _ in range(n)]


# --- layout ---


def reference(groups: list[Group]) -> list[tuple[Ids, Ids]]:
    """(prompt, response) of each row, in order."""
    return [(g.prompt, r) for g in groups for r in g.responses]


@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_its_prompt_and_response_padded_on_the_right(seed: int) -> None:
    groups = groups_of(seed)
    at = packing.layout(groups)
    width = max(len(p) + len(r) for p, r in reference(groups))
    assert at.ids.tolist() == [p + r + [0] * (width - len(p) - len(r)) for p, r in reference(groups)]


@pytest.mark.parametrize("seed", range(5))
def test_last_is_where_each_response_ends(seed: int) -> None:
    groups = groups_of(seed)
    at = packing.layout(groups)
    width = at.ids.shape[1]
    assert at.last.tolist() == [i * width + len(p) + len(r) - 1 for i, (p, r) in enumerate(reference(groups))]
    assert at.ids.flatten()[at.last].tolist() == [r[-1] for _, r in reference(groups)]


@pytest.mark.parametrize("seed", range(5))
def test_before_target_and_owner_name_each_response_token_once(seed: int) -> None:
    groups = groups_of(seed)
    at = packing.layout(groups)
    width = at.ids.shape[1]
    expected = [
        (i * width + len(p) + j - 1, token, i)
        for i, (p, r) in enumerate(reference(groups))
        for j, token in enumerate(r)
    ]
    assert list(zip(at.before.tolist(), at.target.tolist(), at.owner.tolist(), strict=True)) == expected
    assert at.ids.flatten()[at.before + 1].tolist() == at.target.tolist()


def test_the_first_response_token_is_predicted_by_the_prompts_last() -> None:
    at = packing.layout([Group([7, 8], [[9, 10]]), Group([5], [[6]])])
    assert at.before.tolist() == [1, 2, 4]
    assert at.target.tolist() == [9, 10, 6]
    assert at.owner.tolist() == [0, 0, 1]
    assert at.last.tolist() == [3, 5]


def test_a_group_without_prompt_or_with_an_empty_response_is_refused() -> None:
    for prompt, responses in (([], [[1]]), ([1], [[]])):
        with pytest.raises(AssertionError):
            Group(prompt, responses)


# --- batches ---


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tokens", [1, 40, 100, 10**6])
def test_every_group_comes_once_and_whole(seed: int, tokens: int) -> None:
    groups = groups_of(seed, n=30)
    made = list(packing.batches(groups, tokens))
    assert sorted(chain.from_iterable(at for at, _ in made)) == list(range(30))
    for at, batch in made:
        assert [id(g) for g in batch] == [id(groups[i]) for i in at]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tokens", [1, 40, 100, 10**6])
def test_a_batch_keeps_the_token_budget_unless_it_is_one_group(seed: int, tokens: int) -> None:
    for _, batch in packing.batches(groups_of(seed, n=30), tokens):
        assert len(batch) == 1 or packing.layout(batch).ids.numel() <= tokens


@pytest.mark.parametrize("seed", range(5))
def test_no_batch_could_have_taken_the_next_group_as_well(seed: int) -> None:
    """The budget is used: with all groups alike, batches are as full as they can be."""
    groups = [Group([1, 2], [[3], [4]]) for _ in range(11)]  # 2 rows of 3 tokens each
    sizes = [len(batch) for _, batch in packing.batches(groups, 6 * (seed + 1))]
    assert sizes[:-1] == [seed + 1] * (len(sizes) - 1)
    different = list(packing.batches(groups_of(seed, n=30), 100))
    for (_, batch), (_, after) in pairwise(different):
        assert packing.layout([*batch, after[0]]).ids.numel() > 100


def test_no_groups_are_no_batches() -> None:
    assert list(packing.batches([], 100)) == []


# --- conversations ---


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return tiny.tokenizer()


PAIRS = [
    ("What is 12 + 30?", "12 + 30 = 42."),
    ("Write a Python function f.", "## Answer\n```\ndef f(x):\n    return x\n```\n"),
    ("Naïve café, 東京?", "  Spaces   around  — and “quotes”. 🙂 "),
    ("x", ""),
    *((rows.prompt_of(row), row["rejected"]) for row in tiny.rows_of("preferences", 40)),
]


@pytest.mark.parametrize(("asked", "said"), PAIRS)
def test_a_conversation_is_one_bos_the_prompt_the_answer_one_eos(
    tokenizer: PreTrainedTokenizerBase, asked: str, said: str
) -> None:
    (cue,), (whole,) = chat.prompts(tokenizer, [asked]), chat.answered(tokenizer, [asked], [said])
    assert whole[: len(cue)] == cue
    assert whole[0] == tokenizer.bos_token_id and whole.count(tokenizer.bos_token_id) == 1
    assert whole[-1] == tokenizer.eos_token_id and whole.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(whole[len(cue) :]) == said + "<eos>"  # the cue itself ends where the assistant speaks
    assert tokenizer.decode(cue, skip_special_tokens=True) == asked


def test_a_batch_of_conversations_is_each_on_its_own(tokenizer: PreTrainedTokenizerBase) -> None:
    asked, said = zip(*PAIRS, strict=True)
    assert chat.prompts(tokenizer, asked) == [chat.prompts(tokenizer, [q])[0] for q in asked]
    assert chat.answered(tokenizer, asked, said) == [
        chat.answered(tokenizer, [q], [a])[0] for q, a in zip(asked, said, strict=True)
    ]


def test_ids_are_those_of_the_tokenizers_own_template(tokenizer: PreTrainedTokenizerBase) -> None:
    talk = [*chat.user("What is 1 + 1?"), {"role": "assistant", "content": "2."}, *chat.user(" Thanks!")]
    own = tokenizer.apply_chat_template(talk, tokenize=True, return_dict=True)["input_ids"]
    assert chat.ids(tokenizer, [talk]) == [own]
    cued = tokenizer.apply_chat_template(talk, tokenize=True, return_dict=True, add_generation_prompt=True)
    assert chat.ids(tokenizer, [talk], cue=True) == [cued["input_ids"]]


def test_no_conversations_are_no_ids(tokenizer: PreTrainedTokenizerBase) -> None:
    assert chat.ids(tokenizer, []) == chat.prompts(tokenizer, []) == chat.answered(tokenizer, [], []) == []


def test_a_question_without_its_answer_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError):
        chat.answered(tokenizer, ["one", "two"], ["1"])


def test_padding_is_not_the_end_of_a_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert len(set(special)) == 3 and None not in special


def slow_common_prefix(sequences: list[Ids]) -> int:
    n = 0
    while all(len(s) > n for s in sequences) and len({s[n] for s in sequences}) == 1:
        n += 1
    return n


@pytest.mark.parametrize("seed", range(50))
def test_the_common_prefix_is_the_longest(seed: int) -> None:
    draw = random.Random(seed)
    shared = ids(draw, 0, 5)
    sequences = [shared + [draw.randint(1, 2) for _ in range(draw.randint(0, 3))] for _ in range(draw.randint(1, 5))]
    assert chat.common_prefix(sequences) == slow_common_prefix(sequences)


def test_padded_positions_are_never_read() -> None:
    """No index of a layout points at padding."""
    groups = groups_of(3)
    at = packing.layout(groups)
    real = torch.zeros_like(at.ids, dtype=torch.bool)
    for i, (p, r) in enumerate(reference(groups)):
        real[i, : len(p) + len(r)] = True
    assert real.flatten()[torch.cat([at.last, at.before])].all()
