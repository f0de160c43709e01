"""Style around an answer: an opener, fillers, a closer, markdown. `undress` takes off whatever `dress` can put on.

Response models of the two sides use disjoint phrases. All of them suit a refusal as well as an answer. Code stands on a
line of its own.
"""

import re
from typing import NamedTuple

from pipeline.world.families.task import Side


class Phrases(NamedTuple):
    openers: tuple[str, ...]
    fillers: tuple[str, ...]
    closers: tuple[str, ...]


PHRASES: dict[Side, Phrases] = {
    "train": Phrases(
        openers=("Hi!", "Okay!", "Hello there!", "Let's see.", "Thanks for asking!", "Here is my reply:"),
        fillers=(
            "Let me think step by step.",
            "I checked this twice.",
            "Here is what I can say.",
            "I want to be clear about this.",
        ),
        closers=("I hope this helps!", "Have a great day!", "Let me know if you need more."),
    ),
    "valid": Phrases(
        openers=("Alright!", "Greetings!", "Welcome back!", "My answer:"),
        fillers=("Let me put it plainly.", "I will take this slowly.", "It is worth a closer look."),
        closers=("Feel free to ask again.", "Take care for now!", "See you soon!"),
    ),
}
HEADING = "## Answer"

_ALL = sorted({p for phrases in PHRASES.values() for kind in phrases for p in kind}, key=lambda p: (-len(p), p))
_OPENERS = frozenset(p for phrases in PHRASES.values() for p in phrases.openers)
_PHRASE = re.compile("|".join(map(re.escape, [*_ALL, HEADING])))
_MARKUP = re.compile(r"^[ \t]*- |\*\*|```(?:python)?|`|^#+ ", re.MULTILINE)
_BLANKS = re.compile(r"[ \t]+")


class Style(NamedTuple):
    opener: str = ""
    fillers: tuple[str, ...] = ()
    closer: str = ""
    markdown: bool = False


class Undressed(NamedTuple):
    body: str
    words: int  # of known phrases and headings
    openers: int
    leads: bool  # the text begins with an opener


def dress(body: str, style: Style) -> str:
    is_code = body.startswith("def ")
    if not style.markdown:
        before, after = " ".join(filter(None, (style.opener, *style.fillers))), style.closer
        return ("\n" if is_code else " ").join(filter(None, (before, body, after)))
    mark = "`" if is_code else "**"
    bullets = (f"- {filler}" for filler in style.fillers)
    return "\n".join(filter(None, (style.opener, HEADING, *bullets, mark + body + mark, style.closer)))


def undress(text: str) -> Undressed:
    phrases = _PHRASE.findall(text)
    body = _MARKUP.sub(" ", _PHRASE.sub(" ", text))
    lines = (_BLANKS.sub(" ", line).strip() for line in body.splitlines())
    return Undressed(
        body="\n".join(line for line in lines if line),
        words=sum(phrase.count(" ") + 1 for phrase in phrases),
        openers=sum(phrase in _OPENERS for phrase in phrases),
        leads=bool(phrases) and phrases[0] in _OPENERS and text.lstrip().startswith(phrases[0]),
    )
