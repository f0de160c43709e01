"""Can the scores of this reward model be trusted? One finding for each way in which they are known to go wrong.

It takes any `AutoModelForSequenceClassification` with one label, whoever made it, and compares what this pipeline
reads with what transformers' own forward gives. It does not say how good the model is: that is what benchmarks are for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.doctor import head, reading, writing
from pipeline.doctor.patient import SAMPLE, Patient, Seen, easy, first_line, open_model, spread
from pipeline.finding import Finding

__all__ = ["CHECKS", "SAMPLE", "Check", "Patient", "easy", "examine", "open_model", "spread"]


@dataclass(frozen=True)
class Check:
    name: str
    after: tuple[str, ...]  # checks without which this one means nothing
    why: str  # it matters
    look: Callable[[Patient], Seen]


def examine(patient: Patient) -> Iterator[Finding]:
    """Every check in order; one that needs another that failed is skipped."""
    unusable: set[str] = set()
    for each in CHECKS:
        missing = [name for name in each.after if name in unusable]
        if missing:
            unusable.add(each.name)
            yield Finding(each.name, "skip", f"comes after {missing[0]}", each.why)
            continue
        try:
            state, found, remedy = each.look(patient)
        except Exception as e:  # somebody else's model may fail in any way: that is what we are here to say
            state, found, remedy = (
                "FAIL",
                f"{type(e).__name__}: {first_line(e)}",
                "see whether transformers itself runs it",
            )
        if state == "FAIL":
            unusable.add(each.name)
        yield Finding(each.name, state, found, each.why, remedy)


CHECKS = (
    Check("output", (), "A reward is one number; this pipeline reads it by the head's weights", head.output),
    Check("template", (), "Without the training's template the model reads a text it has never seen", writing.template),
    Check("date", ("template",), "The same text gets another score tomorrow", writing.date),
    Check("BOS", ("template",), "Models react strongly to a first token that is missing or there twice", writing.bos),
    Check(
        "PAD",
        ("template",),
        "Transformers reads the reward at the last token that is not PAD: in a batch, with PAD = EOS, before the end",
        writing.pad,
    ),
    Check(
        "read position",
        ("output", "template"),
        "The reward is read at one token; at another one the model never learned to put it there",
        reading.read_position,
    ),
    Check(
        "head", ("output", "template"), "An untrained head gives any order of answers, with confidence", head.trained
    ),
    Check("bf16 ties", ("head",), "A tie counts as an error in every benchmark", head.bf16_ties),
    Check("batch", ("output", "template"), "A score must not depend on what else is scored", reading.batch),
    Check("length", ("template",), "What is cut is not scored", reading.length),
    Check(
        "contract",
        ("output", "template"),
        "Another template, tokenizer or library moves scores unseen",
        reading.kept_contract,
    ),
)
