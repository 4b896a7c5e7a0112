"""Triple extraction: {"instruction", "input", "output"} or {"text", "answer"}; an answer is one
``head_relation_tail`` a line. An empty answer is legal: the text holds no triple.

Source: the data files of liucongg/ChatGLM-Finetuning (both forms) and its prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from tasks.conversation import Row
from tasks.data import columns
from tasks.data.source import DataFile, Entry, SourceConfig, Unusable, entries, single_turn
from tasks.schema import Field

#: The published prompt; its \\n is the two characters backslash and n, as in the files.
INSTRUCTION = (
    '你现在是一个信息抽取模型，请你帮我抽取出关系内容为"性能故障", "部件故障", "组成"和 "检测工具"的相关三元组，'
    '三元组内部用"_"连接，三元组之间用\\n分割。文本：'
)


class Config(SourceConfig):
    """Texts and the triples that they state."""

    source: Literal["triples"] = "triples"
    instruction: str | None = Field(
        None,
        doc="Text in front of every input; null takes the row's own, or the published prompt where it has none.",
    )


def read(file: DataFile, config: Config) -> Iterator[Entry]:
    """One entry a record; an empty answer is kept."""
    return entries(file, lambda record, row_id: (_row(record, row_id, config), ""))


def _row(record: dict[str, Any], row_id: str, config: Config) -> Row:
    own = record.get("instruction")
    instruction = config.instruction if config.instruction is not None else own if isinstance(own, str) else INSTRUCTION
    text, answers = columns.pair({key: value for key, value in record.items() if key != "instruction"}, config)
    if not text.strip():
        raise Unusable("empty prompt", task="triples")
    fields = {"unseen_entities": mark} if isinstance(mark := record.get("unseen_entities"), bool) else {}
    messages = single_turn(instruction + text, answers[0], config.system_prompt)
    return Row(row_id, messages, "triples", "triples", fields)
