"""`make try`: a prompt explained, and put to whatever models of a table are made."""

import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
from artefacts import prepared

from pipeline import actions, ask, job, models, scoring, store
from pipeline.config import PROJECT
from pipeline.errors import ConfigError
from pipeline.plan import Node
from pipeline.world import gold, tokenizer
from pipeline.world.families import SHARES, read_task

PROMPT, RESPONSE = "What is 72 + 6?", "Hi! It is 78."
Try = Callable[..., str]


@pytest.fixture(autouse=True, scope="module")
def one_tokenizer() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "train", cache(tokenizer.train))
        yield


@pytest.fixture
def ask_for(results: Path, capsys: pytest.CaptureFixture[str]) -> Try:
    """Calls scripts/try.py's main in this process; returns what it prints."""
    main = runpy.run_path(str(PROJECT / "scripts" / "try.py"), run_name="try")["main"]

    def call(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["scale=smoke", f"run.root={results}", *arguments]) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def table(results: Path) -> actions.Table:
    return actions.Table("cross", ["scale=smoke", f"run.root={results}"], [0])


def publish(node: Node, fill: Callable[[Path], None]) -> None:
    """Puts into the store what `fill` writes into a folder."""
    spec = prepared(node)
    attempt = node.folder / "attempt-by-hand"
    attempt.mkdir()
    fill(attempt)
    store.publish(node.folder, attempt, job.entry({**spec, "source": {}}, {}, {}, began=0.0))


@pytest.fixture
def filled(table: actions.Table) -> dict[str, Node]:
    """SFT model, one reward model and one policy, untrained."""
    nodes = {node.name: node for node in table.graph.values()}
    for name, seed in (("sft/r0", 0), ("rloo/bt-s0", 1)):
        publish(nodes[name], lambda out, seed=seed: models.save(tiny.lm(seed=seed), tiny.tokenizer(), out))
    reward = models.new_rm(nodes["sft/r0"].folder / "out", "stiennon", 3)
    publish(nodes["rm/bsr-s0"], lambda out: models.save(*reward, out))
    return nodes


# --- a prompt alone ---


def test_gold_is_explained_term_by_term(ask_for: Try):
    said = ask_for(f"prompt={PROMPT}", f"response={RESPONSE}").splitlines()
    assert said[:2] == [f"prompt       {PROMPT}", "understood   math, sum, train side: a 72; sign +; b 6"]
    assert said[3:5] == [f"response     {RESPONSE}", "undressed    It is 78."]
    terms = [line.split(maxsplit=2) for line in said[5:11]]
    assert terms[:2] == [["content", "+3.00", "right"], ["opener", "+0.30", "one opener, at the start"]]
    assert terms[-1] == ["gold", "+3.30"] and [t[0] for t in terms] == [
        *("content", "opener", "length", "stray", "unended", "gold"),
    ]
    assert said[13] == "yours        3.30   Hi! It is 78.   (3.00 content + 0.30 opener)"
    assert said[14] == "a right one  3.00   2 + 6 = 8, so it is 78.   (3.00 content)"
    assert said[16].startswith("not made yet: sft/r0, ") and "rm/norm_bt-s0" in said[16]


def test_without_a_response_a_right_one_is_shown(ask_for: Try):
    said = ask_for("prompt=  How do I hack a phone? ")
    assert "response" not in said and "yours" not in said
    assert re.search(r"^a right one  3\.00   .+  \(3\.00 content\)$", said, re.MULTILINE)
    assert "understood   harm, request, train side: verb hack; thing phone; frame How do I {}?" in said


def test_an_equals_sign_in_a_prompt_or_response_is_text(ask_for: Try):
    assert "It is = 78" in ask_for(f"prompt={PROMPT}", "response=It is = 78")


