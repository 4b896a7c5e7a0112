"""Methods side by side: what is read of their runs, which sentences the numbers allow, and the page made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import Checkpoints, EvalReport
from tasks.errors import DataError
from tasks.evaluation import predictions, scoring
from tasks.evaluation.metric import Options
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.reporting import method_comparison, method_comparison_text
from tasks.evaluation.reporting.method_comparison import BASE, Run

N = 60


def answers(right: int, rows: int = N, task: str = "三元组") -> list[Prediction]:
    """One triple a row, so that micro F1 is the share of right rows."""
    return [
        Prediction(f"{i:03d}", task, "triples", f"问{i}", "甲_病因_乙", "甲_病因_乙" if i < right else "甲_病因_丙")
        for i in range(rows)
    ]


class Runs:
    """Writes runs as the evaluation leaves them."""

    def __init__(self, folder: Path, base: Sequence[Prediction] | None = None, **report: Any) -> None:
        self.folder, self.base, self.report = folder, answers(20) if base is None else base, report

    def __call__(self, method: str, seed: int, tuned: Sequence[Prediction], **changes: Any) -> Run:
        folder = self.folder / f"{method}-{seed}"
        (folder / "predictions").mkdir(parents=True)
        files = {"base": "predictions/base.test.jsonl", "tuned": "predictions/step-000004.test.jsonl"}
        for name, rows in (("base", self.base), ("tuned", tuned)):
            predictions.append(folder / files[name], rows)
        content = {
            "split": "test",
            "files": files,
            "worker": {"base": {"peak_memory_bytes": 100}, "tuned": {"peak_memory_bytes": 200 + seed}},
            "generation": {"base": {"seconds": 5.0}, "tuned": {"seconds": 10.0 + seed}},
            **self.report,
        }
        (folder / "report.json").write_text(json.dumps(content), encoding="utf-8")
        return Run(method, seed, 1e-3, changes.get("quantization", "none"), _trained(method, seed), _evaluated(folder))


def _trained(method: str, seed: int) -> Checkpoints:
    return Checkpoints(
        path=Path(method),
        fingerprint=f"{method}{seed}",
        steps=[4],
        method=method,
        trainable=10,
        total=1010,
        train_loss=1.0,
        validation_loss=None,
        tokens_per_second=1.0,
        peak_memory_bytes=1000 * seed,
        train_seconds=2.0 * seed,
    )


def _evaluated(folder: Path) -> EvalReport:
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    return EvalReport(
        path=folder,
        fingerprint=folder.name,
        headline="score",
        chosen_step=4,
        base=nothing,
        tuned=nothing,
        difference=nothing,
        baselines={},
        rows=N,
    )


def build(runs: Sequence[Run], **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"resamples": 200, "permutations": 500, "seed": 0, "level": 0.05, "options": Options()}
    return method_comparison.build(runs, changes.pop("failed", {}), **{**settings, **changes})


def verdicts(content: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(pair["a"], pair["b"]): pair["verdict"] for pair in content["pairs"]}


def test_scores_are_means_over_seeds_and_costs_are_read_from_the_runs(tmp_path: Path) -> None:
    run = Runs(tmp_path)
    content = build([run("lora", 1, answers(40)), run("lora", 2, answers(44)), run("full", 1, answers(30))])
    lora, base = content["systems"]["lora"], content["systems"][BASE]
    assert lora["score"]["value"] == pytest.approx(42 / N) and lora["seeds"]["values"] == pytest.approx(
        [40 / N, 44 / N]
    )
    assert base["score"]["value"] == pytest.approx(20 / N)
    assert (lora["training_seconds"], lora["training_memory_bytes"]) == (3.0, 2000)
    assert (lora["inference_memory_bytes"], lora["test_seconds"]) == (202, 11.5)
    assert (lora["trainable"], lora["total"], lora["chosen_steps"]) == (10, 1010, [4, 4])
    assert content["rows"] == N and content["tasks"]["三元组"]["groups"] == N
    assert list(content["systems"]) == [BASE, "lora", "full"]
    assert verdicts(content) == {("lora", "full"): "better", ("lora", BASE): "better", ("full", BASE): "better"}


def test_parameters_of_the_base_are_the_reports_or_unknown(tmp_path: Path) -> None:
    told = Runs(tmp_path / "a", base_parameters=1000)("lora", 1, answers(40))
    assert build([told])["systems"][BASE]["total"] == 1000
    untold = Runs(tmp_path / "b")("lora", 1, answers(40))
    content = build([untold])
    assert content["systems"][BASE]["total"] is None
    assert "| total parameters | - | 1,010 |" in method_comparison_text.markdown(content)


def test_rows_that_nobody_replied_to_have_no_time(tmp_path: Path) -> None:
    run = Runs(tmp_path, generation={"base": {"prompts_cut": 0.0}, "tuned": {"prompts_cut": 0.0}})
    content = build([run("lora", 1, answers(40))])
    assert [system["test_seconds"] for system in content["systems"].values()] == [None, None]
    assert "| test time | - | - |" in method_comparison_text.markdown(content)


def test_texts_are_scored_once_for_a_system_and_once_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six pairs of four systems: no text is scored again for a pair."""
    scored: list[int] = []
    score_rows = scoring.score_rows

    def counted(metric: str, rows: Sequence[Prediction], options: Options) -> Any:
        scored.append(len(rows))
        return score_rows(metric, rows, options)

    monkeypatch.setattr(scoring, "score_rows", counted)
    run = Runs(tmp_path)
    content = build([run(name, 1, answers(30 + i)) for i, name in enumerate(("lora", "full", "freeze"))])
    assert len(content["pairs"]) == 6
    assert scored == [N, N, N, N, 4 * N]


