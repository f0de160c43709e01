"""The figures with their captions, each embedded."""

from pipeline.report.found import Found, Json
from pipeline.report.markup import Markup, missing, prose, section, tag


def figures(found: Found) -> Markup:
    drawn = [figure for figure in found.figures if "image" in figure]
    lacking = [figure["figure"] for figure in found.figures if "image" not in figure]
    absent = (
        missing(f"Not drawn: {', '.join(lacking) or 'any figure'}.", "make figures") if lacking or not drawn else None
    )
    return section("figures", "Figures", tag("div", map(one, drawn), class_="figures"), absent)


def one(figure: Json) -> Markup:
    picture = tag(
        "img", src=figure["image"], alt=f"{figure['title']}. {figure['caption'].replace('`', '')}", loading="lazy"
    )
    keys = tag("p", [[tag("code", artefact), " "] for artefact in figure["artefacts"]])
    drawn_from = tag("details", tag("summary", f"drawn from {len(figure['artefacts'])} artefacts"), keys)
    caption = tag("figcaption", tag("b", f"{figure['title']}. "), prose(figure["caption"]), drawn_from)
    return tag("figure", picture, caption, id=f"figure-{figure['figure']}")
