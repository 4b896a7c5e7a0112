"""The gate's decisions on published evaluations."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.artifacts import EvalReport
from tasks.evaluation import gate, predictions, scoring
from tasks.evaluation.config import GateConfig
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.reporting import report

ON = GateConfig()


def answers(right: int, rows: int = 40) -> list[Prediction]:
    """Two labels; the first ``right`` rows are answered right, the others with text."""
    gold = ["甲" if i % 2 else "乙" for i in range(rows)]
    return [
        Prediction(f"{i:03d}", "CTC", "classification", f"问{i}", g, g if i < right else "我不知道")
        for i, g in enumerate(gold)
    ]


def published(folder: Path, tuned: list[Prediction], base: list[Prediction], dialect: str | None = None) -> EvalReport:
    """An evaluation as the stage leaves it; ``dialect`` is the edition whose rules it scored PromptCBLUE's rows by."""
    edition = {} if dialect is None else {"dialect": dialect}
    content = report.build(
        {
            name: [replace(row, fields={**row.fields, **edition}) for row in rows]
            for name, rows in (("base", base), ("tuned", tuned))
        },
        split="test",
        chosen={"step": 7, "why": "the only candidate", "by": "score", "validation": []},
        resamples=300,
        permutations=300,
        seed=1,
        worst_rows=1,
    )
    content["files"] = {"base": "predictions/base.test.jsonl", "tuned": "predictions/step-000007.test.jsonl"}
    (folder / "predictions").mkdir(parents=True)
    for name, rows in (("base", base), ("tuned", tuned)):
        predictions.append(folder / content["files"][name], rows)
    (folder / "report.json").write_text(json.dumps(content), encoding="utf-8")
    return EvalReport(
        path=folder,
        fingerprint="f",
        headline="score",
        chosen_step=7,
        base=content["score"]["base"],
        tuned=content["score"]["tuned"],
        difference={key: content["differences"]["base"][key] for key in ("value", "low", "high")},
        baselines={},
        rows=content["rows"],
    )


def test_without_a_champion_only_what_is_worse_than_the_base_is_refused(tmp_path: Path) -> None:
    better = gate.decide(published(tmp_path / "a", answers(30), answers(2)), None, ON)
    assert better.promoted and better.compared_with == "base"
    assert better.reason.startswith("not worse beyond noise: the tuned model is better than the untuned base")
    noise = gate.decide(published(tmp_path / "b", answers(20), answers(21)), None, ON)
    assert noise.promoted and "cannot separate" in noise.reason
    worse = gate.decide(published(tmp_path / "c", answers(2), answers(30)), None, ON)
    assert not worse.promoted
    assert worse.reason.startswith("worse beyond noise: the tuned model is worse than the untuned base: -0.")
    assert "below evaluation.gate.level=0.05, n=40" in worse.reason


def test_the_difference_from_the_base_is_that_of_the_report(tmp_path: Path) -> None:
    evaluation = published(tmp_path / "a", answers(20), answers(12))
    decision = gate.decide(evaluation, None, ON)
    assert decision.difference is not None and decision.difference.to_json() == pytest.approx(evaluation.difference)


def test_the_champion_is_compared_on_the_same_rows(tmp_path: Path) -> None:
    champion = published(tmp_path / "champion", answers(38), answers(0)).path
    refused = gate.decide(published(tmp_path / "a", answers(5), answers(0)), champion, ON)
    assert not refused.promoted and refused.compared_with == "champion"
    assert refused.difference is not None and refused.difference.high < 0
    assert refused.p_value is not None and refused.p_value < 0.05
    equal = gate.decide(published(tmp_path / "b", answers(38), answers(0)), champion, ON)
    assert equal.promoted and "score the same" in equal.reason and equal.p_value == 1


def test_the_level_decides_one_sided(tmp_path: Path) -> None:
    """Five rows of 40 lost: of the 32 swaps one alone is as bad, so p is 1/32, on both sides 2/32."""
    champion = published(tmp_path / "champion", answers(25), answers(0)).path
    candidate = published(tmp_path / "a", answers(20), answers(0))
    refused = gate.decide(candidate, champion, ON)
    assert refused.p_value == 1 / 32
    assert not refused.promoted and "one-sided p=0.031" in refused.reason
    passed = gate.decide(candidate, champion, GateConfig(level=0.03))
    assert passed.promoted and "cannot separate" in passed.reason and "p=0.062" in passed.reason


@pytest.mark.parametrize(("rows", "refused"), [(1, False), (3, False), (4, False), (5, True)])
def test_too_few_rows_to_refuse_are_named(tmp_path: Path, rows: int, refused: bool) -> None:
    """Every row lost: one of 2^n swaps is as bad, and 1/16 is not below 5 %."""
    decision = gate.decide(published(tmp_path / "a", answers(0, rows), answers(rows, rows)), None, ON)
    assert decision.promoted is not refused and decision.p_value == 1 / 2**rows
    if not refused:
        assert decision.reason.startswith(
            f"the gate could refuse no model: the least one-sided p of so few rows, {1 / 2**rows:.2g}, is not below "
            f"evaluation.gate.level=0.05; n={rows} cannot separate"
        )


def test_too_few_permutations_to_refuse_are_named(tmp_path: Path) -> None:
    strict = GateConfig(level=0.005, permutations=100)
    decision = gate.decide(published(tmp_path / "a", answers(2), answers(30)), None, strict)
    assert decision.promoted
    assert "the least one-sided p of 100 random permutations, 0.0099, is not below" in decision.reason


