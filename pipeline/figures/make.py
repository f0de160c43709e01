"""From names of figures to files: the artefacts they need, then a picture of each one whose artefacts are all there.
No figure suffers from what another one lacks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline import actions, plan, show, store, why
from pipeline.config import check_first_names, closest
from pipeline.errors import ConfigError, check
from pipeline.figures import draw, spec, style
from pipeline.figures.draw import Found
from pipeline.figures.spec import Figure
from pipeline.plan import Node
from pipeline.stages import STAGES

ACTIONS = ("plan", "run", "render")
SHOWN_MISSING = 4


def figures(arguments: Sequence[str]) -> int:
    """One action on one figure or on all, from a command line; 0 only if every picture was written."""
    own = {"figure": None, "action": "run", "seeds": None}
    check_first_names(arguments, tuple(own))
    given = dict(argument.split("=", 1) for argument in arguments if argument.split("=", 1)[0] in own)
    overrides = tuple(a for a in arguments if a.split("=", 1)[0] not in own)
    action = given.get("action", "run")
    check(action in ACTIONS, "action", action, closest(action, ACTIONS))
    seeds = actions.seed_list(actions.plain_value("seeds", given["seeds"])) if "seeds" in given else None
    names = [given["figure"]] if "figure" in given else spec.names()
    wanted = [spec.figure(name, STAGES, overrides, seeds) for name in names]
    needed = [of for of in wanted if "figure" in given or not of.spec.by_name]
    any_of = wanted[0].any
    builder = plan.Builder(STAGES, actions.store_root(any_of))
    targets = list({node.key: node for of in needed for node in of.nodes(builder).values()}.values())
    if action == "plan":
        plan.judge(builder.graph, targets)
        why.explain_all(builder.graph, builder.root)
        actions.say(show.plan_lines(builder.graph))
        return 0
    if action == "run":
        actions.execute(builder.graph, targets, any_of)
    drawn = {of.name: rendered(of, builder, actions.results(any_of) / "figures") for of in wanted}
    return 0 if all(drawn[of.name] for of in needed) else 1


def rendered(of: Figure, builder: plan.Builder, folder: Path) -> bool:
    """Says what became of it."""
    made = render(of, builder, folder)
    print(f"{of.name}: {made if isinstance(made, str) else actions.shorter(made[0].with_suffix('.*'))}", flush=True)
    return not isinstance(made, str)


def missing(nodes: Mapping[tuple[str, str, int], Node]) -> list[str]:
    """Names of the artefacts that are not there."""
    return list(dict.fromkeys(node.name for node in nodes.values() if not store.is_done(node.folder)))


def render(of: Figure, builder: plan.Builder, folder: Path) -> list[Path] | str:
    """The files written to `folder`/<size>/, or why there are none."""
    nodes = of.nodes(builder)
    lacking = missing(nodes)
    if lacking:
        more = f" and {len(lacking) - SHOWN_MISSING} more" if len(lacking) > SHOWN_MISSING else ""
        return f"not made yet: {', '.join(lacking[:SHOWN_MISSING])}{more}"
    try:
        with style.page(draw.height(of.spec)) as page:
            numbers = draw.draw(of.spec, Found(of.rows, of.seeds, nodes), page)
            paths = style.save(page, folder / of.size, of.name)
    except ConfigError as e:
        return str(e)
    source = folder / of.size / f"{of.name}.json"
    store.write_atomically(source, json.dumps(described(of, nodes, numbers), indent=1, ensure_ascii=False) + "\n")
    return [*paths, source]


def described(of: Figure, nodes: Mapping[tuple[str, str, int], Node], numbers: str | None) -> dict:
    """What stands under the picture, and the artefacts it was drawn from."""
    artefacts = [f"{n.stage.name}/{n.folder.name}" for n in nodes.values()]
    caption = " ".join([spec.caption(of), *([f"{numbers}."] if numbers else [])])
    return {"figure": of.name, "title": of.spec.title, "caption": caption, "artefacts": artefacts}
