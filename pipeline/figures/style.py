"""How every figure looks: one column of a paper wide, told apart without colour too, the same bytes from the same
numbers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.figures.series import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Marks = Literal["bars", "marks", "lines", "marked lines"]

WIDTH = 3.3  # inches: a column of both papers
LINE = 58  # letters that fit in it
LABEL = 0.11  # inches: the height of one
GREY = "#555555"
SPOT: Any = {
    "marker": "o",
    "markersize": 2.6,
    "markerfacecolor": GREY,
    "markeredgecolor": "white",
    "markeredgewidth": 0.4,
}
# Okabe and Ito's, told apart by the colour-blind; yellow is too pale for lines
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "////", "----", "xxxx", "\\\\\\\\", "++++", "||||")
KNOWN = ("BT", "NormBT", "BSR", "gold reward (ceiling)")  # look the same in every figure
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.titlelocation": "left",
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "lines.markeredgewidth": 0.4,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "savefig.facecolor": "white",  # readable on a dark page too
    "svg.fonttype": "path",  # the same letters everywhere
    "svg.hashsalt": "figures",
    "pdf.fonttype": 42,
}
UNDATED: dict[str, Any] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@contextmanager
def page(height: float) -> Iterator["Figure"]:
    """An empty figure of one column's width."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(WIDTH, height), layout="constrained", dpi=300)


def save(figure: "Figure", folder: Path, name: str) -> list[Path]:
    """As vectors and as dots, undated."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in UNDATED]
    for path in paths:
        figure.savefig(path, metadata=UNDATED[path.suffix[1:]])
    return paths


def looks(rows: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, line, marker and hatching of each row."""
    others = iter(range(len(KNOWN), len(PALETTE)))
    made = {}
    for row in rows:
        i = KNOWN.index(row) if row in KNOWN else next(others, len(PALETTE) - 1)
        made[row] = {"color": PALETTE[i], "line": LINES[i], "marker": MARKERS[i], "hatch": HATCHES[i]}
    return made


def plain_ticks(ax: "Axes") -> None:
    """0.1, 1, 10 instead of powers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for axis in (ax.xaxis, ax.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def name_lines(ax: "Axes", ends: Mapping[str, tuple[float, float]], colours: Mapping[str, str]) -> None:
    """Writes each line's name beside its end, in its colour; needs the axes' final limits."""
    to_share = ax.transData + ax.transAxes.inverted()
    wanted = {name: float(to_share.transform(end)[1]) for name, end in ends.items()}
    places = spread(wanted, LABEL / (ax.bbox.height / ax.figure.dpi), 0.02, 0.98)
    for name, place in places.items():
        ax.annotate(
            name, (1.02, place), xycoords="axes fraction", color=colours[name], va="center", annotation_clip=False
        )


def name_rows(figure: "Figure", rows: Mapping[str, Mapping[str, Any]], kind: Marks) -> None:
    """The rows' names above the panels, each with its mark."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks: list[Any] = []
    for row, look in rows.items():
        if kind == "bars":
            marks.append(Patch(facecolor=look["color"], hatch=look["hatch"], edgecolor="white", label=row))
        else:
            line = "" if kind == "marks" else look["line"]
            marker = "" if kind == "lines" else look["marker"]
            marks.append(Line2D([], [], color=look["color"], linestyle=line, marker=marker, label=row))
    fits = sum(map(len, rows)) + 7 * len(rows) < LINE
    columns = len(rows) if fits else -(-len(rows) // 2)
    figure.legend(handles=marks, loc="outside upper left", ncols=columns, handlelength=2.2, columnspacing=1.2)
