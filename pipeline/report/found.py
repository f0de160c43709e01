"""What the report is made of: rendered tables, claims and figures, and the manifests of all that they come from."""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline import config, rows, store
from pipeline.config import CONF, PROJECT

Json = Mapping[str, Any]
MAIN = "cross"  # the table that the first screen and the examples are from
DEVIATIONS = "## Deviations from the papers"


@dataclass(frozen=True)
class Found:
    """Results of one scale."""

    results: Path
    size: str

    @cached_property
    def tables(self) -> dict[str, Json]:
        """By name, the main one first."""
        paths = sorted((self.results / "tables" / self.size).glob("*.json"), key=lambda p: (p.stem != MAIN, p.stem))
        return {path.stem: json.loads(path.read_text()) for path in paths}

    @cached_property
    def claims(self) -> list[Json]:
        path = self.results / "claims" / f"{self.size}.json"
        return json.loads(path.read_text())["claims"] if path.exists() else []

    @cached_property
    def asked(self) -> dict[str, Json]:
        """Claims as conf/claim has them, with the paper that their file is named after."""
        return {
            name: {**claim, "paper": path.stem}
            for path in sorted((CONF / "claim").glob("*.yaml"))
            for name, claim in config.load_yaml(path).items()
        }

    def paper(self, claim: Json) -> str:
        return self.asked.get(claim["name"], {}).get("paper", "")

    def stages(self, claim: Json) -> set[str]:
        """That it looks at."""
        asked = self.asked.get(claim["name"], {})
        return {term["stage"] for part in ("quantity", "baseline") for term in asked.get(part) or ()}

    def published(self, stage: str, metric: str, own: Json, base: Json) -> float | None:
        """What a paper says of the difference of two settings, in the metric's unit, if a claim is just that."""
        terms = [[{"stage": stage, "metric": metric, "set": each}] for each in (own, base)]
        same = (
            c for c in self.asked.values() if [c.get("quantity"), c.get("baseline")] == terms and not c.get("relative")
        )
        return next((claim["published"]["value"] for claim in same if claim.get("published")), None)

    @cached_property
    def figures(self) -> list[Json]:
        """As conf/figure describes them; those not drawn have their name alone."""
        folder = self.results / "figures" / self.size
        names = {path.stem for path in (CONF / "figure").glob("*.yaml")} | {path.stem for path in folder.glob("*.json")}
        return [drawn(folder, name) for name in sorted(names)]

    @cached_property
    def manifests(self) -> dict[str, Json]:
        """Of the whole store, by key."""
        return {entry["key"]: entry for _, entry in store.scan(self.results / "runs")}

    @cached_property
    def ran(self) -> list[Json]:
        """Manifests of what the page shows, and of all that this was made of."""
        keys = [key for table in self.tables.values() for cell in table["cells"] for key in cell["keys"]]
        keys += [key for claim in self.claims for key in claim["keys"]]
        keys += [artefact[-16:] for figure in self.figures for artefact in figure.get("artefacts", ())]
        return reached(keys, self.manifests)

    @cached_property
    def deviations(self) -> list[str]:
        """The README's list: its one source."""
        text = (PROJECT / "README.md").read_text()
        _, _, after = text.partition(DEVIATIONS)
        listed, _, _ = after.partition("\n## ")
        return [" ".join(item.split()) for item in f"\n{listed.strip()}".split("\n- ")[1:]]

    def cell(self, table: str, row: str, column: str) -> Json | None:
        cells = self.tables.get(table, {}).get("cells", ())
        return next((cell for cell in cells if (cell["row"], cell["column"]) == (row, column)), None)

    def rows_of(self, entry: Json, name: str) -> list[rows.Row]:
        """Of an input of this artefact."""
        return rows.read(self.results / "runs" / entry["inputs"][name]["folder"] / "out")


def drawn(folder: Path, name: str) -> Json:
    picture = next((p for p in (folder / f"{name}.svg", folder / f"{name}.png") if p.exists()), None)
    said = folder / f"{name}.json"
    if picture is None or not said.exists():
        return {"figure": name}
    kind = {".svg": "svg+xml", ".png": "png"}[picture.suffix]
    image = f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
    return {**json.loads(said.read_text()), "image": image}


def reached(keys: Iterable[str], manifests: Mapping[str, Json]) -> list[Json]:
    """In the order of stages and names. What is not in the store is left out."""
    todo, found = list(keys), {}
    while todo:
        key = todo.pop()
        if key in manifests and key not in found:
            found[key] = manifests[key]
            todo += [need["key"] for need in manifests[key]["inputs"].values()]
    return sorted(found.values(), key=lambda entry: (entry["stage"], entry["slug"], entry["key"]))
