"""A sound reward model passes every check; one that is broken in one way fails that check and no other."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import patients
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import RobertaConfig, RobertaForSequenceClassification

from pipeline import contract, doctor, finding, models
from pipeline.config import PROJECT
from pipeline.conversations import Asked
from pipeline.errors import ConfigError
from pipeline.finding import Finding

TEMPLATE = str(patients.tokenizer().chat_template)
LLAMA_3_DATE = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}{{ '<bos>Today is ' + date_string + '.' }}"
)
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
    "original_max_position_embeddings": 64,
}


def examine(folder: Path) -> dict[str, Finding]:
    return {f.check: f for f in doctor.examine(doctor.open_model(folder, doctor.easy()))}


def states(found: dict[str, Finding], state: str) -> set[str]:
    return {name for name, f in found.items() if f.state == state}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patients.sound(tmp_path_factory.mktemp("sound") / "rm")


def test_a_sound_model_passes_every_check(sound: Path) -> None:
    found = examine(sound)
    assert list(found) == [each.name for each in doctor.CHECKS]
    assert states(found, "good") == set(found)
    tried = "(tried: packing=shared, packing=packed, packing=padded, padding on the right, padding on the left)"
    assert found["batch"].found.endswith(tried)


# --- one broken model for each check ---


def bos_before_texts(words: patients.PreTrainedTokenizerBase) -> None:
    special = [("<bos>", words.bos_token_id)]
    words.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=special)


def two_labels(folder: Path) -> None:
    words = patients.tokenizer()
    patients.save(folder, patients.model(words, num_labels=2), words)


def other_head(folder: Path) -> None:
    words = patients.tokenizer()
    config = RobertaConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                           intermediate_size=32, num_labels=1, pad_token_id=words.pad_token_id)  # fmt: skip
    patients.save(folder, RobertaForSequenceClassification(config), words)


def with_template(template: str | None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        words = patients.tokenizer()
        rm = patients.model(words)
        words.chat_template = template or TEMPLATE
        patients.teach(rm, words)
        words.chat_template = template  # type: ignore[assignment]  # None is what a base model's tokenizer has
        patients.save(folder, rm, words)

    return make


def missing_bos(folder: Path) -> None:
    words = patients.tokenizer(chat_template=TEMPLATE.replace("'<bos>' if loop.first", "'' if loop.first"))
    bos_before_texts(words)
    patients.save(folder, patients.teach(patients.model(words), words), words)


def second_bos_in_sight(folder: Path) -> None:
    words = patients.tokenizer()
    bos_before_texts(words)
    patients.save(folder, patients.teach(patients.model(words), words), words)


def with_pad(in_tokenizer: str | None, in_config: int | None) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        words = patients.tokenizer(pad_token=in_tokenizer)
        patients.save(folder, patients.teach(patients.model(words, pad_token_id=in_config), words), words)

    return make


def no_head(folder: Path) -> None:
    patients.sound(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_head(weight: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        words = patients.tokenizer()
        rm = patients.teach(patients.model(words), words)
        with torch.no_grad():
            models.head(rm).weight.copy_(weight(models.head(rm).weight))
        patients.save(folder, rm, words)

    return make


def random_head(weight: torch.Tensor) -> torch.Tensor:
    return torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))


def large_rewards(folder: Path) -> None:
    words = patients.tokenizer()
    rm = patients.model(words, hidden_size=96)  # wide enough to give every pair its difference whatever the mean
    patients.save(folder, patients.teach(rm, words, mean=3000.0), words)


def long_rope(folder: Path) -> None:
    words = patients.tokenizer()
    patients.save(folder, patients.teach(patients.model(words, rope_parameters=LONG_ROPE), words), words)


def few_positions(folder: Path) -> None:
    words = patients.tokenizer()
    patients.save(folder, patients.teach(patients.model(words, max_position_embeddings=40), words), words)


def other_weights(folder: Path) -> None:
    """One weight of the body moves by a little after the contract was written."""
    patients.sound(folder)
    contract.write(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][3] += 0.01
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    ("output", two_labels, "2 labels"),
    ("output", other_head, "RobertaForSequenceClassification has no linear head"),
    ("template", with_template(None), "no chat template"),
    ("template", with_template(TEMPLATE.replace("message['content'] }}", "'' }}")), "does not write QUESTION"),
    ("date", with_template(LLAMA_3_DATE + TEMPLATE.replace("'<bos>' if loop.first", "'' if loop.first")), "today's"),
    ("BOS", with_template(TEMPLATE.replace("'<bos>'", "'<bos><bos>'")), "2 times"),
    ("BOS", missing_bos, "the template does not"),
    ("PAD", with_pad("<eos>", 3), "ends turns too"),
    ("PAD", with_pad(None, None), "the tokenizer and config.json names none"),
    ("PAD", with_pad("<pad>", None), "config.json names none"),
    ("PAD", with_pad("<pad>", 2), "the tokenizer pads with '<pad>', id 0, config.json says '<bot>', id 2"),
    ("read position", with_template(TEMPLATE.replace(" + '<eos>'", "")), "does not end the answer"),
    ("head", no_head, "score.weight is not in the folder"),
    ("head", with_head(torch.zeros_like), "all zero"),
    ("head", with_head(random_head), "prefers the right answer in"),
    ("bf16 ties", large_rewards, "would tie"),
    ("batch", long_rope, "moves a reward by"),
    ("length", few_positions, "40 tokens"),
    ("contract", other_weights, "canary"),
]


@pytest.mark.parametrize(("name", "make", "words"), BROKEN, ids=[f"{name}-{words[:12]}" for name, _, words in BROKEN])
def test_a_model_broken_in_one_way_fails_that_check_alone(
    tmp_path: Path, name: str, make: Callable[[Path], None], words: str
) -> None:
    make(tmp_path / "rm")
    found = examine(tmp_path / "rm")
    assert states(found, "FAIL") == {name}
    assert words in found[name].found
    assert found[name].why and found[name].remedy
    needs = {each.name: set(each.after) for each in doctor.CHECKS}
    for skipped in states(found, "skip"):
        assert needs[skipped] & ({name} | states(found, "skip"))


def test_there_is_a_broken_model_for_every_check() -> None:
    assert {name for name, _, _ in BROKEN} == {each.name for each in doctor.CHECKS}


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("BOS", second_bos_in_sight, "the tokenizer would add a second"),
        ("read position", with_template(TEMPLATE.replace(" + '<eos>'", " + '<eos>\n'")), "which ends no turn"),
    ],
)
def test_what_is_common_and_can_be_meant_is_a_warning(
    tmp_path: Path, name: str, make: Callable[[Path], None], words: str
) -> None:
    make(tmp_path / "rm")
    found = examine(tmp_path / "rm")
    assert states(found, "warn") == {name} and not states(found, "FAIL")
    assert words in found[name].found and found[name].remedy


def test_a_date_that_never_changes_is_none_of_the_days(tmp_path: Path) -> None:
    with_template(TEMPLATE.replace("'<bos>'", "'<bos>Today is 26 Jul 2024.'"))(tmp_path / "rm")
    assert examine(tmp_path / "rm")["date"] == Finding(
        "date", "good", "always 26 Jul 2024", "The same text gets another score tomorrow"
    )


def test_a_check_that_breaks_down_is_a_finding(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = doctor.open_model(sound, doctor.easy())
    monkeypatch.setattr(patient.model, "forward", lambda **_: torch.zeros(1)[2])
    found = {f.check: f for f in doctor.examine(patient)}
    assert states(found, "FAIL") == {"read position", "batch"}
    assert found["batch"].found.startswith("IndexError: ")


# --- what it is given ---


def test_lengths_and_ties_are_those_of_a_sample_of_ones_own(sound: Path) -> None:
    sample = [Asked("How?", ["So. " * 80, "No."]), Asked("Who?", ["I.", "You.", "She.", "I."])]
    found = {f.check: f for f in doctor.examine(doctor.open_model(sound, sample))}
    assert found["length"].found == "160 tokens; 1 of 6 conversations of the sample are longer"
    assert found["length"].state == "FAIL"
    assert "of 6 pairs" in found["bf16 ties"].found


def test_a_sample_is_spread_over_a_long_file() -> None:
    asked = [Asked(str(i), ["x"]) for i in range(1000)]
    kept = doctor.spread(asked)
    assert len(kept) <= doctor.SAMPLE and kept[0].prompt == "0" and int(str(kept[-1].prompt)) > 990
    assert doctor.spread(asked[:3]) == asked[:3]


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        doctor.open_model(tmp_path, doctor.easy())


def test_pickled_weights_are_not_read(sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rm"
    folder.mkdir()
    for path in sound.iterdir():
        if path.name != "model.safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(sound / "model.safetensors"), folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        doctor.open_model(folder, doctor.easy())


# --- what is said ---


def test_one_line_for_each_check_and_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = Finding("a", "good", "fine", "why"), Finding("b", "FAIL", "bad\nindeed", "Because", "mend it")
    assert finding.report("rm", [good, Finding("c", "warn", "odd", "So", "look")], as_json=False) == 0
    assert finding.report("rm", [good, bad], as_json=False) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["good", "a", "fine"]
    assert " ".join(said[4].split()) == "FAIL b bad indeed. Because. Remedy: mend it"
    assert said[-1] == "rm: 2 checks, 1 failed, 0 to look at"


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_as_json(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: bool) -> None:
    folder = tmp_path / "rm" if broken else sound
    if broken:
        with_head(torch.zeros_like)(folder)
    command = runpy.run_path(str(PROJECT / "scripts" / "doctor.py"))["main"]
    assert command([f"rm={folder}", "--json"]) == broken
    said = json.loads(capsys.readouterr().out)
    assert said["good"] is not broken and said["of"] == str(folder)
    assert [f["check"] for f in said["findings"]] == [each.name for each in doctor.CHECKS]


def test_the_command_says_what_it_needs() -> None:
    command = [sys.executable, str(PROJECT / "scripts" / "doctor.py"), "mr=x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: mr = 'x': unknown; did you mean 'rm'?\n"
