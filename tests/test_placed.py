"""Wherever the frozen models of RLOO lie, the policy learns the same; what they take up between their phases. Several
processes: test_dist.py."""

from pathlib import Path

import pytest
import tiny
import torch
import toy_policy as toy
from safetensors.torch import load_file
from test_rloo import other  # noqa: F401  # a reward model
from test_training import Made, as_in_a_job, made, make, one_tokenizer, records  # noqa: F401  # shared fixtures

from pipeline import packing, placed, policy
from pipeline.errors import ConfigError
from pipeline.placed import Placed

STEPS = ("rloo.steps=2", "run.micro_tokens=60")  # 60: some passes to a phase
OFFLOADED = ("run.reference=offload", "run.reward=offload")


def size(folder: Path) -> int:
    """Bytes of a model's weights."""
    return sum(weight.nbytes for file in folder.glob("*.safetensors") for weight in load_file(file).values())


def near(value: float) -> object:
    return pytest.approx(value, rel=0.02)  # moments count their steps


# --- one model ---


def test_an_offloaded_model_takes_room_in_its_phases_alone() -> None:
    layout = packing.layout(toy.rollouts(), "shared")
    whole = Placed(toy.lm(), policy.logprobs)
    away = Placed(toy.lm(), policy.logprobs, "offload")
    full = sum(4 * p.numel() for p in toy.lm().parameters())
    assert (whole.taken(), whole.here_now()) == (full, full)
    assert (away.taken(), away.here_now()) == (0, 0)
    for _ in range(2):
        with torch.no_grad(), away.here() as logprobs:
            assert away.here_now() == full
            found = logprobs(layout)
        assert all(map(torch.equal, found, whole(layout)))
        assert away.here_now() == 0
        assert (away.taken(), away.taken()) == (full, 0)


def test_a_tied_head_is_moved_with_its_embedding() -> None:
    model, layout = toy.lm(), packing.layout(toy.rollouts(), "shared")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight  # type: ignore[union-attr]
    expected = policy.logprobs(model, layout)[0].detach()
    away = Placed(model, policy.logprobs, "offload")
    assert torch.equal(away(layout)[0], expected) and away.here_now() == 0
    assert away.taken() == sum(4 * p.numel() for p in model.parameters())


def test_a_storage_that_two_share_counts_once() -> None:
    x = torch.zeros(10)
    assert placed.held([x, x[2:], None, torch.zeros(3, dtype=torch.float64)]) == 40 + 24


@pytest.mark.parametrize("name", ["reference", "reward"])
def test_one_process_shares_with_nobody(made: Made, tmp_path: Path, name: str) -> None:  # noqa: F811
    with pytest.raises(ConfigError, match=f"^run.{name} = 'shard': one process has nobody .* say offload"):
        make("rloo", tmp_path, made.inputs("rloo"), f"run.{name}=shard")


# --- a stage ---


@pytest.fixture(scope="module")
def whole(made: Made, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Of one process that has all of both on its device."""
    folder = tmp_path_factory.mktemp("whole")
    make("rloo", folder, {**made.inputs("rloo"), "rm": other}, *STEPS)
    return folder


def test_offloaded_models_teach_the_same_bits_in_less_memory(
    made: Made, other: Path, whole: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    make("rloo", tmp_path, {**made.inputs("rloo"), "rm": other}, *STEPS, *OFFLOADED)
    assert tiny.hashes(tmp_path / "out") == tiny.hashes(whole / "out")
    log, of_whole = records(tmp_path)[-1], records(whole)[-1]
    own, rm = size(made.sft), size(other)
    bytes_of = {phase: log[f"bytes_{phase}"] for phase in ("generate", "reward", "reference", "update")}
    policy_alone = 3 * own  # with its moments
    assert bytes_of == {
        "generate": near(policy_alone),
        "reward": near(policy_alone + rm),
        "reference": near(policy_alone + own),
        "update": near(policy_alone + own),  # its gradients
    }
    for phase, found in bytes_of.items():
        here = {"reward": rm, "reference": own}.get(phase, 0)
        assert of_whole[f"bytes_{phase}"] - found == near(own + rm - here)
