"""OpenAI's and ZhipuAI's fine-tuning files: {"messages": [{"role", "content"}]}, with ``tools`` and tool calls; also
{"conversation": [...]} with the roles of other data sets, patient and doctor for instance.

``weight`` 0 or 1 (OpenAI) or a boolean ``loss`` says whether a reply is learned.

Source: the formats as the two services document them; FudanDISC/DISC-MedLLM for conversation.
"""

from __future__ import annotations

from typing import Any, Literal

from tasks.conversation import Message, Role, Row
from tasks.data import dialogue
from tasks.data.source import Claim, Draft, SourceConfig, Unusable
from tasks.schema import Field

_ALIASES: dict[Role, str] = {
    "system": "system developer",
    "user": "user human patient client customer",
    "assistant": "assistant gpt bot chatbot doctor model",
    "observation": "observation tool function",
}
ROLES: dict[str, Role] = {alias: role for role, aliases in _ALIASES.items() for alias in aliases.split()}
_KEYS = ("messages", "conversation")


class Config(SourceConfig):
    """Dialogues of one or several turns; in validation and test the last reply is predicted."""

    source: Literal["messages"] = "messages"
    task: str = Field("messages", min_length=1, doc="Name of the task in reports.")
    metric: Literal["generation", "chat"] = Field("generation", doc="Metric module that scores the replies.")


def convert(record: dict[str, Any], row_id: str, config: Config) -> Draft:
    """The messages of ``messages`` or ``conversation``, behind the offer of ``tools``."""
    key = next((key for key in _KEYS if key in record), _KEYS[0])
    listed = dialogue.turns(record, key, config.task)
    messages = [message for turn in listed for message in _messages(turn, config.task)]
    if record.get("tools"):
        messages.insert(0, dialogue.tools_message(dialogue.flat_tools(record["tools"])))
    return Draft(Row(row_id, tuple(messages), config.task, config.metric))


def recognise(record: dict[str, Any]) -> Claim | None:
    """messages or conversation of role and content."""
    return dialogue.claim(record, "messages", ("role", "content"), 7) or dialogue.claim(
        record, "conversation", ("role", "content"), 6
    )


def _messages(turn: dict[str, Any], task: str) -> list[Message]:
    role = ROLES.get(turn["role"].lower()) if isinstance(turn.get("role"), str) else None
    if role is None:
        raise Unusable("unknown role", detail=f"allowed: {', '.join(ROLES)}", task=task)
    learn = dialogue.learning(turn, task)
    calls = _calls(turn, learn, task)
    content = turn.get("content")
    if isinstance(content, list):
        content = _joined(content)
    if content is None and calls:
        return calls
    text = dialogue.content(content, task)
    return [*([Message(role, text, learn)] if text or not calls else []), *calls]


def _calls(turn: dict[str, Any], learn: bool | None, task: str) -> list[Message]:
    """Calls of tools: ``tool_calls``, or the single ``function_call`` of older files."""
    listed = turn.get("tool_calls") or []
    if not isinstance(listed, list):
        raise Unusable("tool_calls is not a list", task=task)
    functions = [call.get("function") if isinstance(call, dict) else None for call in listed]
    if turn.get("function_call"):
        functions.append(turn["function_call"])
    return [dialogue.named_call(function, learn, task) for function in functions]


def _joined(parts: list[Any]) -> str | None:
    """The text of a content given in parts; None where a part is something else, a picture for instance."""
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None
