"""A language model run here as a judge: the log-probabilities of "m" and "M" as the first token of its reply.

It sees the whole vocabulary where an endpoint shows a few best tokens, so neither letter is ever missing.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from pipeline import attention, chat, hub, models, packing
from pipeline.judges.prompt import Messages
from pipeline.metrics.alpaca_eval import Logprobs
from pipeline.packing import Group
from pipeline.stage import Sections

LETTERS = ("m", "M")


@torch.no_grad()
def first_tokens(x: Sections, questions: Sequence[Messages]) -> list[Logprobs]:
    """For each question {"token", "logprob"} of both letters, in fp32."""
    if not questions:
        return []
    folder = hub.model(x.judge.id, x.judge.revision, x.hub.root).folder
    model, tokenizer = models.load_lm(folder, x.run.packing)
    model.eval()
    cues = chat.ids(tokenizer, questions, cue=True)
    room = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, cues))
    if room is not None and longest >= room:
        raise ValueError(f"a question has {longest} tokens, the judge reads {room}: take a judge that reads more")
    letters = [token(tokenizer, questions[0], letter) for letter in LETTERS]
    groups = [Group(cue[:-1], [cue[-1:]]) for cue in cues]
    found: list[Logprobs] = [[]] * len(groups)
    mode = attention.mode(model)
    for rows, batch in packing.batches(groups, x.run.micro_tokens, mode):
        at = packing.layout(batch, mode, str(model.device))
        logits = model.lm_head(models.hidden(model, at)[at.last]).float()  # type: ignore[operator]  # the head is a module
        both = logits.log_softmax(-1)[:, letters].tolist()
        for row, values in zip(rows, both, strict=True):
            found[row] = [{"token": name, "logprob": value} for name, value in zip(LETTERS, values, strict=True)]
    return found


def token(tokenizer: PreTrainedTokenizerBase, question: Messages, letter: str) -> int:
    """The one token by which the model would write the letter right after the template's cue."""
    cue = str(tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True))
    before, after = tokenizer([cue, f"{cue}{letter}"], add_special_tokens=False)["input_ids"]
    if after[:-1] != before:
        raise ValueError(f"the judge's tokenizer does not write {letter!r} as one token of its own: take another judge")
    return after[-1]
