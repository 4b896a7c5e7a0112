"""Rows made ready for training: cut to their limits, checked, counted; ChatGLM3's tools and official labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from test_rendering import CONTROL, GOLDEN

from tasks.conversation import Message, Row
from tasks.data.processing import ROW_SCHEMA, row_columns
from tasks.data.sources import conversations
from tasks.errors import ModelError
from tasks.models import families, tokenizing
from tasks.models.families import chatglm3
from tasks.models.fitting import Tokeniser, fit, uncovered
from tasks.models.rendering import Rendered, Renderer
from tasks.models.tokens import TokenRows
from tasks.worker import Job

LIMITS = {"max_prompt_tokens": 40, "max_reply_tokens": 8, "overlong": "truncate", "labels": "assistant"}


class StubTokenizer:
    """The golden vectors' tokenizer: a dummy prefix, then a number for each character."""

    eos_token_id = 2

    def encode(self, text: str, **_: Any) -> list[int]:
        return [30910, *(100000 + ord(c) for c in text)]

    def convert_tokens_to_ids(self, token: str) -> int:
        return CONTROL[token]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return chatglm3.renderer(StubTokenizer())


def row(*texts: str, learn: Sequence[bool | None] = ()) -> Row:
    """User and assistant in turn."""
    flags = [*learn, *[None] * (len(texts) - len(learn))]
    roles = ("user", "assistant") * len(texts)
    messages = tuple(Message(r, t, f) for r, t, f in zip(roles, texts, flags, strict=False))  # type: ignore[arg-type]
    return Row("r1", messages, "t", "generation")


def labels(rendered: Rendered) -> list[int]:
    return [i if learn else -100 for i, learn in zip(rendered.ids, rendered.learn, strict=True)]


def characters(ids: Sequence[int]) -> str:
    return "".join(chr(i - 100000) for i in ids if i >= 100000)


def test_tools_and_observations_are_those_of_the_official_code_for_tools(renderer: Renderer) -> None:
    group = json.loads(GOLDEN.read_text(encoding="utf-8"))["preprocess_utils_94c30e9"]
    for case in group.values():
        if "tokens" not in case:
            continue
        draft = conversations.convert(case["item"], "r1", conversations.Config())
        rendered = renderer.dialogue(draft.row.messages)
        assert rendered.ids == case["tokens"]
        assert labels(rendered) == case["labels"]


def test_official_labels_learn_observations_and_the_token_after_them(renderer: Renderer) -> None:
    turns = (("user", "a"), ("assistant", "b"), ("observation", "c"), ("assistant", "d"))
    messages = [Message(role, text) for role, text in turns]  # type: ignore[arg-type]
    body = [30910, 100010, 30910]
    expected = [-100] * 2 + [-100] * 5 + [-100, *body, 100098] + [64797, *body, 100099] + [64796, *body, 100100] + [2]
    assert labels(renderer.dialogue(chatglm3.official(messages))) == expected
    silent = [Message("observation", "c", learn=False)]
    assert chatglm3.official(silent) == silent  # what a row says itself goes before


def test_official_labels_are_refused_for_other_layouts(tiny_base: Path) -> None:
    values = {**LIMITS, "model": str(tiny_base), "labels": "official"}
    Tokeniser(values)
    for layout, named in (
        ({"family": "generic", "template": None}, "family is generic"),
        ({"family": "chatglm3", "template": "belle"}, "model.template=belle"),
    ):
        with pytest.raises(ModelError, match=f"labels=official.*{named}.*labels=assistant"):
            Tokeniser({**values, "layout": layout})


def test_oldest_turns_go_before_any_text_is_cut(renderer: Renderer) -> None:
    whole = renderer.prompt_ids(row("旧" * 10, "答", "新" * 9).messages)
    rendered, problem = fit(renderer, row("旧" * 10, "答", "新" * 9, "好"), len(whole) - 1, 20)
    assert problem == "prompt over tokenization.max_prompt_tokens"
    assert characters(rendered.ids).replace("\n", "") == "新" * 9 + "好"
    assert not rendered.cut and rendered.learn[-1]


def test_a_long_reply_is_cut_at_its_end_and_its_end_token_is_not_learned(renderer: Renderer) -> None:
    rendered, problem = fit(renderer, row("问", "答" * 30), 20, 10)
    assert problem == "reply over tokenization.max_reply_tokens" and rendered.cut
    assert sum(rendered.learn) == 10 and 2 not in rendered.ids
    assert uncovered(renderer, row("问", "答" * 30).messages, rendered) == ""


def test_a_limit_below_the_layouts_own_words_drops_the_row(renderer: Renderer) -> None:
    rendered, problem = fit(renderer, row("问" * 9, "答"), 5, 10)
    assert problem == "prompt cannot be cut to tokenization.max_prompt_tokens" and not any(rendered.learn)


def test_nothing_to_learn_is_a_problem(renderer: Renderer) -> None:
    rendered, problem = fit(renderer, row("问", "答", learn=(None, False)), 90, 90)
    assert problem == "no token to learn" and not any(rendered.learn)


def test_each_turn_is_learned_as_it_says(renderer: Renderer) -> None:
    rendered, problem = fit(renderer, row("a", "bb", "c", "dd", "e", "ff", learn=(None, None, None, False)), 90, 90)
    learned = [i for i, learn in zip(rendered.ids, rendered.learn, strict=True) if learn]
    assert problem == ""
    assert characters(learned) == "\nbb\nff" and learned[-1] == 2 and learned.count(64795) == 1


