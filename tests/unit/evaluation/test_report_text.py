"""report.md: its tables, and that no row can break it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation import simulation
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.reporting import report
from tasks.evaluation.reporting import tables as report_tables
from tasks.evaluation.reporting import text as report_text
from tasks.evaluation.reporting.plots import Drawn

POINTS = [
    {"step": 100, "score": 0.5, "low": 0.45, "high": 0.55},
    {"step": 200, "score": 0.6, "low": 0.52, "high": 0.68},
    {"step": 300, "score": 0.58, "low": 0.5, "high": 0.66},
]


def row(
    number: int, prediction: str, reference: str, metric: str = "triples", task: str = "三元组", **more: Any
) -> Prediction:
    return Prediction(f"{number:03d}", task, metric, f"```\n问{number}|", reference, prediction, **more)


def build(before: Sequence[Prediction], after: Sequence[Prediction], **chosen: Any) -> dict[str, Any]:
    return report.build(
        {"base": before, "tuned": after},
        split="test",
        chosen={"step": 200, "why": "best", "by": "score", "validation": [], **chosen},
        resamples=200,
        permutations=200,
        seed=1,
        worst_rows=2,
    )


def text(content: Mapping[str, Any]) -> str:
    return report_text.markdown(content, Drawn())


def test_triples_are_told_apart_by_relation_and_by_kind_of_error() -> None:
    gold = "电机_部件故障_异响\n电机_组成_转子"
    base = [row(i, "", gold) for i in range(4)]
    tuned = [
        row(0, gold, gold),
        row(1, "电机_性能故障_异响\n电机_组成_转子", gold),  # wrong relation
        row(2, "主电机_部件故障_异响\n风扇_组成_叶片", gold),  # wrong span; one spurious, one missing
        row(3, "坏行", gold),  # malformed; two missing
    ]
    shown = text(build(base, tuned))
    assert "| 三元组 | base | 8 | 0 | 0 | 0 | 0 | 0 |" in shown
    assert "| 三元组 | tuned | 3 | 1 | 1 | 1 | 1 | 0 |" in shown
    # 部件故障: 4 in references, 2 answered, 1 hit; F1 2/6. 组成: 4, 3 answered, 2 hits; F1 4/7.
    assert "| 三元组 | f1 | `部件故障` | 4 | 2 | 0.000 [0.000, 0.000] | 0.333 [" in shown
    assert "| 三元组 | f1 | `组成` | 4 | 3 | 0.000 [0.000, 0.000] | 0.571 [" in shown
    assert "f1[" not in shown  # values of labels stand in their own table only


def test_confusion_shows_ten_labels_and_the_rest_together() -> None:
    labels = [f"标{i:02d}" for i in range(12)]
    # label i has 14 - i rows; all answered right, but the most frequent one's last two rows
    base = [
        row(100 * i + k, label, label, "classification", "意图")
        for i, label in enumerate(labels)
        for k in range(14 - i)
    ]
    tuned = [*base[:12], replace(base[12], prediction="标11"), replace(base[13], prediction="a|b"), *base[14:]]
    lines = text(build(base, tuned)).splitlines()
    table = lines[lines.index("## Answers to each label: 意图") :]
    header, first, last = (
        next(line for line in table if line.startswith(f"| {name} ")) for name in ("reference", "`标00`", "(other)")
    )
    assert header == "| reference | " + " | ".join(f"`{label}`" for label in labels[:10]) + " | (other) |"
    assert first == "| `标00` | 12 | " + "0 | " * 9 + "2 |"
    assert last == "| (other) | " + "0 | " * 10 + "7 |"  # 4 rows of 标10, 3 of 标11


def test_text_of_rows_cannot_break_the_report() -> None:
    relation = "a|b`c<img src=x>"
    rows = [row(i, f"```\n头_{relation}_尾", f"头_{relation}_尾") for i in range(3)]
    shown = text(build(rows, rows))
    assert "| `` a\\|b`c<img src=x> `` |" in shown
    assert "````text\n```\n问0|\n````" in shown  # a fence longer than the row's own


def test_values_that_literature_gives_in_percent_are_shown_times_100() -> None:
    replies = [row(i, "甲乙", "甲乙", "generation", "摘要") for i in range(20)]
    wrong = [replace(p, prediction="丙") for p in replies]
    shown = text(build(wrong, replies))
    assert "| rouge_l ×100 | 0.0 [0.0, 0.0] | 100.0 [100.0, 100.0] | +100.0 [+100.0, +100.0] |" in shown
    assert "| **score** | 20 | mean | 0.000 [0.000, 0.000] | 1.000 [1.000, 1.000] |" in shown


def test_checkpoints_are_shown_with_what_chose_them_and_how_surely() -> None:
    rows = [row(i, "甲_乙_丙", "甲_乙_丙") for i in range(3)]
    shown = text(build(rows, rows, by="三元组.f1", validation=POINTS))
    assert "Chosen by `三元组.f1` (higher is better). Its value lies within the interval of 1 of the 2 others" in shown
    assert "| step | 三元组.f1 |\n|---|---|\n| 100 | 0.500 [0.450, 0.550] |" in shown
    assert "| 200 (chosen) | 0.600 [0.520, 0.680] |" in shown
    apart = [{**POINTS[0]}, POINTS[1]]
    assert "outside every other checkpoint's interval" in text(build(rows, rows, validation=apart))
    assert "(lower is better)" in text(build(rows, rows, by="闲聊.perplexity", validation=POINTS))
    assert "Checkpoints on validation" not in text(build(rows, rows))
    last = text(build(rows, rows, why="the last one: there are no validation rows"))
    assert "Checkpoint: step 200 (the last one: there are no validation rows)." in last


def test_the_coverage_of_such_intervals_is_stated() -> None:
    rows = [row(i, "甲_乙_丙", "甲_乙_丙") for i in range(3)]
    shown = text(build(rows, rows))
    lowest = min(share for what, _, _, share in simulation.RESULTS if what.startswith("coverage"))
    assert f"95% intervals held the truth in {lowest:.1%} to" in shown


def test_worst_rows_show_how_the_reply_ended() -> None:
    rows = [row(i, "甲_乙_丙", "甲_乙_丙") for i in range(3)]
    cut = [replace(rows[0], prediction="甲_乙_", finish_reason="length", tokens=9), *rows[1:]]
    shown = text(build(rows, cut))
    assert "### 三元组 · 000 · 0.000 (base 1.000)\n\nCut at the limit, 9 tokens.\n\nprompt:" in shown
    assert "gold:\n\n```text\n甲_乙_丙\n```" in shown and "prediction:\n\n```text\n甲_乙_\n```" in shown


def test_rows_without_replies_are_shown_as_such() -> None:
    tuned = [row(i, "", "答", "perplexity", "热线", nll=0.5 + i, nll_tokens=1) for i in range(3)]
    base = [replace(p, nll=2 * (p.nll or 0)) for p in tuned]
    shown = text(build(base, tuned))
    # nats a token: (0.5 + 1.5 + 2.5) / 3 of the tuned model; nothing is said of replies
    assert "| system | prompts cut | nats a reference token |" in shown and "| tuned | 0.0% | 1.500 |" in shown
    # exp(-2.5), exp(-5)
    assert "### 热线 · 002 · 0.082 (base 0.007)\n\nNot replied to: the score is the probability" in shown
    assert "gold:" in shown and "prediction:" not in shown
    replies = [row(9, "", "甲_乙_丙"), row(10, "甲_乙_丙", "甲_乙_丙")]
    shown = text(build(base + replies, tuned + replies))
    assert "| system | prompts cut | replies | stopped by itself | empty | finish reasons |" in shown
    assert "| tuned | 0.0% | 2 | 100.0% | 50.0% | stop 2 |" in shown


def test_what_is_not_tested_is_said_once() -> None:
    rows = [row(i, "甲_乙_丙", "甲_乙_丙") for i in range(3)]
    assert text(build(rows, rows)).count("have intervals only and are not tested") == 1


def test_only_plots_that_were_drawn_are_linked(tmp_path: Path) -> None:
    content = build([row(i, "", "甲_乙_丙") for i in range(3)], [row(i, "甲_乙_丙", "甲_乙_丙") for i in range(3)])
    report_text.write(tmp_path, content)
    shown = (tmp_path / "report.md").read_text(encoding="utf-8")
    plots = {path.name for path in tmp_path.glob("*.png")}
    assert plots == {"tasks.png", "breakdown.png"}
    assert {name for name in ("tasks", "checkpoints", "breakdown", "lengths") if f"({name}.png)" in shown} == {
        "tasks",
        "breakdown",
    }
    assert "](" not in text(content)  # of a report without plots


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("部件故障", "`部件故障`"),
        ("", "`(empty)`"),
        ("a\nb", "`a b`"),
        ("a`b", "`` a`b ``"),
        ("长" * 50, "`" + "长" * 39 + "…`"),
    ],
)
def test_foreign_text_is_code_on_one_line(given: str, shown: str) -> None:
    assert report_tables.code(given) == shown
