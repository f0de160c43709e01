"""What a claim is: conf/claim/*.yaml, {name: claim} in each file, checked before anything runs."""

from dataclasses import dataclass
from typing import Literal

from pipeline import config
from pipeline.config import CONF, build, closest
from pipeline.errors import ConfigError, check
from pipeline.experiment import Constant
from pipeline.table import names
from pipeline.table.spec import Mark, Published

FOLDER = CONF / "claim"
MOST_PRIMARY = 6  # of one Holm family


@dataclass(frozen=True)
class Term:
    """A metric of a stage's manifest, at the settings of a row."""

    stage: str
    metric: str
    set: dict[str, Constant] | None = None  # group: option, or dotted key: value
    weight: float = 1.0


@dataclass(frozen=True)
class Claim:
    """The effect, at each seed: the sum of the terms of `quantity` less that of `baseline`, or less `constant`."""

    statement: str
    source: str  # where it stands
    mark: Mark
    role: Literal["primary", "secondary", "control"]  # primary: named before anything ran; control: never evidence
    quantity: tuple[Term, ...] | None = None
    baseline: tuple[Term, ...] | None = None
    constant: float = 0.0
    relative: bool = False  # the effect as a share of the baseline
    direction: Literal["higher", "lower", "same"] = "higher"
    minimum: float = 0.0  # smallest effect that counts, 0: the direction alone; same: largest that does not
    published: Published | None = None  # the effect, in its unit and with its sign
    test: Literal["t", "bootstrap_t"] = "t"
    seeds: tuple[int, ...] = tuple(range(8))
    scales: tuple[str, ...] | None = None  # where it has a meaning; None: at all
    table: str | None = None  # whose settings for all rows hold here too
    control: Literal["must be found", "must not be found"] | None = None
    untested: str | None = None  # why no manifest can tell

    def __post_init__(self) -> None:
        check(bool(self.quantity) != bool(self.untested), "quantity", None, "say either quantity or untested: why")
        check((self.role == "control") == (self.control is not None), "control", self.control, "goes with role=control")
        check(len(self.seeds) > 0, "seeds", self.seeds, "name at least one seed")
        check(len(set(self.seeds)) == len(self.seeds), "seeds", self.seeds, "name each seed once")
        check(self.minimum >= 0, "minimum", self.minimum, "is a size: must not be negative")
        check(self.minimum > 0 or self.direction != "same", "minimum", self.minimum, "direction=same needs a size")
        both = self.baseline is None or self.constant == 0
        check(both, "constant", self.constant, "has no meaning beside baseline; remove it")
        check(not self.relative or bool(self.baseline), "relative", True, "needs a baseline")
        if self.published is not None:
            fits = self.direction != "same" and self.published.value * self.sign > 0
            check(fits, "published.value", self.published.value, f"does not fit direction={self.direction}")

    @property
    def sign(self) -> int:
        return -1 if self.direction == "lower" else 1

    @property
    def terms(self) -> tuple[Term, ...]:
        return (*(self.quantity or ()), *(self.baseline or ()))


def load() -> dict[str, Claim]:
    """All claims, in the order of their files."""
    claims: dict[str, Claim] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        for name, values in config.load_yaml(path).items():
            check(name not in claims, f"claim.{name}", path.name, "another file has a claim of this name")
            claims[name] = build(Claim, values, f"claim.{name}")
    primary = [name for name, claim in claims.items() if claim.role == "primary"]
    check(len(primary) <= MOST_PRIMARY, "claim", ", ".join(primary), f"at most {MOST_PRIMARY} can be primary")
    for name, claim in claims.items():
        if claim.table is not None and claim.table not in names():
            raise ConfigError(f"claim.{name}.table", claim.table, f"no such table; {closest(claim.table, names())}")
    return claims