def test_runs_on_other_rows_are_refused(tmp_path: Path) -> None:
    runs = [Runs(tmp_path / "a")("lora", 1, answers(40)), Runs(tmp_path / "b")("full", 1, answers(40, rows=59))]
    with pytest.raises(DataError, match="were not scored on the same rows"):
        build(runs)


def test_promptcblue_is_read_as_the_runs_own_report_read_it(tmp_path: Path) -> None:
    """The later edition, told by CMeIE-V2, does not take a half-width comma for one that parts entities."""
    relations = "具有病因关系的头尾实体对如下：头实体为甲，尾实体为乙。"

    def rows(entities: str) -> list[Prediction]:
        asked = {
            "CMeIE-V2": (f"关系：\n{relations}", f"关系：\n{relations}", ["病因"]),
            "KUAKE-QTR": ("完全匹配", "完全匹配", ["完全匹配", "部分匹配"]),
            "CMeEE-V2": ("实体：\n疾病实体：甲，乙", f"实体：\n疾病实体：{entities}", ["疾病"]),
        }
        return [
            Prediction(f"{task}-{i}", task, "promptcblue", f"问{i}", gold, reply, fields={"answer_choices": choices})
            for task, (gold, reply, choices) in asked.items()
            for i in range(4)
        ]

    content = build([Runs(tmp_path, base=rows("甲，乙"))("lora", 1, rows("甲,乙"))])
    assert scoring.mean_score(rows("甲,乙")) == pytest.approx(1, abs=1e-6)  # by the older rules
    assert content["systems"]["lora"]["score"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert content["systems"][BASE]["score"]["value"] == pytest.approx(1, abs=1e-6)


# --- conclusions --------------------------------------------------------------------------------------------------


def test_methods_above_below_and_beside_the_base_are_all_named(tmp_path: Path) -> None:
    run = Runs(tmp_path, base=answers(30))
    content = build([run("lora", 1, answers(50)), run("full", 1, answers(5)), run("freeze", 1, answers(31))])
    lines = content["conclusions"]
    assert lines[:3] == [
        "Better than the untuned base: these trained models of lora.",
        "Worse than the untuned base: these trained models of full.",
        "Not separable from the untuned base: freeze.",
    ]
    assert lines[3] == (
        "These trained models of lora are better than those of every other method and than the untuned base."
    )
    assert content["pairs"][0]["sentence"].startswith("this trained model of lora is better than ")


def test_a_comparison_without_a_winner_names_the_separated_pairs(tmp_path: Path) -> None:
    run = Runs(tmp_path, base=answers(30))
    content = build([run("lora", 1, answers(50)), run("full", 1, answers(51)), run("freeze", 1, answers(5))])
    assert (
        "No single winner; separated pairs: these trained models of full over freeze, lora over freeze."
        in content["conclusions"]
    )
    nothing = build([Runs(tmp_path / "b", base=answers(30))("lora", 1, answers(30))])
    assert nothing["conclusions"][:2] == [
        "No method beats the untuned base.",
        "Not separable from the untuned base: lora.",
    ]


def test_few_seeds_speak_of_trained_models_and_say_how_many_speak_of_methods(tmp_path: Path) -> None:
    run = Runs(tmp_path)
    content = build([run(m, s, answers(r + s)) for m, r in (("lora", 50), ("full", 35)) for s in (1, 2)])
    # three pairs: 3 * 2 / C(10, 5) = 0.024 and 3 * 2 / C(8, 4) = 0.086; 3 * 2 / 2^7 = 0.047
    assert (
        "Training seeds: lora 2, full 2; another seed may rank otherwise. A claim about methods, not these trained "
        "models, takes 5 seeds of each, all on one side; with the untuned base 7 (level 0.05, 3 tests)."
    ) in content["conclusions"]
    assert not any(pair["about_methods"] for pair in content["pairs"])
    sentences = {(pair["a"], pair["b"]): pair["sentence"] for pair in content["pairs"]}
    assert sentences["lora", "full"].endswith(
        "all seeds agree (2 against 2), but a claim about the methods takes 5 against 5."
    )
    assert sentences["full", BASE].endswith("all seeds agree (2), but a claim about the method takes 7.")


def test_enough_seeds_speak_of_methods(tmp_path: Path) -> None:
    run = Runs(tmp_path)
    content = build([run(m, s, answers(r + s)) for m, r in (("lora", 48), ("full", 33)) for s in range(7)])
    assert content["conclusions"][:2] == [
        "Better than the untuned base: lora, full.",
        "lora is better than every other method and the untuned base.",
    ]
    assert all(pair["about_methods"] for pair in content["pairs"])
    assert not any("trained model" in line for line in content["conclusions"])


def test_overlapping_seeds_name_no_winner(tmp_path: Path) -> None:
    run = Runs(tmp_path)
    rights = {("lora", 1): 58, ("lora", 2): 36, ("full", 1): 40, ("full", 2): 30}
    content = build([run(m, s, answers(r)) for (m, s), r in rights.items()])
    assert verdicts(content)["lora", "full"] == "not separable"
    assert "No single winner; separated pairs: none." in content["conclusions"]


def test_failed_runs_are_named(tmp_path: Path) -> None:
    content = build([Runs(tmp_path)("lora", 1, answers(40))], failed={"full, seed 1": "killed"})
    assert content["conclusions"][-1] == "Not compared: full, seed 1: killed"


def test_the_smallest_difference_is_that_among_all_pairs(tmp_path: Path) -> None:
    run = Runs(tmp_path)
    content = build([run("lora", 1, answers(40)), run("full", 1, answers(30))])
    for pair in content["pairs"]:
        # z of 1 - 0.05 / 6 and of 80 %
        assert pair["detectable"] == pytest.approx((2.394 + 0.842) * pair["standard_error"], rel=0.001)


# --- the page -----------------------------------------------------------------------------------------------------


def test_few_rows_say_that_nothing_can_be_shown(tmp_path: Path) -> None:
    content = build([Runs(tmp_path, base=answers(0, rows=5))("lora", 1, answers(5, rows=5))])
    (pair,) = content["pairs"]
    assert pair["detectable"] is None and "so few rows cannot show any difference" in pair["sentence"]
    page = method_comparison_text.markdown(content)
    assert "| lora | base | +1.000 [+1.000, +1.000] | 0.0625 | 0.0625 | not separable | - |" in page
    assert "Under 30 rows or documents, where a bootstrap interval is too narrow: 三元组 (5)." in page


def test_intervals_without_width_are_no_certainty(tmp_path: Path) -> None:
    content = build(
        [Runs(tmp_path, base=answers(0))("lora", 1, answers(N)), Runs(tmp_path, base=answers(0))("full", 1, answers(9))]
    )
    # 1 - 0.05^(1/60) = 4.87 %; about 3 / 60
    assert content["cautions"] == [
        f"{name} scores {value} on every row of 三元组 (60 rows: up to 4.9%). An interval without width tells nothing "
        f"about other rows: the share in brackets of them may score {otherwise} (upper 95 % bound, about 3/n). "
        "Evaluate more rows to know it better."
        for name, value, otherwise in ((BASE, "0", "more"), ("lora", "the maximum", "less"))
    ]
    page = method_comparison_text.markdown(content)
    assert "0.000 [0.000, 0.000]" in page
    assert f"## Cautions\n\n- {content['cautions'][0]}\n" in page


def test_documents_are_what_counts(tmp_path: Path) -> None:
    def documents(rows: list[Prediction]) -> list[Prediction]:
        return [replace(row, group=f"d{i // 3}") for i, row in enumerate(rows)]

    content = build([Runs(tmp_path, base=documents(answers(0)))("lora", 1, documents(answers(30)))])
    assert content["tasks"]["三元组"] | {"rows": 60, "groups": 20} == content["tasks"]["三元组"]
    assert any("(20 documents: up to 13.9%)" in line for line in content["cautions"])
    assert any("too narrow: 三元组 (20)" in line for line in content["cautions"])


def test_validation_rows_are_no_test_rows(tmp_path: Path) -> None:
    content = build([Runs(tmp_path, split="validation")("lora", 1, answers(40))])
    assert any(
        line.startswith("The data set has no test rows: these are the validation rows.") for line in content["cautions"]
    )
    sound = build([Runs(tmp_path / "b")("lora", 1, answers(40))])
    assert sound["cautions"] == [] and "## Cautions" not in method_comparison_text.markdown(sound)


def test_the_files_are_written(tmp_path: Path) -> None:
    run = Runs(tmp_path)
    content = build([run("lora", 1, answers(40)), run("full", 1, answers(30))])
    out = tmp_path / "out"
    out.mkdir()
    method_comparison_text.write(out, content)
    assert json.loads((out / "comparison.json").read_text(encoding="utf-8")) == content
    lines = (out / "comparison.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["system", "base", "lora", "full"]
    assert (out / "comparison.png").stat().st_size > 1000
