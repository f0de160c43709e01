"""Conversations to token ids by the template that the tokenizer carries: once, the same way for every stage.

What a model reads is said by the template in its folder, whoever loads it. So SFT puts its template there (one of
TEMPLATES, or the tokenizer's own), and a reward model one that ends where its reward is read (`end`).

The boundary between prompt and response is the longest common prefix of token ids, never of strings: merges and
templates shift.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pipeline.conversations import Prompt, messages
from pipeline.errors import check

# Written from how the authors' code of BSR renders conversations [code]. It puts a BOS before SFT's and the policy's
# texts, where the tokenizer has one, and none before a reward model's: `end` takes it away.
ZEPHYR = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

# Llama 3's own turns without the system turn in which its instruct models tell dates [ours]: its base models have no
# template.
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TEMPLATES = {"zephyr": ZEPHYR, "llama3": LLAMA3}
DATE = "26 Jul 2024"  # what Llama 3's templates say where there is no clock [inferred]
CLOCK = "strftime_now"
NO_CLOCK = f"{{% macro {CLOCK}(format) %}}{DATE}{{% endmacro %}}"

Messages = Sequence[dict[str, Any]]


def load(folder: Path) -> PreTrainedTokenizerBase:
    """A folder's tokenizer. A template that asks for today's date is told DATE, also in what is saved: else token ids,
    and with them rewards, would be others each day."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    own = tokenizer.chat_template
    if isinstance(own, str) and CLOCK in own and NO_CLOCK not in own:
        tokenizer.chat_template = NO_CLOCK + own
    return tokenizer


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ids(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Messages], cue: bool = False) -> list[list[int]]:
    """Token ids of each conversation; with `cue` up to the point where the assistant speaks."""
    if not chats:
        return []
    texts = tokenizer.apply_chat_template([list(c) for c in chats], tokenize=False, add_generation_prompt=cue)
    return tokenizer(texts, add_special_tokens=False)["input_ids"]  # type: ignore[return-value]  # a batch gives lists


def eos(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that ends a turn."""
    token = tokenizer.eos_token_id
    if not isinstance(token, int):
        raise ValueError("the tokenizer has no end-of-sequence token; a response could never end")
    return token


def prompts(tokenizer: PreTrainedTokenizerBase, asked: Sequence[Prompt]) -> list[list[int]]:
    return ids(tokenizer, [messages(p) for p in asked], cue=True)


def answered(tokenizer: PreTrainedTokenizerBase, asked: Sequence[Prompt], answers: Sequence[str]) -> list[list[int]]:
    """One prompt, one answer, ended by the template's own end of turn."""
    return ids(
        tokenizer, [[*messages(p), {"role": "assistant", "content": a}] for p, a in zip(asked, answers, strict=True)]
    )


def end(tokenizer: PreTrainedTokenizerBase, after_eos: bool, bos: bool) -> None:
    """Gives a reward model's tokenizer a template whose last token is where the reward is read: the end of turn, or
    what the template writes after it. Without `bos` it begins without one."""
    (written,) = answered(tokenizer, ["?"], ["!"])
    last = eos(tokenizer)
    tail = written[::-1].index(last) if last in written else len(written)
    ended = not str(tokenizer.decode(written[len(written) - tail :])).strip()
    check(ended, "model.template", None, "the tokenizer's own does not end an answer with EOS: say zephyr")
    there = tail > 0 or not after_eos
    check(there, "rm.read", "after_eos", "this template writes nothing after the end of turn; zephyr does")
    cuts = []
    if tail and not after_eos:
        cuts.append(
            "{% if messages[-1]['role'] == 'assistant' and not add_generation_prompt %}"
            "{% set said = said.rpartition(eos_token)[0] + eos_token %}{% endif %}"
        )
    if not bos and written[0] == tokenizer.bos_token_id:
        cuts.append("{% set said = said.removeprefix(bos_token) %}")
    if cuts:
        own = str(tokenizer.chat_template).removesuffix("\n")  # Jinja leaves the last one out
        tokenizer.chat_template = f"{{% set said %}}{{{{ '' }}}}{own}{{% endset %}}{''.join(cuts)}{{{{ said }}}}"


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """Length of the longest common prefix; lexicographically the first and the last sequence differ earliest."""
    first, last = min(sequences), max(sequences)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(map(len, sequences)))
