"""The whole stage on a tiny random model: real worker processes, real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.artifacts import BaseModelArtifact, Checkpoints, Dataset, EvalReport
from tasks.errors import ConfigError, DataError
from tasks.evaluation import predictions
from tasks.evaluation.config import EvaluationConfig, GateConfig
from tasks.evaluation.stage import evaluate
from tasks.store import Store

CONFIG = EvaluationConfig(max_new_tokens=6, bootstrap_resamples=200, batch_tokens=200, worst_rows=3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("runs"))


def run(
    tiny: Path, data: Path, store: Store, config: EvaluationConfig = CONFIG, context_tokens: int = 256
) -> EvalReport:
    dataset = Dataset(path=data, fingerprint="d" * 64, source="promptcblue", rows={}, splits={}, tasks={})
    base = BaseModelArtifact(
        path=tiny,
        fingerprint="b" * 64,
        weights=tiny / "base",
        form="native",
        family="chatglm3",
        assumed=[],
        parameters=1,
        bytes=1,
        hidden_size=32,
        layers=2,
        vocabulary=300,
        context_tokens=context_tokens,
        key_value_heads=1,
        head_size=16,
    )
    checkpoints = Checkpoints(
        path=tiny,
        fingerprint="c" * 64,
        steps=[1, 2],
        method="lora",
        trainable=1,
        total=2,
        train_loss=1.0,
        validation_loss=None,
        tokens_per_second=1.0,
        peak_memory_bytes=1,
        train_seconds=1.0,
    )
    return evaluate(
        config,
        dataset,
        base,
        checkpoints,
        max_prompt_tokens=64,
        max_reply_tokens=32,
        dtype="float32",
        device="cpu",
        store=store,
    )


def test_stage_chooses_on_validation_and_scores_base_and_chosen_on_test(
    tiny: Path, dataset_folder: Path, store: Store
) -> None:
    made = run(tiny, dataset_folder, store)
    content = json.loads((made.path / "report.json").read_text(encoding="utf-8"))
    assert made.rows == 18 == content["rows"]
    assert [c["step"] for c in content["chosen"]["validation"]] == [1, 2]
    assert made.chosen_step == content["chosen"]["step"]
    # each candidate answered the validation rows; only the chosen one and the base answered the test rows
    files = {p.name for p in (made.path / "predictions").iterdir()}
    assert files == {
        "base.test.jsonl",
        f"step-{made.chosen_step:06d}.test.jsonl",
        "step-000001.validation.jsonl",
        "step-000002.validation.jsonl",
        *(f"{name}.facts.json" for name in ("base", "step-000001", "step-000002")),
    }
    facts = json.loads((made.path / f"predictions/step-{made.chosen_step:06d}.facts.json").read_text(encoding="utf-8"))
    assert facts["same_as_base"] is False and facts["merged"] is True  # on the test rows, which the base answered too
    tuned = predictions.read(made.path / content["files"]["tuned"])
    assert {p.id for p in tuned} == {f"r{i:03d}" for i in range(18)}
    # majority of the training rows, by hand: all triples rows have the one reply; of 18 labels 9 are 治疗
    assert content["tasks"]["triples"]["values"]["majority"]["f1"]["value"] == 1
    assert made.baselines["copy"] == 0
    assert set(content["entities"]) == {"seen", "unseen"}
    assert (made.path / "report.md").is_file() and (made.path / "tasks.png").is_file()


def test_stage_is_reused_and_the_gate_and_batching_do_not_change_it(
    tiny: Path, dataset_folder: Path, store: Store
) -> None:
    first = run(tiny, dataset_folder, store)
    changes = {"gate": GateConfig(floors={"score": 0.5}), "batch_tokens": 999}
    again = run(tiny, dataset_folder, store, CONFIG.model_copy(update=changes))
    assert again.reused and again.fingerprint == first.fingerprint


def test_another_setting_of_the_report_asks_no_model_again(tiny: Path, dataset_folder: Path, store: Store) -> None:
    first = run(tiny, dataset_folder, store)
    again = run(tiny, dataset_folder, store, CONFIG.model_copy(update={"worst_rows": 1, "choose_by": "triples.f1"}))
    assert again.fingerprint != first.fingerprint
    assert not (again.path / "worker.log").exists()  # no process was started
    for file in ("base.test.jsonl", "base.facts.json", "step-000002.validation.jsonl"):
        assert (again.path / "predictions" / file).read_bytes() == (first.path / "predictions" / file).read_bytes()


def test_replies_that_a_kill_left_are_completed_and_then_shared(
    tiny: Path, dataset_folder: Path, store: Store, tmp_path: Path
) -> None:
    whole = run(tiny, dataset_folder, store)
    other = Store(tmp_path / "runs")
    partial = other.root / "evaluate" / f"{whole.path.name}.partial"
    (partial / "predictions").mkdir(parents=True)
    lines = (whole.path / "predictions/base.test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (partial / "predictions/base.test.jsonl").write_text("".join(lines[:5]) + lines[5][:20], encoding="utf-8")
    made = run(tiny, dataset_folder, other)
    assert made.fingerprint == whole.fingerprint
    kept = [
        predictions.read(s.root / f"evaluate/{whole.path.name}/predictions/base.test.jsonl") for s in (store, other)
    ]
    first, second = ({p.id: p.prediction for p in side} for side in kept)
    assert first == second
    shared = [p for p in (other.root / "answers").iterdir() if p.name.startswith("base-")]
    assert [len(predictions.read(p / "predictions.jsonl")) for p in shared] == [18]


def test_prompts_and_replies_must_fit_the_context(tiny: Path, dataset_folder: Path, store: Store) -> None:
    with pytest.raises(
        ConfigError, match=r"max_new_tokens=6 \+ tokenization.max_prompt_tokens=64 = 70 is more than .* 60"
    ):
        run(tiny, dataset_folder, store, context_tokens=60)


def test_a_data_set_without_rows_to_score_is_an_error(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set data\.test"):
        run(tiny, tmp_path, Store(tmp_path / "runs"))
