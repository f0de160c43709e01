"""A reward model's folder of ours scores the same wherever it is read: here, in plain transformers, in TRL's RLOO."""

from pathlib import Path

import families
import numpy as np
import peer
import pytest
import tiny
import torch
from families import FAMILIES
from test_training import as_in_a_job, make  # noqa: F401  # a shared fixture
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback

from pipeline import base, contract, models, rows, scoring

NAMES = ("llama-3.2-3b-instruct", "qwen2.5-0.5b", "gemma-2b-it", "gemma-2-2b-it", "mistral-7b-instruct-v0.2")
TOLERANCE = 1e-5  # of the largest reward
POSITIONS = 512


@pytest.fixture(scope="module", params=NAMES)
def folders(as_in_a_job: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The stages' folders: sft, as the hub gives it, and rm, trained for two steps."""
    root = tmp_path_factory.mktemp("folders")
    hub = families.write(root / "hub", FAMILIES[request.param], positions=POSITIONS)
    models.save(*base.make(families.settings(request.param, hub), 0), root / "sft")
    data = tiny.data(root / "pairs", "preferences", 8)
    settings = ("rm.max_length=null", "rm.overlong=cut", "loss=bsr", "rm.optim.lr=1e-3")
    make("rm", root / "rm", {"sft": root / "sft", "data": data}, *settings)
    return root


def test_plain_transformers_scores_a_padded_batch_the_same(folders: Path) -> None:
    folder = folders / "rm" / "out"
    data = rows.read(folders / "pairs")
    asked, said = [row["prompt"] for row in data], [row["chosen"] for row in data]
    ours, _ = scoring.score(*contract.load(folder), asked, said, 4096)
    assert np.ptp(ours) > 100 * TOLERANCE * np.abs(ours).max()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    talks = [scoring.talk(q, a) for q, a in zip(asked, said, strict=True)]
    for side in ("right", "left"):
        tokenizer.padding_side = side
        batch = tokenizer.apply_chat_template(talks, return_tensors="pt", return_dict=True, padding=True)
        assert (batch["attention_mask"] == 0).any()
        with torch.no_grad():
            theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        assert theirs.shape == (len(data), 1) and theirs.dtype == torch.float32
        assert np.abs(ours - theirs[:, 0].numpy()).max() <= TOLERANCE * np.abs(ours).max()


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # TRL asks for it
def test_trl_rewards_its_rollouts_as_we_do(folders: Path) -> None:
    """Policy and reward model by their folders' names alone; what TRL sampled, rendered and scored is scored again."""
    trl = pytest.importorskip("trl", reason="TRL is not installed: make setup EXTRAS=dev,peers")
    from datasets import Dataset

    settings = trl.RLOOConfig(
        output_dir=str(folders / "trl"),
        per_device_train_batch_size=8,
        num_generations=2,
        max_completion_length=12,
        max_steps=1,
        **peer.QUIET,
    )
    asked = [row["prompt"] for row in tiny.rows_of("preferences", 8)]
    data = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in asked]})
    rm = folders / "rm" / "out"
    trainer = trl.RLOOTrainer(str(folders / "sft"), str(rm), settings, train_dataset=data)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    (theirs,) = (np.array(list(each)) for each in trainer._logs["rewards"].values())
    prompts = [talk[-1]["content"] for talk in trainer._logs["prompt"]]
    said = [talk[-1]["content"] for talk in trainer._logs["completion"]]
    assert len(said) == len(theirs) == 8 and len(set(said)) > 1
    ours, _ = scoring.score(*contract.load(rm), prompts, said, 4096)
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(ours).max()
