"""What is recorded of each pair and step is what happened to it, also when training is interrupted."""

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import torch
from scores import FIELDS, pairs
from test_training import Made, Watch, as_in_a_job, ask, made, make, one_tokenizer, watch  # noqa: F401  # fixtures

from pipeline import chat, losses, models, order, rows, stopping
from pipeline.dynamics import PAIR, RANK_EVERY, STEP, Recorder, effective_rank, of_pairs
from pipeline.seeds import derive

Columns = dict[str, np.ndarray]


def columns(folder: Path, name: str = "dynamics") -> Columns:
    table = pq.read_table(folder / "out" / f"{name}.parquet")
    return {column: table[column].to_numpy() for column in table.column_names}


@pytest.fixture(scope="module", params=["bt", "norm_bt", "bsr"])
def run(request: pytest.FixtureRequest, made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """12 steps of 4 of 24 pairs."""
    folder = tmp_path_factory.mktemp(request.param)
    make("rm", folder, made.inputs("rm"), f"loss={request.param}", "rm.epochs=2", "rm.optim.lr=1e-2")
    return folder


# --- one row for each pair and step ---


def test_the_columns_are_what_they_say() -> None:
    s, weight = pairs(5), torch.arange(5.0)
    h_w, h_l = (h.double().numpy() for h in (s.h_chosen, s.h_rejected))
    expected = {
        "r_w": s.chosen.numpy(),
        "r_l": s.rejected.numpy(),
        "norm_w": np.sqrt((h_w**2).sum(1)),
        "norm_l": np.sqrt((h_l**2).sum(1)),
        "distance": np.sqrt(((h_w - h_l) ** 2).sum(1)),
        "weight": np.arange(5.0),
    }
    assert tuple(expected) == PAIR
    got = of_pairs(s, weight)
    assert got.dtype == torch.float32
    assert np.allclose(got.numpy(), np.stack(list(expected.values()), 1), rtol=1e-6)


def test_half_precision_is_cast_up_before_anything_is_computed() -> None:
    s = pairs(5)
    half = losses.PairScores(*(getattr(s, name).bfloat16() for name in FIELDS))
    up = losses.PairScores(*(getattr(half, name).float() for name in FIELDS))
    assert torch.equal(of_pairs(half, torch.ones(5)), of_pairs(up, torch.ones(5)))


def test_every_step_has_a_row_for_each_of_its_pairs(run: Path, made: Made) -> None:  # noqa: F811
    c = columns(run)
    assert tuple(c) == ("step", "id", *PAIR) and all(c[name].dtype == np.float32 for name in PAIR)
    assert c["step"].tolist() == [step for step in range(12) for _ in range(4)]
    names = [row["id"] for row in rows.read(made.pairs)]
    expected = [names[i] for step in range(12) for i in order.step_rows(24, 4, derive(0, "rm"), step)]
    assert c["id"].tolist() == expected


def test_the_first_rows_are_those_of_the_untrained_model(run: Path, made: Made) -> None:  # noqa: F811
    """Computed again, one unpadded text at a time, by transformers alone."""
    model, tokenizer = models.new_rm(made.sft, "stiennon", derive(0, "rm", "head"))
    data = {row["id"]: row for row in rows.read(made.pairs)}
    c = columns(run)
    for i in range(4):
        row = data[c["id"][i]]
        ids = chat.answered(tokenizer, [row["prompt"]] * 2, [row["chosen"], row["rejected"]])
        with torch.no_grad():
            body = [model.base_model(input_ids=torch.tensor([each])).last_hidden_state[0, -1] for each in ids]
            reward = [float(model(input_ids=torch.tensor([each])).logits[0, 0]) for each in ids]
        norms = [float(h.norm()) for h in body]
        expected = [*reward, *norms, float((body[0] - body[1]).norm())]
        assert [c[name][i] for name in PAIR[:5]] == pytest.approx(expected, rel=1e-4, abs=1e-5)


# --- one row for each step ---


def test_columns_of_a_step_follow_from_its_pairs(run: Path) -> None:
    c, s = columns(run), columns(run, "steps")
    assert tuple(s) == ("step", *STEP) and s["step"].tolist() == list(range(12))
    r_w, r_l = c["r_w"].reshape(12, 4), c["r_l"].reshape(12, 4)
    both = np.concatenate([r_w, r_l], axis=1)
    assert np.allclose(s["accuracy"], (r_w > r_l).mean(1))
    assert np.allclose(s["batch_mean"], both.mean(1), atol=1e-6)
    assert np.allclose(s["reward_std"], both.std(1, ddof=1), rtol=1e-5)


def test_the_cosine_follows_from_reward_head_and_distance(run: Path) -> None:
    """r_w − r_l = ‖W_p‖ ‖h_w − h_l‖ cos ψ with the head before the step's update: never beyond 1, and not far below for
    all pairs of 16 dimensions."""
    c, s = columns(run), columns(run, "steps")
    cosine = (c["r_w"] - c["r_l"]) / (s["head_norm"].repeat(4) * c["distance"])
    assert np.abs(cosine).max() <= 1 + 1e-4
    assert np.abs(cosine).max() > 0.3


def test_the_first_head_norm_is_the_initial_one_and_training_moves_it(run: Path, made: Made) -> None:  # noqa: F811
    model, _ = models.new_rm(made.sft, "stiennon", derive(0, "rm", "head"))
    norms = columns(run, "steps")["head_norm"]
    assert norms[0] == pytest.approx(float(models.head(model).weight.detach().norm()), rel=1e-6)
    assert len(set(norms.tolist())) == 12


def test_the_weights_are_those_that_the_loss_used(made: Made, tmp_path: Path) -> None:  # noqa: F811
    """Mean of weight times −log σ(Δ) is the recorded loss, step by step; and each weight is μ before its step's update
    over the distance."""
    make("rm", tmp_path, made.inputs("rm"), "loss=norm_bt")
    c, s = columns(tmp_path), columns(tmp_path, "steps")
    w, d, delta = (v.astype(float).reshape(6, 4) for v in (c["weight"], c["distance"], c["r_w"] - c["r_l"]))
    assert np.allclose((w * np.logaddexp(0, -delta)).mean(1), s["loss"], rtol=1e-4)
    mu = [d[0].mean()]
    for mean in d.mean(1)[1:]:
        mu.append(0.9 * mu[-1] + 0.1 * mean)
    assert np.allclose(s["mu"], mu, rtol=1e-5)
    assert np.allclose(w, np.array([mu[0], *mu[:-1]])[:, None] / (d + 1e-6), rtol=1e-4)
    assert len(np.unique(w)) > 20


@pytest.mark.parametrize("loss", ["bt", "bsr"])
def test_without_weights_they_are_one_and_there_is_no_moving_average(
    made: Made,  # noqa: F811
    tmp_path: Path,
    loss: str,
) -> None:
    make("rm", tmp_path, made.inputs("rm"), f"loss={loss}")
    assert (columns(tmp_path)["weight"] == 1).all() and np.isnan(columns(tmp_path, "steps")["mu"]).all()


# --- effective rank ---


def test_the_effective_rank_equals_its_oracle() -> None:
    h = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)) + 1
    p = np.linalg.svd(h.double().numpy(), compute_uv=False)
    p /= p.sum()
    assert float(effective_rank(h)) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-5)


