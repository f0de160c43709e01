"""The page in a real browser, Debian's Chromium, and its script's gradients in node: skipped where neither is there.

axe-core is fetched by .ci/run into .ci/node; without it the checks of accessibility are skipped.
"""

import html
import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import torch

from pipeline import losses
from pipeline.config import PROJECT
from pipeline.report import page, panel
from pipeline.report.found import Found

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")
AXE = PROJECT / ".ci" / "node" / "node_modules" / "axe-core" / "axe.min.js"
LISTEN = """
window.said = [];
for (const kind of ["error", "warn"]) console[kind] = (...all) => said.push(all.join(" "));
addEventListener("error", (e) => said.push(e.message));
addEventListener("securitypolicyviolation", (e) => said.push(`${e.violatedDirective} ${e.blockedURI}`));
"""
# What a reader does: go to a number by keyboard, see where it is from, open it; filter; move a slider.
TRY = """
const button = document.querySelector("[data-cell]"), out = {};
out.stops = document.querySelectorAll("[data-cell][tabindex='0']").length;
button.focus();
out.tip = document.getElementById("tip").hidden ? null : document.getElementById("tip").textContent;
button.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
out.below = document.activeElement.dataset.cell;
document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
out.hidden = document.getElementById("tip").hidden;
document.activeElement.click();
out.dialog = document.getElementById("source").open && document.getElementById("source").textContent;
document.getElementById("source").close();
const set = (id, value) => {
  const control = document.getElementById(id);
  control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
};
const count = () => document.getElementById("example-count").textContent;
out.all = count();
set("example-kind", "BT>NormBT");
out.gained = count();
set("example-least", "4");
out.far = count();
set("gradient-delta", "0");
set("gradient-distance", "10");
set("gradient-mu", "20");
out.along = [...document.querySelectorAll("#gradient-table tbody tr")].map((row) => row.cells[2].textContent);
out.scripts = document.querySelectorAll("script:not([type])").length;
out.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
out.said = said;
"""
REPORT = "document.title = JSON.stringify(out);"
AXE_REPORT = """axe.run().then((found) => {
  out.axe = found.violations.map((each) => `${each.impact}: ${each.help}: ${each.nodes[0].html}`);
  document.title = JSON.stringify(out);
});"""


WINDOWS = {
    "wide": ("--window-size=1280,900",),
    "narrow, dark": ("--window-size=768,900", "--blink-settings=preferredColorScheme=0"),
}


@pytest.fixture(scope="module", params=WINDOWS)
def out(request: pytest.FixtureRequest, found: Found, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page says of itself after it was used."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: the page was not tried in a browser")
    axe = f"<script>{AXE.read_text()}</script>" if AXE.exists() else ""
    last = f"{axe}<script>{TRY}{AXE_REPORT if AXE.exists() else REPORT}</script></body>"
    folder = tmp_path_factory.mktemp("browser")
    path = folder / "page.html"
    text = page.page(found).replace("<head>", f"<head><script>{LISTEN}</script>", 1)
    path.write_text(text.replace("</body>", last))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options = [*WINDOWS[request.param], "--virtual-time-budget=20000", "--dump-dom", path.as_uri()]
    shown = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120).stdout
    title = re.search(r"<title>(.*?)</title>", shown, re.DOTALL)
    assert title and title[1].startswith("{"), shown[-2000:]
    return json.loads(html.unescape(title[1]))


def test_no_error_no_overflow_and_nothing_asked_for(out: dict[str, Any]):
    assert out["said"] == [] and out["wide"] <= 0


def test_a_number_says_where_it_is_from_by_keyboard(out: dict[str, Any]):
    assert out["stops"] == 1 and out["below"] != "cross.0" and out["hidden"]
    assert "BT, ID accuracy" in out["tip"] and "seed 2: " in out["tip"]
    assert "NormBT, ID accuracy" in out["dialog"] and "scripts/run.py stage=bench" in out["dialog"]


def test_examples_are_filtered(out: dict[str, Any]):
    """Right is 0.1 i + shift > 0.5. BT's shift is 0.1, NormBT's 0.25: of each set BT alone misses i = 3, 4."""
    assert out["all"] == "16 pairs; 1 to 10 are shown"
    assert out["gained"] == "4 pairs; 1 to 4 are shown" and out["far"] == "2 pairs; 1 to 2 are shown"


def test_sliders_move_the_gradients(out: dict[str, Any]):
    assert out["along"] == ["5.000", "10.000", "5.000"]


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core here (.ci/run fetches it): accessibility was not checked")
def test_axe_finds_nothing_serious(out: dict[str, Any]):
    assert not [each for each in out["axe"] if each.startswith(("serious", "critical"))]


# --- the panel's numbers ---

POINTS = [(0.5, 5.0, 15.0, 1.0), (-3.0, 0.1, 20.0, -2.5), (6.0, 40.0, 3.0, 0.0), (0.0, 10.0, 10.0, 5.0)]


def by_torch(delta: float, distance: float, mu: float, mean: float) -> dict[str, list[float]]:
    """The same from pipeline/losses.py: a step of four pairs, of which the first is the one asked about; gradients of
    n times the loss, turned round, of its rewards and, along h_w − h_l, of the score head."""
    n, constants = 4, panel.constants()
    unit = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found = {}
    for name, loss in (("BT", "bt"), ("NormBT", "norm_bt"), ("BSR", "bsr")):
        others = torch.full((n - 1,), n * mean / (n - 1), dtype=torch.float64)  # the first pair's rewards sum to 0
        r_w = torch.cat([torch.tensor([delta / 2], dtype=torch.float64), others]).requires_grad_()
        r_l = torch.cat([torch.tensor([-delta / 2], dtype=torch.float64), others]).requires_grad_()
        h_w = torch.stack([unit * distance / 2 + torch.tensor([0.0, 3.0])] * n)
        h_l = torch.stack([-unit * distance / 2 + torch.tensor([0.0, 3.0])] * n)
        given = {"coef": constants["lambda"], "group": None, "times_group": False} if loss == "bsr" else {}
        if loss == "norm_bt":
            given = {"distance": "l2", "mu": "ema", "decay": 0.9, "cap": None, "mean_one": False}
            given |= {"eps": constants["eps"], "power": constants["power"]}
        of = losses.make(loss, **given, **({} if loss == "bt" else {"of": "bt"}))
        if of.weight is not None:
            of.weight.mu.fill_(mu)
        (n * of(losses.PairScores(r_w, r_l, h_w, h_l))).backward()
        assert r_w.grad is not None and r_l.grad is not None
        along = -(r_w.grad[0] * h_w[0] + r_l.grad[0] * h_l[0]) @ unit
        found[name] = [float(along), -float(r_w.grad[0]), -float(r_l.grad[0])]
    return found


@pytest.mark.skipif(NODE is None, reason="no node here: the panel's numbers were not compared")
def test_the_panels_gradients_are_those_of_the_losses():
    names = ("delta", "distance", "mu", "mean")
    asked = [{**panel.constants(), **dict(zip(names, point, strict=True))} for point in POINTS]
    script = f"{page.asset('gradients.js')}\nconsole.log(JSON.stringify({json.dumps(asked)}.map(gradients)))"
    done = subprocess.run([str(NODE), "-e", script], capture_output=True, text=True, check=True)
    for point, found in zip(POINTS, json.loads(done.stdout), strict=True):
        for loss, expected in by_torch(*point).items():
            assert [found[loss][name] for name in ("along", "chosen", "rejected")] == pytest.approx(
                expected, rel=1e-5, abs=1e-7
            )
