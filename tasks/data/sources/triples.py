"""Triple extraction: {"instruction", "input", "output"} or {"text", "answer"}; an answer is one
``head_relation_tail`` a line. An empty answer is legal: the text holds no triple.

Source: the data files of liucongg/ChatGLM-Finetuning (both forms) and its prompt.
"""

from __future__ import annotations

from typing import Any, Literal

from tasks.conversation import Row
from tasks.data import columns
from tasks.data.source import Claim, Draft, SourceConfig, Unusable, single_turn
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


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """The instruction and the text as the prompt; the reply may be empty."""
    own = record.get("instruction")
    instruction = config.instruction if config.instruction is not None else own if isinstance(own, str) else INSTRUCTION
    try:
        text, answers = columns.pair({key: value for key, value in record.items() if key != "instruction"}, config)
    except Unusable as error:
        raise Unusable(error.reason, detail=error.detail, task="triples") from error
    if not text.strip():
        raise Unusable("empty prompt", task="triples")
    fields = {"unseen_entities": mark} if isinstance(mark := record.get("unseen_entities"), bool) else {}
    row = Row(row_id, single_turn(instruction + text, answers[0]), "triples", "triples", fields)
    return Draft(row, empty_reply=True)


def recognise(record: dict[str, Any]) -> Claim | None:
    """One of the two forms, its answer made of lines with two underscores each."""
    for names in (("instruction", "input", "output"), ("text", "answer")):
        answer = record.get(names[-1])
        if all(isinstance(record.get(name), str) for name in names) and _are_triples(str(answer)):
            return Claim(8, f"{', '.join(names[:-1])} and {names[-1]}, this made of triples")
    return None


def _are_triples(answer: str) -> bool:
    return all(line.count("_") == 2 for line in answer.splitlines()) and bool(answer)