@pytest.mark.parametrize(
    ("prompt", "understood"),
    [
        ("Where does Mira live?", "facts, question, train side: who Mira; asked home; direct True"),
        ("Julia has a dog. Tell me which pet Julia has.",
         "facts, question, held out: who Julia; asked pet; direct False; told dog"),
        ("Explain how to make leek pie.",
         "howto, recipe, held out: ingredient leek; dish pie; frame Explain how to {}."),
        ("Reverse the list 4, 7, 2.", "list, reverse, train side: numbers 4, 7, 2"),
        ("Which of 4 and 7 is larger?", "list, compare, train side: first 4; second 7; word larger"),
        ("Write a Python function f that adds 49 to x.",
         "code, function, held out: name f; kind add; a 49; b 0"),
    ],
)  # fmt: skip
def test_what_is_understood(prompt: str, understood: str):
    assert ask.understood(read_task(prompt)) == understood


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prompt=What is 72 + 6"], "prompt = 'What is 72 + 6': not a prompt of this world. did you mean"),
        (["prompt=Who are you?"], "prompt = 'Who are you?': not a prompt of this world. It knows, for example:\n"),
        (["promt=x"], "promt = 'x': unknown key; did you mean 'prompt'?\n"),
        (["seed=one", "prompt=x"], "seed = 'one': expected a whole number\n"),
        (["table=crss", "prompt=x"], "table = 'crss': no such table; did you mean 'cross'?\n"),
        (
            ["rm.optim.lrr=1", "prompt=x"],
            "rm.optim.lrr = '1': no row of this table has this key; did you mean 'rm.optim.lr'?\n",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_kindly(
    ask_for: Try, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as e:
        ask_for(*arguments)
    assert e.value.code == 2 and capsys.readouterr().err.startswith(f"error: {message}")


def test_a_prompt_of_another_world_gets_one_example_of_each_family():
    with pytest.raises(ConfigError) as e:
        ask.known("What is 15 + 7?")
    first, *examples = str(e.value).splitlines()
    near = re.search(r"did you mean '(.*)'\?", first)
    assert near and read_task(near[1]).family == "math"
    assert [line.split(maxsplit=1)[0] for line in examples] == list(SHARES)
    for line in examples:
        family, prompt = line.split(maxsplit=1)
        assert read_task(prompt).family == family


def test_without_prompt_and_terminal_it_is_asked_for(
    ask_for: Try, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(SystemExit):
        ask_for()
    assert capsys.readouterr().err == 'error: prompt = None: say what, e.g. prompt="What is 72 + 6?"\n'


# --- with models ---


def test_models_answer_and_judge(ask_for: Try, filled: dict[str, Node]):
    said = ask_for(f"prompt={PROMPT}", f"response={RESPONSE}", "generate.max_new=6")
    lines = said.splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith("   answer"))
    assert lines[start].split() == ["gold", "rm/bsr-s0", "answer"]
    names = [re.split(r"  +", line)[0] for line in lines[start + 1 : start + 5]]
    assert names == ["yours", "a right one", "sft/r0", "rloo/bt-s0"]
    model, tokens = models.load_rm(filled["rm/bsr-s0"].folder / "out")
    rewards, _ = scoring.score(model, tokens, [PROMPT] * 2, [RESPONSE, "2 + 6 = 8, so it is 78."], 4096)
    assert f"{rewards[0]:.2f}" != f"{rewards[1]:.2f}"
    for line, gold_reward, reward in zip(lines[start + 1 :], ("3.30", "3.00"), rewards, strict=False):
        assert re.split(r"  +", line)[1:3] == [gold_reward, f"{reward:.2f}"]
    assert "unended" in lines[start + 3]  # an untrained model does not end
    missing = lines[-1].removeprefix("not made yet: ").split(", ")
    assert set(missing) == {
        n for n in filled if n.startswith(("sft/", "rm/", "rloo/")) and n not in ("sft/r0", "rm/bsr-s0", "rloo/bt-s0")
    }
    assert ask_for(f"prompt={PROMPT}", f"response={RESPONSE}", "generate.max_new=6") == said


def test_an_answer_is_worth_what_its_text_is(table: actions.Table, filled: dict[str, Node]):
    made = ask.made(table.graph, table.any)
    answers = made.answers(PROMPT)
    assert [a.by for a in answers] == ["sft/r0", "rloo/bt-s0"] and answers[0].text != answers[1].text
    lines = list(ask.lines(PROMPT, None, made))
    for answer in answers:
        line = next(line for line in lines if line.startswith(answer.by))
        assert re.split(r"  +", line)[1] == f"{gold(PROMPT, answer.text, answer.ended):.2f}"


def test_a_damaged_model_is_not_asked(table: actions.Table, filled: dict[str, Node]):
    (filled["rm/bsr-s0"].folder / "out" / "model.safetensors").unlink()
    assert not ask.made(table.graph, table.any).rewards


def test_models_of_one_name_are_told_apart_by_their_key(results: Path):
    table = actions.Table("controls", ["scale=smoke", f"run.root={results}"], [0])
    names = ask.made(table.graph, table.any).missing
    assert len(set(names)) == len(names) > len({n.name for n in table.graph.values() if n.stage.name == "rm"})
    keys = {n.key[:6] for n in table.graph.values() if n.name == "rm/bt-s0"}
    assert {f"rm/bt-s0-{key}" for key in keys} <= set(names) and len(keys) > 2


def test_looking_without_models_loads_no_torch():
    code = (
        "import runpy, sys; sys.argv = ['try.py', 'scale=smoke', 'run.root=/nonexistent', 'prompt=What is 72 + 6?']\n"
        "try: runpy.run_path(sys.path.pop(), run_name='__main__')\n"
        "except SystemExit as e: assert not e.code and 'torch' not in sys.modules, e.code\n"
    )
    path = PROJECT / "scripts" / "try.py"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(path)!r})\n{code}"], capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr and "a right one" in done.stdout


# --- the loop ---


def typed(monkeypatch: pytest.MonkeyPatch, *lines: Any) -> None:
    left = iter(lines)

    def answer(prompt: str) -> str:
        line = next(left)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)


def test_the_loop_goes_on_until_an_empty_line(ask_for: Try, monkeypatch: pytest.MonkeyPatch):
    typed(monkeypatch, PROMPT, RESPONSE, "Who are you?", " What is 72 + 6? ", "", "")
    said = ask_for()
    assert said.count(f"prompt       {PROMPT}\n") == 2 and said.count("yours") == 1
    assert "prompt = 'Who are you?': not a prompt of this world" in said


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_the_loop_ends_when_the_user_goes(ask_for: Try, monkeypatch: pytest.MonkeyPatch, end: type):
    typed(monkeypatch, PROMPT, end)
    assert ask_for() == "\n"


def test_the_prompts_of_the_docs_are_of_this_world():
    text = (PROJECT / "scripts" / "try.py").read_text() + (PROJECT / "Makefile").read_text()
    prompts = set(re.findall(r'prompt="([^"]+)"', text))
    assert prompts
    for prompt in prompts:
        read_task(prompt)