def test_the_effective_rank_counts_equal_directions() -> None:
    assert float(effective_rank(3 * torch.eye(6)[:4])) == pytest.approx(4, rel=1e-5)
    assert float(effective_rank(torch.ones(7, 5))) == pytest.approx(1, rel=1e-5)


def test_few_steps_have_an_effective_rank(run: Path) -> None:
    ranks = columns(run, "steps")["effective_rank"]
    assert np.flatnonzero(~np.isnan(ranks)).tolist() == list(range(0, 12, RANK_EVERY))


def test_the_effective_rank_of_a_step_is_of_chosen_and_rejected_together() -> None:
    s = pairs(3)
    found = Recorder(1, 3).add(0, s, torch.ones(3), torch.tensor(0.5), torch.ones(8), {})["effective_rank"]
    assert float(found) == float(effective_rank(torch.cat([s.h_chosen, s.h_rejected])))


# --- records are training state ---


def test_stopped_and_resumed_the_records_are_the_same_bytes(
    made: Made,  # noqa: F811
    tmp_path: Path,
    watch: Watch,  # noqa: F811
) -> None:
    """4 steps, and 2 + 2; with a probe that looks after each."""
    probe = tiny.data(tmp_path / "probe", "scenarios", 3)
    inputs = {**made.inputs("rm"), "probe": probe}
    settings = ("loss=norm_bt", "rm.batch=6", "rm.probe_every=1")
    whole = make("rm", tmp_path / "whole", inputs, *settings)
    watch.end_at(2, ask)
    with pytest.raises(stopping.Stopped):
        make("rm", tmp_path / "parts", inputs, *settings)
    watch.end_at(None)
    assert make("rm", tmp_path / "parts", inputs, *settings) == whole
    assert watch.seen == [3, 4]
    assert tiny.hashes(tmp_path / "parts" / "out") == tiny.hashes(tmp_path / "whole" / "out")
    assert columns(tmp_path / "parts", "probe_steps")["step"].tolist() == [s for s in range(5) for _ in range(4)]
    assert not np.isnan(columns(tmp_path / "parts")["r_w"]).any()


def test_what_is_not_recorded_yet_is_nan() -> None:
    recorder = Recorder(3, 5)
    s = pairs(5)
    recorder.add(1, s, torch.ones(5), torch.tensor(0.5), torch.ones(8), {})
    assert recorder.pairs.isnan().all((1, 2)).tolist() == recorder.steps.isnan().all(1).tolist() == [True, False, True]


def test_of_no_steps_there_are_files_without_rows(made: Made, tmp_path: Path) -> None:  # noqa: F811
    metrics = make("rm", tmp_path, made.inputs("rm"), "rm.epochs=0")
    for name in ("dynamics", "steps"):
        assert pq.read_table(tmp_path / "out" / f"{name}.parquet").num_rows == 0
    assert pq.read_schema(tmp_path / "out" / "dynamics.parquet").field("id").type == "string"
    assert "loss" not in metrics and all(math.isfinite(value) for value in metrics.values())
