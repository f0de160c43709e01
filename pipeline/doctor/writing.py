"""What tokenizer and template make of a conversation."""

import re

from transformers import PreTrainedTokenizerBase

from pipeline import contract, scoring
from pipeline.doctor.patient import Patient, Seen, shown

DATE = re.compile(r"\b\d{1,2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d{4}\b|\b20\d\d-\d\d-\d\d\b")


def template(p: Patient) -> Seen:
    if not p.tokenizer.chat_template:
        return "FAIL", "the tokenizer has no chat template", "save the one it was trained with: tokenizer.chat_template"
    said = p.tokenizer.apply_chat_template(scoring.talk("QUESTION", "ANSWER"), tokenize=False)
    lost = [word for word in ("QUESTION", "ANSWER") if word not in said]
    if lost:
        return "FAIL", f"the template does not write {' and '.join(lost)}", "take one that writes both turns"
    return "good", f"writes {said!r}", ""


def date(p: Patient) -> Seen:
    said = str(p.tokenizer.apply_chat_template(scoring.talk("?", "!"), tokenize=False))
    if asks_the_clock(p.tokenizer):
        remedy = "in the template put the date of training in the place of strftime_now(...)"
        return "FAIL", "the template writes today's date", remedy
    fixed = DATE.search(said)
    return "good", f"always {fixed[0]}" if fixed else "none", ""


def asks_the_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """A template that calls the clock fails when there is something else in its place."""
    if "strftime_now" not in str(tokenizer.chat_template):
        return False
    try:
        tokenizer.apply_chat_template(scoring.talk("?", "!"), tokenize=False, strftime_now="")
    except TypeError:
        return True
    return False


def bos(p: Patient) -> Seen:
    id, name = p.tokenizer.bos_token_id, p.tokenizer.bos_token
    if id is None:
        return "good", "this tokenizer has none", ""
    times = contract.leading(p.talk, id)
    added = contract.leading(p.tokenizer("x")["input_ids"], id) > 0  # type: ignore[arg-type]  # ids
    if times > 1:
        return "FAIL", f"the template writes {name} {times} times", "let the template write it once"
    if not times and added:
        return "FAIL", f"the tokenizer puts {name} before a text, the template does not", "add it to the template"
    if times and added:
        remedy = "tokenize rendered text with add_special_tokens=False, as is done here"
        return "warn", f"the template writes {name}, and the tokenizer would add a second", remedy
    return "good", f"{name} once" if times else f"{name} is written by nobody", ""


def pad(p: Patient) -> Seen:
    own, known = p.tokenizer.pad_token_id, p.model.config.get_text_config().pad_token_id
    closing = (p.tokenizer.eos_token_id, *p.closing)
    remedy = "give tokenizer.pad_token and config.pad_token_id a token that no text holds"
    if own is None or known is None:
        where = [name for name, id in (("the tokenizer", own), ("config.json", known)) if id is None]
        return "FAIL", f"{' and '.join(where)} names none", remedy
    if own in closing or known in closing:
        return "FAIL", f"PAD ({shown(p, own)}) ends turns too", remedy
    if own != known:
        return "FAIL", f"the tokenizer pads with {shown(p, own)}, config.json says {shown(p, known)}", remedy
    return "good", shown(p, own), ""
