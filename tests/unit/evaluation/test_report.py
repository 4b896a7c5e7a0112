"""The report's numbers, tests and words, on predictions written by hand and on real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.evaluation.predictions import Prediction
from tasks.evaluation.reporting import report
from tasks.evaluation.reporting import text as report_text
from tasks.evaluation.reporting.plots import Drawn

ONE = {"step": 7, "why": "the only candidate", "by": "score", "validation": []}


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


def triples(right: int, rows: int, task: str = "triples", **fields: Any) -> list[Prediction]:
    """One triple a row; the first ``right`` rows are answered right, the others with another relation."""
    reference = "电机_部件故障_异响"
    return [
        Prediction(
            f"{i:03d}", task, "triples", f"句{i}", reference, reference if i < right else "电机_组成_异响", **fields
        )
        for i in range(rows)
    ]


def build(base: Sequence[Prediction], tuned: Sequence[Prediction], **changes: Any) -> dict[str, Any]:
    systems = {
        "base": base,
        "tuned": tuned,
        "majority": [replace(p, prediction="甲") for p in tuned],
        "copy": [replace(p, prediction=p.prompt) for p in tuned],
    }
    settings = {
        "split": "test",
        "chosen": ONE,
        "resamples": 300,
        "permutations": 300,
        "seed": 1,
        "worst_rows": 4,
        **changes,
    }
    return report.build(systems, **settings)


def test_report_states_scores_differences_and_what_they_allow() -> None:
    content = build(answers(2), answers(38))
    # 38 of 40 right: classes 甲, 乙 with F1 2*19/(19+20), and the text as a class of F1 0
    assert content["score"]["tuned"]["value"] == pytest.approx((2 * (38 / 39)) / 3)
    assert content["rows"] == content["groups"] == 40
    assert content["differences"]["base"]["verdict"] == "better"
    assert content["differences"]["copy"]["verdict"] == "better"
    assert content["conclusions"][0].startswith("The tuned model is better than the untuned base: +0.")
    assert content["entities"]["unseen"]["rows"] == 10 and content["entities"]["seen"]["rows"] == 30
    assert content["generation"]["tuned"]["tokens_per_second"] == 4
    assert content["same_as_base"] == pytest.approx(4 / 40)  # two right in both, the same text in two others
    assert content["warnings"] == []


def test_a_small_difference_names_no_winner() -> None:
    content = build(answers(20), answers(21))
    difference = content["differences"]["base"]
    assert difference["verdict"] == "not separable"
    sentence = content["conclusions"][0]
    assert sentence.startswith("n=40 cannot separate the tuned model from the untuned base:")
    assert f"is about {difference['detectable']:.2g}" in sentence
    assert "better" not in sentence and "worse" not in sentence


def test_p_values_are_corrected_for_the_systems_compared() -> None:
    # Six rows, each won: of the 2^6 arrangements only the one seen and its mirror are as extreme, so p = 2/64 against
    # each of three systems; Holm makes 3 * 2/64 of it, which the level of 5 % does not allow to call a finding.
    content = build(triples(0, 6), triples(6, 6))
    for difference in content["differences"].values():
        assert difference["p_value"] == pytest.approx(2 / 64)
        assert difference["adjusted_p"] == pytest.approx(6 / 64)
        assert difference["verdict"] == "not separable" and difference["low"] == 1
    assert all("cannot separate" in line for line in content["conclusions"])
    lenient = build(triples(0, 6), triples(6, 6), level=0.1)
    assert lenient["differences"]["base"]["verdict"] == "better" and lenient["tests"]["level"] == 0.1


def test_tasks_are_corrected_for_their_number() -> None:
    base = triples(0, 6, "甲") + triples(0, 6, "乙")
    tuned = triples(6, 6, "甲") + triples(6, 6, "乙")
    content = build(base, tuned)
    for facts in content["tasks"].values():
        assert facts["differences"]["base"]["p_value"] == pytest.approx(2 / 64)
        assert facts["differences"]["base"]["adjusted_p"] == pytest.approx(4 / 64)
    assert content["differences"]["base"]["p_value"] == pytest.approx(2 / 4096)  # both tasks together
    assert content["differences"]["base"]["verdict"] == "better"
    last = content["conclusions"][-1]
    assert "p adjusted over 2 tasks" in last and "better:" not in last
    # 2 * 2/64 is no less than 5 %: whatever the answers, no task's difference could have been shown
    assert "not separable: 乙 (n=6: so few rows can show none), 甲 (n=6:" in last
    assert all(facts["differences"]["base"]["detectable"] is None for facts in content["tasks"].values())
    assert "| 1.000 [1.000, 1.000] | +1.000 [+1.000, +1.000] | 0.062 | – | not separable |" in report_text.markdown(
        content, Drawn()
    )


def test_what_a_test_can_show_depends_on_how_many_there_are() -> None:
    tasks = [f"任务{i}" for i in range(3)]
    base = [row for task in tasks for row in triples(10, 40, task)]
    tuned = [row for task in tasks for row in triples(13, 40, task)]
    content = build(base, tuned, permutations=999, resamples=2000)
    for facts in content["tasks"].values():
        difference = facts["differences"]["base"]
        # 3 of 40 rows won: the standard error of their mean is sqrt(3/40 * 37/40 / 40) = 0.0416; the quantile of
        # 1 - 0.05/6 is 2.394, that of 80 % is 0.842
        assert difference["family"] == 3
        assert difference["detectable"] == pytest.approx((2.394 + 0.842) * 0.0416, rel=0.05)
    assert "not separable: 任务0 (n=40: detectable about 0.1" in content["conclusions"][-1]


def test_rows_of_one_document_count_as_one() -> None:
    def documents(rows: list[Prediction]) -> list[Prediction]:
        return [replace(row, group=f"document {i // 3}") for i, row in enumerate(rows)]

    content = build(documents(triples(0, 12)), documents(triples(12, 12)))
    assert content["rows"] == 12 and content["groups"] == 4 == content["tasks"]["triples"]["groups"]
    assert content["differences"]["base"]["p_value"] == pytest.approx(2 / 16)
    assert content["intervals"]["kind"] == "BCa bootstrap of documents"


def test_a_report_can_do_without_trivial_answers_and_without_replies(tmp_path: Path) -> None:
    """Likelihoods are what a model gives; a trivial answer has none."""
    rows = [
        Prediction(f"{i:02d}", "热线", "perplexity", "问", "答复", "", nll=4.0 + i % 3, nll_tokens=4, tokens=1)
        for i in range(20)
    ]
    tuned = [replace(row, nll=(row.nll or 0) - 1) for row in rows]
    systems = {"base": rows, "tuned": tuned}
    content = report.build(
        systems, split="test", chosen=ONE, resamples=300, permutations=300, seed=1, worst_rows=0, level=0.05
    )
    assert set(content["differences"]) == {"base"} == set(content["tasks"]["热线"]["differences"])
    nll = sum(4.0 + i % 3 for i in range(20))
    assert content["generation"]["base"]["nll"] == {"per_token": pytest.approx(nll / 80), "rows": 20}
    assert content["tasks"]["热线"]["value_differences"]["perplexity"]["value"] == pytest.approx(
        np.exp((nll - 20) / 80) - np.exp(nll / 80)
    )
    assert content["generation"]["tuned"]["replies"] == 0 and "stopped" not in content["generation"]["tuned"]
    assert content["same_as_base"] is None and content["lengths"]["rows"] == 0 == len(content["lengths"]["tokens"])
    assert content["warnings"] == [w for w in content["warnings"] if w.startswith("Under 30 rows")]
    assert "| 热线 | 20 | token_probability |" in report_text.markdown(content, Drawn())
    report_text.write(tmp_path, content)
    assert [path.name for path in tmp_path.glob("*.png")] == ["tasks.png"]


def test_differences_are_given_of_values_that_both_systems_have() -> None:
    tuned = [
        Prediction(f"{i}", "闲聊", "chat", "你好", "今天天气很好", "今天很好", nll=3.0, nll_tokens=6, turn=1 + i % 2)
        for i in range(6)
    ]
    base = [replace(row, nll=None, nll_tokens=0) for row in tuned]
    facts = build(base, tuned)["tasks"]["闲聊"]
    assert "perplexity[turn 1]" in facts["values"]["tuned"] and "perplexity" not in facts["values"]["base"]
    assert "perplexity" not in facts["value_differences"] and "rouge_l" in facts["value_differences"]


def test_generation_tells_times_and_ends() -> None:
    rows = [
        replace(row, seconds=float(i + 1), finish_reason="length" if i < 5 else "stop")
        for i, row in enumerate(answers(50, rows=100))
    ]
    facts = build(answers(0, rows=100), rows)["generation"]["tuned"]
    # of 1, 2, ..., 100 s, between the two neighbours as numpy's default does
    assert facts["seconds_p50"] == pytest.approx(50.5) and facts["seconds_p95"] == pytest.approx(95.05)
    assert facts["finish_reasons"] == {"stop": 95, "length": 5} and facts["stopped"] == 0.95


def test_lengths_are_kept_small_and_the_same_each_time() -> None:
    rows = [replace(row, tokens=i) for i, row in enumerate(answers(1500, rows=2500))]
    few = {"resamples": 100, "permutations": 100}
    first, again = (build(answers(0, rows=2500), rows, **few)["lengths"] for _ in range(2))
    assert first == again and first["rows"] == 2500 and len(first["tokens"]) == len(first["score"]) == 2000
    assert all(score == (tokens < 1500) for tokens, score in zip(first["tokens"], first["score"], strict=True))
    assert len(build(answers(0), answers(3))["lengths"]["tokens"]) == 40


def test_worst_rows_come_first_and_tasks_take_turns() -> None:
    base = answers(40) + answers(40, task="KUAKE-QIC")
    tuned = answers(38) + answers(30, task="KUAKE-QIC")
    worst = build(base, tuned)["worst"]
    assert [row["score"] for row in worst] == [0, 0, 0, 0]
    assert [row["task"] for row in worst] == ["CHIP-CTC", "KUAKE-QIC", "CHIP-CTC", "KUAKE-QIC"]
    assert {row["id"] for row in worst if row["task"] == "CHIP-CTC"} == {"038", "039"}


def test_real_answers_to_sixteen_tasks(shared: Path) -> None:
    """Five rows a task, some spoilt: together they tell gold from spoilt, no task does by itself."""
    folder = shared / "data/promptcblue/reference_scores"
    gold, spoilt = (
        [json.loads(line) for line in (folder / f"toy_dev_perturbed_seed7.{side}.jsonl").open(encoding="utf-8")]
        for side in ("gold", "pred")
    )
    base = [
        Prediction(
            id=row["sample_id"],
            task=row["task_dataset"],
            metric="promptcblue",
            prompt=row["input"],
            reference=row["target"],
            prediction=other["target"],
            fields={key: row[key] for key in ("answer_choices", "sample_id", "task_type")},
        )
        for row, other in zip(gold, spoilt, strict=True)
    ]
    content = build(base, [replace(row, prediction=row.reference) for row in base])
    assert len(content["tasks"]) == 16 and content["rows"] == 80
    # five rows: 2 / 2^5 at best, and sixteen tests
    assert all(facts["differences"]["base"]["verdict"] == "not separable" for facts in content["tasks"].values())
    assert content["differences"]["base"]["verdict"] == "better"
    assert json.loads(json.dumps(content, allow_nan=False)) == content
