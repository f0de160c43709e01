"""A baseline answer made shorter and longer, for calibrating the length-controlled win rate."""

from typing import NamedTuple

from pipeline.seeds import derive
from pipeline.world.draw import Draw
from pipeline.world.style import PHRASES, Style, dress, undress


class Versions(NamedTuple):
    verbose: str
    concise: str


def verbose_concise(text: str) -> Versions:
    """The same answer wordy and bare. Both have the same opener, lest its reward be taken for an effect of length."""
    draw = Draw(derive(0, "world", "verbose_concise", text))
    phrases = PHRASES["train"]
    style = Style(draw.pick(phrases.openers), tuple(draw.sample(phrases.fillers, 2)), draw.pick(phrases.closers))
    body = undress(text).body
    return Versions(verbose=dress(body, style), concise=dress(body, Style(opener=style.opener)))
