"""The pages of a data set: report.md (counts that add up, names that cannot break it) and preview.md."""

from __future__ import annotations

import re
from typing import Any

import pytest
from report_cases import account, split, summary

from tasks.conversation import Message, Row
from tasks.data.reporting.page import page, share, top_labels
from tasks.data.reporting.preview import preview


def cells(text: str, first: str) -> list[str]:
    """The table row whose first cell is that."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    assert len(lines) == 1, lines
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", lines[0])[1:-1]]


def cells_of_any(text: str, first: str) -> int:
    return sum(line.startswith(f"| {first} |") for line in text.splitlines())


def test_page_says_what_was_read_kept_and_dropped() -> None:
    text = page(summary())
    assert "**read 12,345 = kept 12,000 + dropped 345** (rows): 97.2 % kept, 2.8 % dropped." in text
    assert cells(text, "duplicate") == ["duplicate", "300", "2.4 %"]
    assert cells(text, "without duplicates")[:4] == ["without duplicates", "12,000", "−300", "97.2 %"]
    assert cells(text, "dev.json") == ["dev.json", "validation", "gb18030", "1,000", "1,000", "0", ""]
    assert cells(text, "CTC") == ["CTC", "345", "0", "345", "0", "0", "0", "duplicate 300, empty reply 45"]
    assert "| train | 11,000 | 91.7 % | the files named | 11,000 |" in text
    assert "There are no test rows (none)." in text


def test_messages_and_the_rows_made_of_them_are_counted_apart() -> None:
    splits = {"train": split(900, chat=900), "validation": split(100, chat=100), "test": split(0)}
    text = page(summary(records="messages", made=1000, splits=splits, tasks={"chat": summary()["rows"]}))
    assert "The 12,000 messages make 1,000 rows to train on and test: 900 train, 100 validation, 0 test." in text
    assert "| step | messages left |" in text


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"rows": account(12345, 12001, duplicate=300, empty_reply=45)}, "rows: read 12345"),
        ({"files": {"train.json": {"split": "train", **account(12344, 12000, duplicate=344)}}}, "files: read 12344"),
        ({"tasks": {"QIC": account(12345, 12345)}}, "tasks: kept 12345"),
        ({"steps": [{"name": "read", "records": 12345}, {"name": "kept", "records": 12001}]}, "steps: from 12345"),
        ({"steps": [{"name": "read", "records": 1}, {"name": "kept", "records": 2}]}, "a step adds records"),
        ({"made": 11999}, "splits: 12000 rows"),
    ],
)
def test_counts_that_do_not_add_up_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(what)):
        page(summary(**changes))


def test_nothing_dropped_is_said_and_an_empty_file_is_named() -> None:
    whole = account(5, 5)
    files = {"train.json": {"split": "train", **whole}, "empty.json": {"split": "test", **account(0, 0)}}
    splits = {"train": split(5, QIC=5), "validation": split(0), "test": split(0)}
    text = page(summary(rows=whole, made=5, steps=[], files=files, tasks={"QIC": whole}, splits=splits))
    assert "Nothing was dropped: all 5 rows were kept." in text
    assert "- empty.json: holds no rows." in text
    assert "funnel.png" not in text


def test_thousands_of_files_are_summed_but_those_that_lost_most_are_named() -> None:
    files = {f"{i:04}.json": {"split": "train", **account(12, 12)} for i in range(1000)}
    files["0500.json"] = {"split": "train", **account(357, 12, duplicate=345)}
    whole = account(12345, 12000, duplicate=345)
    text = page(summary(files=files, rows=whole, skipped_files={f"{i}.txt": "not JSON" for i in range(101)}))
    assert cells(text, "0500.json")[3:] == ["357", "12", "345", "duplicate 345"]
    assert cells(text, "900 files more (report.json)")[3:6] == ["10,800", "10,800", "0"]
    assert "| 1 file more (report.json) |  |" in text
    assert text.count(".json | train |") == 100


def test_names_cannot_break_the_page() -> None:
    name = "a|b`c\n# d\r<img src=x>\u202e*e*_f_ g_h [i](j)\ud800.json"
    whole = account(12345, 12000, duplicate=345)
    text = page(summary(files={name: {"split": "train", **whole}}, skipped_files={name: "not\n|read|"}))
    shown = r"a\|b\`c # d \<img src=x\> \*e\*\_f\_ g_h \[i\](j) .json"
    assert cells_of_any(text, shown) == 2
    assert r"not \|read\|" in text
    assert all(c == "\n" or c.isprintable() for c in text)
    assert {line.count("|") - line.count("\\|") for line in text.splitlines() if shown in line} == {8, 3}


def test_labels_beyond_fifteen_are_summed() -> None:
    counts = {f"label {i:02}": 100 - i for i in range(20)}  # 100, 99, ... 81: 1,810 in all
    text = page(summary(labels={"QIC": counts}))
    assert "### QIC: 20 labels, 1,810 rows" in text
    assert "| 15 | label 14 | 86 | 4.8 % |" in text
    assert "|  | 5 others | 415 | 22.9 % |" in text  # 85 + 84 + 83 + 82 + 81
    assert "label 15" not in text


def test_a_single_label_is_never_hidden_behind_others() -> None:
    top, others, rest = top_labels({f"{i:02}": 1 for i in range(16)})
    assert (len(top), others, rest) == (16, 0, 0)
    assert top[0] == ("00", 1)  # equally frequent: by text


def test_personal_data_are_counted_by_kind_and_left_alone_ones_are_told_of() -> None:
    on = {"on": True, "key": "ab12", "rows": 7, "hits": {"mobile": 1200, "plate": 1}, "final_scan": "clean"}
    text = page(summary(source="chat_messages", redaction=on))
    assert "1,201 places in 7 rows replaced by pseudonyms (key ab12)." in text
    assert "The final scan of everything written found nothing more." in text
    assert cells(text, "mobile") == ["mobile", "1,200"]
    assert "the model may learn and repeat it" in page(summary(source="chat_messages"))
    assert "the model may learn and repeat it" not in text + page(summary())


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 5, "0 %"), (5, 5, "100 %"), (1, 3, "33.3 %"), (1, 10000, "<0.1 %"), (9999, 10000, ">99.9 %"), (0, 0, "–")],
)
def test_shares_say_none_and_all_only_where_it_is_so(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


# --- preview.md ---------------------------------------------------------------------------------------------------


def dialogue(*messages: Message, task: str = "chat", row_id: str = "a.json#1") -> Row:
    return Row(row_id, messages, task, "chat")


def test_preview_marks_roles_tools_and_what_is_learned() -> None:
    text = preview(
        {
            "train": [
                dialogue(
                    Message("user", "天气？"),
                    Message("assistant", "call()", metadata="get_weather"),
                    Message("observation", "晴"),
                    Message("assistant", "不学", learn=False),
                    Message("assistant", "晴天"),
                )
            ],
            "test": [],
        }
    )
    marks = [line for line in text.splitlines() if line.startswith("**")]
    assert marks == [
        "**user**",
        "**assistant** → get_weather · *learned*",
        "**observation**",
        "**assistant** · not learned",
        "**assistant** · *learned*",
    ]
    assert text.endswith("## test\n\nNo rows.\n")


def test_preview_cuts_long_texts_and_says_how_long_they_are() -> None:
    text = preview({"train": [dialogue(Message("user", "长" * 1234), Message("assistant", "短" * 600))]})
    assert "**user** · the first 600 of 1,234 characters" in text
    assert text.count("长") == 600
    assert "**assistant** · *learned*\n\n```text\n" + "短" * 600 + "\n```" in text


def test_preview_cannot_be_closed_by_its_content() -> None:
    content = "```\n````text\n# not a title\n<script>\x1b[31m\ud800\r\n"
    text = preview({"train": [dialogue(Message("user", content), Message("assistant", "是"))]})
    fence = re.search(r"\*\*user\*\*\n\n(`+)text\n", text)
    assert fence is not None and len(fence[1]) == 5
    inside = text[fence.end() : text.index(f"\n{fence[1]}\n", fence.end())]
    assert inside == "```\n````text\n# not a title\n<script>␛[31m\\u{d800}␍\n"


def test_preview_shows_the_tasks_by_turns_and_a_long_dialogue_in_part() -> None:
    rows = [
        dialogue(Message("user", f"{task}{i}"), Message("assistant", "是"), task=task)
        for task in "ab"
        for i in range(5)
    ]
    text = preview({"train": rows})
    assert re.findall(r"^[ab]\d$", text, re.M) == ["a0", "b0", "a1"]
    turns = [Message("user" if i % 2 == 0 else "assistant", f"turn-{i}") for i in range(30)]
    text = preview({"train": [dialogue(*turns)]})
    assert re.findall(r"^turn-(\d+)$", text, re.M) == ["0", "1", "2", "3", "4", "5", "26", "27", "28", "29"]
    assert "… 20 turns not shown …" in text