def test_promptcblue_is_judged_by_the_rules_of_the_report(tmp_path: Path) -> None:
    """The later edition reads no half-width colon; the files hold rows as the worker wrote them, without an edition."""
    tuned, base = head_edition(":"), head_edition("：")
    evaluation = published(tmp_path / "a", tuned, base, dialect="head")
    written = predictions.read(next((evaluation.path / "predictions").glob("step*")))
    # of "疾病实体:甲，乙" the later edition reads 乙 alone: a half of one task of three
    assert (scoring.mean_score(written), evaluation.tuned["value"]) == pytest.approx((1, 5 / 6))
    decision = gate.decide(evaluation, None, ON)
    assert decision.difference is not None and decision.difference.to_json() == pytest.approx(evaluation.difference)
    assert not decision.promoted
    champion = published(tmp_path / "champion", base, base, dialect="head").path
    refused = gate.decide(evaluation, champion, ON)
    assert not refused.promoted and refused.compared_with == "champion"
    assert refused.difference == decision.difference


def head_edition(colon: str, rows: int = 12) -> list[Prediction]:
    """CMeIE-V2 and a KUAKE label, answered right, and entities that are listed behind ``colon``."""
    relations = "具有病因关系的头尾实体对如下：头实体为甲，尾实体为乙。"
    asked = {
        "CMeIE-V2": (f"上述文本中的关系：\n{relations}", f"上述文本中的关系：\n{relations}"),
        "KUAKE-QIC": ("病情诊断", "病情诊断"),
        "CMeEE-V2": ("上述句子中的实体包含：\n疾病实体：甲，乙", f"上述句子中的实体包含：\n疾病实体{colon}甲，乙"),
    }
    fields = {"CMeIE-V2": ["病因"], "KUAKE-QIC": ["病情诊断", "病因分析"], "CMeEE-V2": ["疾病"]}
    return [
        Prediction(
            f"{task}-{i:02d}", task, "promptcblue", f"问{i}", reference, reply, fields={"answer_choices": fields[task]}
        )
        for task, (reference, reply) in asked.items()
        for i in range(rows)
    ]


def test_a_champion_that_cannot_be_compared_is_named_and_the_base_is_taken(tmp_path: Path) -> None:
    candidate = published(tmp_path / "a", answers(20), answers(2))
    elsewhere = published(tmp_path / "champion", answers(38, rows=39), answers(0, rows=39)).path
    decision = gate.decide(candidate, elsewhere, ON)
    assert decision.promoted and decision.compared_with == "base" and "on other rows" in decision.reason
    assert "is gone" in gate.decide(candidate, tmp_path / "deleted", ON).reason


def test_a_champion_of_an_older_version_is_scored_and_grouped_as_its_rows_are_now(tmp_path: Path) -> None:
    now = [replace(p, group=f"document {i // 2}") for i, p in enumerate(answers(20))]
    then = [replace(p, metric="a_former_name") for p in answers(30)]
    champion = published(tmp_path / "champion", answers(30), answers(0)).path
    (file,) = (champion / "predictions").glob("step*")
    file.unlink()
    predictions.append(file, then)
    decision = gate.decide(published(tmp_path / "a", now, now), champion, ON)
    assert decision.compared_with == "champion" and not decision.promoted
    assert "n=20 documents (40 rows)" in decision.reason


@pytest.mark.parametrize(
    ("floors", "found"),
    [
        ({"score": 0.9}, "score 0.148 is below evaluation.gate.floors.score=0.9"),
        ({"CTC.accuracy": 0.5}, "CTC.accuracy 0.125 is below evaluation.gate.floors.CTC.accuracy=0.5"),
        ({"CTC.acuracy": 0.1}, "evaluation.gate.floors.CTC.acuracy=0.1 names no value of the report"),
    ],
)
def test_a_missed_floor_refuses(tmp_path: Path, floors: dict[str, float], found: str) -> None:
    evaluation = published(tmp_path / "a", answers(5), answers(2))
    refused = gate.decide(evaluation, None, GateConfig(floors=floors))
    assert not refused.promoted and refused.compared_with == "nothing" and refused.p_value is None
    assert found in refused.reason
    assert gate.decide(evaluation, None, GateConfig(floors=floors, enabled=False)).promoted


def test_floors_that_are_met_pass_and_an_unknown_one_names_what_is_known(tmp_path: Path) -> None:
    evaluation = published(tmp_path / "a", answers(5), answers(2))
    assert gate.decide(evaluation, None, GateConfig(floors={"score": 0.14, "CTC.accuracy": 0.125})).promoted
    reason = gate.decide(evaluation, None, GateConfig(floors={"CTC.acuracy": 0.1, "score": 0.9})).reason
    assert "did you mean CTC.accuracy" in reason and "CTC.macro_f1" in reason
    assert "score 0.148 is below" in reason  # every floor is named, not the first alone


def test_what_no_report_can_hold_is_refused_before_training() -> None:
    with pytest.raises(ValidationError, match="neither score nor TASK.VALUE"):
        GateConfig(floors={"macro_f1": 0.5})


def test_json_of_a_decision(tmp_path: Path) -> None:
    decision = gate.decide(published(tmp_path / "a", answers(20), answers(12)), None, ON)
    content = json.loads(json.dumps(decision.to_json()))
    assert set(content) == {"promoted", "reason", "compared_with", "difference", "p_value", "level"}
    assert set(content["difference"]) == {"value", "low", "high"} and content["level"] == 0.05
