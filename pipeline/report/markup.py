"""HTML, escaped in one place: what is not Markup is text, wherever it comes from."""

import html
import json
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

VOID = {"br", "img", "input", "meta"}


class Markup(str):
    """HTML already."""


Child: TypeAlias = "str | Iterable[Child] | None"


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """An element. `class_` is class, `aria_label` aria-label; what is None or False is left out."""
    named = ((key.strip("_").replace("_", "-"), value) for key, value in attributes.items())
    said = "".join(
        f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
        for key, value in named
        if value is not None and value is not False
    )
    return Markup(f"<{name}{said}>" if name in VOID else f"<{name}{said}>{joined(children)}</{name}>")


def joined(children: Child) -> Markup:
    if children is None:
        return Markup()
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(html.escape(children))
    return Markup("".join(map(joined, children)))


def data(name: str, value: Any) -> Markup:
    """JSON for the page's script; no text in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


INLINE = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<strong>[^*]+)\*\*|\[(?P<link>[^\]]+)\]\((?P<to>[^)\s]+)\)")


def prose(text: str, base: str = "") -> Markup:
    """A line of Markdown: code, strong and links, the last relative to `base`."""
    parts, at = [], 0
    for found in INLINE.finditer(text):
        parts.append(joined(text[at : found.start()]))
        at = found.end()
        if found["link"]:
            whole = re.match(r"[a-z]+:|#", found["to"])
            parts.append(tag("a", prose(found["link"]), href=found["to"] if whole else base + found["to"]))
        else:
            kind = found.lastgroup or ""
            parts.append(tag(kind, found[kind]))
    return joined([*parts, text[at:]])


# --- pieces that several sections have ---


def section(name: str, title: str, *children: Child, lead: str | None = None) -> Markup:
    head = tag("h2", title, id=f"{name}-title")
    return tag("section", head, lead and tag("p", prose(lead), class_="lead"), *children,
               id=name, aria_labelledby=f"{name}-title")  # fmt: skip


def missing(what: str, command: str) -> Markup:
    """In the place of what is not there."""
    return tag("p", f"{what} To make it: ", tag("code", command), class_="missing")


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], label: str, class_: str | None = None) -> Markup:
    """The first cell of a row is its head. Wide ones scroll, by keyboard too."""
    top = tag("thead", tag("tr", [tag("th", each, scope="col") for each in head]))
    body = [
        tag("tr", tag("th", first, scope="row"), [tag("td", each) for each in rest])
        for first, *rest in (list(row) for row in rows)
    ]
    return scrolled(tag("table", top, tag("tbody", body), class_=class_), label)


def scrolled(content: Markup, label: str) -> Markup:
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex=0)