@pytest.mark.parametrize("texts", [("问", "答"), ("问" * 30, "答" * 12), ("一", "二" * 9, "三" * 20, "四" * 9)])
@pytest.mark.parametrize(("prompt", "reply"), [(14, 6), (22, 9), (40, 40)])
def test_the_prompt_of_training_is_that_of_evaluation(
    renderer: Renderer, texts: tuple[str, ...], prompt: int, reply: int
) -> None:
    rendered, _ = fit(renderer, row(*texts), prompt, reply)
    asked = renderer.prompt_ids(row(*texts).prompt, prompt)
    assert rendered.ids[: len(asked)] == asked and len(asked) <= prompt
    assert 0 < len(rendered.ids) - len(asked) <= reply


def test_consecutive_replies_count_for_the_last_ones_prompt(renderer: Renderer) -> None:
    messages = (Message("user", "a"), Message("assistant", "b" * 9), Message("assistant", "c" * 9))
    rendered, problem = fit(renderer, Row("r1", messages, "t", "generation"), 90, 8)
    assert problem and len(rendered.ids) == len(renderer.prompt_ids(messages[:-1])) + 8


def test_missing_targets_are_noticed(renderer: Renderer) -> None:
    turns = row("a", "b", "c", "d").messages
    whole = renderer.dialogue(turns)
    assert uncovered(renderer, turns, whole) == ""
    unended = Rendered(whole.ids, [*whole.learn[:-1], False])
    assert "ends its last reply" in uncovered(renderer, turns, unended)
    first = whole.learn.index(True)
    half = Rendered(whole.ids, [learn and i > first + 6 for i, learn in enumerate(whole.learn)])
    assert "2 replies are to be learned, 1 end tokens are" in uncovered(renderer, turns, half)


# --- the worker, on a tiny model whose tokenizer knows the characters ---------------------------------------------


def tokenise(folder: Path, base: Path, rows: Sequence[Row], **values: Any) -> dict[str, Any]:
    data = folder / "data"
    data.mkdir(parents=True)
    columns = [*row_columns(list(rows)), pa.array(["t.json"] * len(rows)), pa.array(range(len(rows)), pa.int32())]
    parquet.write_table(pa.Table.from_arrays(columns, schema=ROW_SCHEMA), data / "train.parquet")
    job = {**LIMITS, "dataset": str(data), "model": str(base), **values}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    return dict(tokenizing.run(Job(folder)))


def test_the_worker_counts_what_it_cuts_and_drops(tiny_base: Path, tmp_path: Path) -> None:
    rows = [
        row("问", "治疗"),
        row("问" * 60, "治疗"),
        row("问", "治疗" * 9),
        row("问", "治疗", learn=(None, False)),
    ]
    facts = tokenise(tmp_path, tiny_base, rows)
    assert facts["rows"] == {"train": 3, "validation": 0}
    assert facts["truncated"] == 2 and facts["dropped"] == {"no token to learn": 1}
    assert facts["tokens"]["train_replies_cut"] == 1
    reasons = ("prompt over tokenization.max_prompt_tokens", "reply over tokenization.max_reply_tokens")
    assert facts["truncated_by"] == dict.fromkeys(reasons, 1)
    made = TokenRows(tmp_path, "train")
    assert made.lengths.sum() == facts["tokens"]["train"]
    assert sum(int(made.row(i)[1].sum()) for i in range(3)) == facts["tokens"]["train_learned"]
    # [gMASK] sop <|user|> \n 问 <|assistant|> | \n 治 疗 </s>
    assert made.row(0)[1].tolist() == [0] * 6 + [1] * 4
    # the second row's prompt is cut to 40 tokens; the third has the prompt of 6 and a reply cut to 8
    assert made.lengths.tolist() == [10, 40 + 4, 6 + 8] and facts["longest"] == 44
    assert facts["lengths"] == {"train": {"mean": 22.7, "p50": 14, "p95": 44, "p99": 44}, "validation": {}}


def test_overlong_rows_are_dropped_where_asked(tiny_base: Path, tmp_path: Path) -> None:
    facts = tokenise(tmp_path, tiny_base, [row("问", "治疗"), row("问" * 60, "治疗")], overlong="drop")
    assert facts["rows"]["train"] == 1 and facts["dropped"] == {"prompt over tokenization.max_prompt_tokens": 1}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_token_that_the_model_does_not_know_is_an_error_of_its_row(
    processes: int, tiny_base: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for file in tiny_base.iterdir():
        if file.suffix == ".json":
            (small / file.name).write_bytes(file.read_bytes())
    config = json.loads((small / "config.json").read_text(encoding="utf-8"))
    (small / "config.json").write_text(json.dumps({**config, "vocab_size": 100}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"row r1: token id \d+, but the model knows 100 .*vocab_size"):
        tokenise(tmp_path / "job", small, [row("问", "治疗")], processes=processes)


def test_the_layout_of_the_job_goes_before_the_folders(tiny_base: Path, tmp_path: Path) -> None:
    layout = families.Layout("chatglm3", "plain").to_json()
    facts = tokenise(tmp_path, tiny_base, [row("问", "治疗")], layout=layout)
    assert facts["tokens"]["train"] == 2 + 3  # 问 \n | 治 疗 </s>


def test_rows_that_a_chat_template_refuses_are_dropped_and_counted(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for file in tiny_base.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    template = "{%- if messages[0].role == 'assistant' -%}{{- raise_exception('no') -}}{%- endif -%}"
    template += "{%- for m in messages -%}{{- m.content + '</s>' -}}{%- endfor -%}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    opened = Row(
        "r2", (Message("assistant", "治"), Message("user", "问"), Message("assistant", "疗")), "t", "generation"
    )
    layout = families.Layout("generic").to_json()
    facts = tokenise(tmp_path / "job", folder, [row("问", "治疗"), opened], layout=layout)
    assert facts["rows"]["train"] == 1 and facts["dropped"] == {"refused by the model's chat template": 1}
