"""What ran: scale, seeds, machine, commit, and the time that each stage took."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pipeline.report.found import MAIN, Found, Json
from pipeline.report.markup import Markup, missing, table, tag

BUILT_ON = ("torch", "transformers")


def facts(found: Found) -> Markup:
    """One line, as a list of names and values."""
    pairs = [("scale", found.size), *said(found)]
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], class_="facts")


def said(found: Found) -> Iterator[tuple[str, str]]:
    seeds = max((cell["seeds"] for cell in found.tables.get(MAIN, {}).get("cells", ())), key=len, default=[])
    if seeds:
        yield "seeds", ", ".join(map(str, seeds))
    ran = found.ran
    if not ran:
        return
    yield "artefacts", f"{len(ran):,}"
    yield "CPU time", spent(sum(entry["cpu_seconds"] for entry in ran))
    yield "machine", ", ".join(sorted({f"{entry['machine']}, {entry['device']}" for entry in ran}))
    versions = {f"{name} {entry['packages'][name]}" for entry in ran for name in BUILT_ON if name in entry["packages"]}
    yield (
        "software",
        ", ".join([*sorted({f"Python {entry['python']}" for entry in ran}), *sorted(versions, reverse=True)]),
    )
    yield "commit", commits(ran)


def commits(ran: Sequence[Json]) -> str:
    """The most frequent first; an artefact outlives the commits that do not touch it."""
    counts = Counter((entry["commit"] or "unknown")[:10] for entry in ran)
    first, *others = sorted(counts, key=lambda commit: (-counts[commit], commit))
    return first + (f" and {len(others)} more" if others else "")


def spent(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def budget(found: Found) -> Markup:
    """Time by stage."""
    ran = found.ran
    if not ran:
        return missing("The artefacts are not in the store.", "make reproduce")
    whole = sum(entry["cpu_seconds"] for entry in ran)
    by_stage: dict[str, list[Json]] = {}
    for entry in ran:
        by_stage.setdefault(entry["stage"], []).append(entry)
    lines = sorted(by_stage.items(), key=lambda item: -cpu(item[1]))
    return table(
        ("stage", "artefacts", "CPU seconds", "share", "seconds", "most memory, MB"),
        [*(line(stage, made, whole) for stage, made in lines), line("all", ran, whole)],
        "Time by stage",
        class_="numbers",
    )


def line(stage: str, made: Sequence[Json], whole: float) -> tuple[str, ...]:
    took = sum(entry["ended"] - entry["began"] for entry in made)
    memory = max(entry["peak_memory_bytes"] or 0 for entry in made) / 1e6
    return (
        stage,
        f"{len(made):,}",
        f"{cpu(made):,.1f}",
        f"{cpu(made) / (whole or 1):.0%}",
        f"{took:,.1f}",
        f"{memory:,.0f}",
    )


def cpu(made: Sequence[Json]) -> float:
    return sum(entry["cpu_seconds"] for entry in made)
