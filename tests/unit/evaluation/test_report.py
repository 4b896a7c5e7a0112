"""The report's numbers and words, and the gate, on predictions written by hand."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import EvalReport
from tasks.evaluation import gate, predictions, report, report_text
from tasks.evaluation.config import GateConfig
from tasks.evaluation.predictions import Prediction


def answers(right: int, rows: int = 40, task: str = "CHIP-CTC", offset: int = 0) -> list[Prediction]:
    """Two labels; the first ``right`` rows from ``offset`` on are answered right, the others with text."""
    return [
        Prediction(
            id=f"{i:03d}",
            task=task,
            metric="classification",
            prompt=f"```\n问{i}|",
            reference="甲" if i % 2 else "乙",
            prediction=("甲" if i % 2 else "乙") if offset <= i < offset + right else "我不知道",
            fields={"unseen_entities": i < 10},
            tokens=2,
            seconds=0.5,
        )
        for i in range(rows)
    ]


def build(base: list[Prediction], tuned: list[Prediction], **changes: Any) -> dict[str, Any]:
    systems = {
        "base": base,
        "tuned": tuned,
        "majority": [replace(p, prediction="甲") for p in tuned],
        "copy": [replace(p, prediction=p.prompt) for p in tuned],
    }
    settings = {"split": "test", "resamples": 300, "seed": 1, "worst_rows": 4, **changes}
    return report.build(systems, chosen={"step": 7, "why": "the only candidate", "validation": []}, **settings)


def published(folder: Path, tuned: list[Prediction], base: list[Prediction]) -> EvalReport:
    """An evaluation as the stage leaves it."""
    content = build(base, tuned)
    content["files"] = {"tuned": "predictions/step-000007.test.jsonl"}
    (folder / "predictions").mkdir(parents=True)
    predictions.append(folder / content["files"]["tuned"], tuned)
    (folder / "report.json").write_text(json.dumps(content), encoding="utf-8")
    difference = {key: content["differences"]["base"][key] for key in ("value", "low", "high")}
    return EvalReport(
        path=folder,
        fingerprint="f",
        headline="score",
        chosen_step=7,
        base=content["score"]["base"],
        tuned=content["score"]["tuned"],
        difference=difference,
        baselines={},
        rows=content["rows"],
    )


def test_report_states_scores_differences_and_what_they_allow() -> None:
    content = build(answers(2), answers(38))
    # 38 of 40 right: classes 甲, 乙 with F1 2*19/(19+20), and the text as a class of F1 0
    assert content["score"]["tuned"]["value"] == pytest.approx((2 * (38 / 39)) / 3)
    assert content["rows"] == 40
    assert content["differences"]["base"]["verdict"] == "better"
    assert content["differences"]["copy"]["verdict"] == "better"
    assert "The tuned model is better than the untuned base beyond noise" in content["conclusions"][0]
    assert content["entities"]["unseen"]["rows"] == 10 and content["entities"]["seen"]["rows"] == 30
    assert content["generation"]["tuned"]["tokens_per_second"] == 4
    assert content["same_as_base"] == pytest.approx(4 / 40)  # two right in both, the same text in two others
    assert content["warnings"] == []


def test_a_small_difference_names_no_winner() -> None:
    content = build(answers(20), answers(21))
    assert content["differences"]["base"]["verdict"] == "not separable"
    assert content["conclusions"][0].startswith("n=40 cannot separate the tuned model from the untuned base:")


def test_warnings_tell_what_makes_numbers_doubtful() -> None:
    broken = [replace(p, prediction="", finish_reason="length", prompt_cut=True) for p in answers(0, rows=12)]
    text = "\n".join(build(broken, broken, split="validation")["warnings"])
    for word in (
        "changed nothing",
        "100% of the tuned model's replies are empty",
        "were cut",
        "prompts",
        "(12)",
        "no test",
    ):
        assert word in text


def test_worst_rows_come_first_and_tasks_take_turns() -> None:
    base = answers(40) + answers(40, task="KUAKE-QIC")
    tuned = answers(38) + answers(30, task="KUAKE-QIC")
    worst = build(base, tuned)["worst"]
    assert [row["score"] for row in worst] == [0, 0, 0, 0]
    assert [row["task"] for row in worst] == ["CHIP-CTC", "KUAKE-QIC", "CHIP-CTC", "KUAKE-QIC"]
    assert {row["id"] for row in worst if row["task"] == "CHIP-CTC"} == {"038", "039"}


def test_markdown_shows_every_task_and_cannot_be_broken_by_a_row() -> None:
    text = report_text.markdown(build(answers(2), answers(10)))
    assert "| CHIP-CTC | 40 | macro_f1 |" in text
    assert "````text\n```\n问10|\n````" in text  # a fence longer than the row's own
    assert text.count("### CHIP-CTC") == 4


def test_values_that_literature_gives_in_percent_are_shown_times_100() -> None:
    replies = [replace(p, metric="generation", prediction=p.reference) for p in answers(40)]
    wrong = [replace(p, prediction="丙") for p in replies]
    text = report_text.markdown(build(wrong, replies))
    assert "| rouge_l ×100 | 0.0 [0.0, 0.0] | 100.0 [100.0, 100.0] | +100.0 [+100.0, +100.0] | better |" in text
    assert "| **score** | 40 | mean | 0.000 [0.000, 0.000] | 1.000 [1.000, 1.000] |" in text


def test_plot_of_a_chinese_task_name_has_no_missing_glyph(tmp_path: Path) -> None:
    content = build(answers(2, task="三元组"), answers(10, task="三元组"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_text.plot(content, tmp_path / "tasks.png")
    assert (tmp_path / "tasks.png").read_bytes().startswith(b"\x89PNG")


def test_closing_rows_give_before_and_after(tmp_path: Path) -> None:
    rows = report_text.closing_rows(published(tmp_path / "e", answers(40), answers(0)))
    assert rows[0] == ("score (mean of 1 task, 0-1)", "0.000 [0.000, 0.000]", "1.000 [1.000, 1.000]")
    assert rows[1][0] == "CHIP-CTC macro_f1 (n=40)"


# --- the gate ---------------------------------------------------------------------------------------------------

ON = GateConfig()


def test_gate_without_a_champion_refuses_only_what_is_worse_than_the_base(tmp_path: Path) -> None:
    better = gate.decide(published(tmp_path / "a", answers(30), answers(2)), None, ON)
    assert better.promoted and better.compared_with == "base" and better.reason.startswith("not worse beyond noise")
    noise = gate.decide(published(tmp_path / "b", answers(20), answers(21)), None, ON)
    assert noise.promoted and "cannot separate" in noise.reason
    worse = gate.decide(published(tmp_path / "c", answers(2), answers(30)), None, ON)
    assert not worse.promoted and worse.reason.startswith("worse beyond noise: the tuned model is worse")


def test_gate_compares_with_the_champion_on_the_same_rows(tmp_path: Path) -> None:
    champion = published(tmp_path / "champion", answers(38), answers(0)).path
    refused = gate.decide(published(tmp_path / "a", answers(5), answers(0)), champion, ON)
    assert not refused.promoted and refused.compared_with == "champion"
    assert refused.difference is not None and refused.difference.high < 0
    equal = gate.decide(published(tmp_path / "b", answers(38), answers(0)), champion, ON)
    assert equal.promoted and "score the same" in equal.reason


def test_gate_says_when_the_champion_cannot_be_compared(tmp_path: Path) -> None:
    report_ = published(tmp_path / "a", answers(20), answers(2))
    elsewhere = published(tmp_path / "champion", answers(38, rows=39), answers(0, rows=39)).path
    decision = gate.decide(report_, elsewhere, ON)
    assert decision.promoted and decision.compared_with == "base" and "on other rows" in decision.reason
    assert "is gone" in gate.decide(report_, tmp_path / "deleted", ON).reason


def test_gate_has_a_floor_and_can_be_switched_off(tmp_path: Path) -> None:
    report_ = published(tmp_path / "a", answers(5), answers(2))
    refused = gate.decide(report_, None, GateConfig(minimum_score=0.9))
    assert not refused.promoted and "below evaluation.gate.minimum_score=0.9" in refused.reason
    assert gate.decide(report_, None, GateConfig(minimum_score=0.9, enabled=False)).promoted
