"""Where the three losses' gradients can be moved by hand; computed by gradients.js with the constants of conf/loss."""

from typing import Any

from pipeline import config
from pipeline.config import CONF
from pipeline.report.markup import Child, Markup, data, scrolled, section, tag

LEAD = (
    "One pair of a step. Gradients are those of n times the loss, so that BT’s pair weighs 1. BT’s score head moves by"
    " the pair’s error times its distance; NormBT takes the distance out; BSR leaves Δ alone and pushes both rewards"
    " against the mean reward of the step."
)
CAPTION = (
    "Gradient of the score head along h_w − h_l by distance, at this Δ. BSR’s is BT’s where both norms are the same."
)
SLIDERS = (  # name, what it is, least, most, step, at first
    ("delta", "Δ = r_w − r_l", -6, 6, 0.1, 0.5),
    ("distance", "d = ‖h_w − h_l‖", 0.1, 40, 0.1, 5),
    ("mu", "μ, mean distance", 0.1, 40, 0.1, 15),
    ("mean", "mean reward of the step, r̄", -5, 5, 0.1, 1),
)
FORMULAS = {
    "BT": "σ(−Δ) (h_w − h_l)",
    "NormBT": "w σ(−Δ) (h_w − h_l), w = (μ / (d + ε))ᵖ",
    "BSR": "σ(−Δ) (h_w − h_l) − λ r̄ (h_w + h_l)",
}
SIGNS = {"lambda": "λ", "eps": "ε", "power": "p"}
HEAD = ("loss", "score head moves by", "along h_w − h_l", "pushes r_w by", "pushes r_l by")


def panel() -> Markup:
    with_constants = constants()
    said = ", ".join(f"{sign} = {with_constants[name]:g}" for name, sign in SIGNS.items())
    caption = tag("figcaption", CAPTION)
    chart = tag("figure", tag("div", id="gradient-chart"), caption)
    form = tag("form", map(slider, SLIDERS), id="gradient-form")
    return section(
        "gradients",
        "Gradients by hand",
        tag("noscript", tag("p", "The panel needs JavaScript.", class_="missing")),
        tag("div", form, chart, scrolled(numbers(), "Gradients of the three losses"), hidden=True, class_="panel"),
        tag("p", f"{said}: those of conf/loss.", class_="note"),
        data("gradient-data", with_constants),
        lead=LEAD,
    )


def numbers() -> Markup:
    """Filled in by the script."""
    empty = [tag("td", class_="number") for _ in HEAD[2:]]
    rows = [
        tag(
            "tr", tag("th", loss, scope="row"), tag("td", tag("span", formula, class_="formula")), empty, data_loss=loss
        )
        for loss, formula in FORMULAS.items()
    ]
    head = tag("thead", tag("tr", [tag("th", each, scope="col") for each in HEAD]))
    return tag("table", head, tag("tbody", rows), id="gradient-table", class_="numbers")


def slider(one: tuple[str, str, float, float, float, float]) -> Child:
    name, said, least, most, step, first = one
    track = tag("input", id=f"gradient-{name}", name=name, type="range", min=least, max=most, step=step, value=first)
    return tag("label", tag("span", said, " = ", tag("output", f"{first}", for_=f"gradient-{name}")), track)


def constants() -> dict[str, Any]:
    norm_bt, bsr = (config.load_yaml(CONF / "loss" / f"{name}.yaml") for name in ("norm_bt", "bsr"))
    return {"eps": norm_bt["eps"], "power": norm_bt["power"], "lambda": bsr["coef"]}
