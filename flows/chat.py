"""Talk to a model: the release in service, a server by its address, or any model, checkpoint or adapter folder."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, Literal

from flows import cli
from flows.serve import ServeConfig
from tasks.config import parse_section
from tasks.schema import How
from tasks.serving import chat


class ChatConfig(ServeConfig):
    """Whom to ask, and what."""

    url: str | None = How(None, pattern=r"^https?://", doc="Address of a running server; null: path or the release.")
    prompt: str | None = How(None, min_length=1, doc="Ask this and end; null: a conversation on the terminal.")
    system: str | None = How(None, doc="System message in front of the conversation.")
    max_tokens: int | None = How(None, ge=1, doc="Tokens of a reply; null: the server's limit.")
    temperature: float | None = How(None, ge=0, le=2, doc="null: the server's.")
    output: Literal["text", "json"] = How("text", doc="json: one JSON object with the reply as the last line.")


def run(config: ChatConfig) -> dict[str, Any]:
    options = {k: v for k in ("max_tokens", "temperature") if (v := getattr(config, k)) is not None}
    with chat.connect(
        config.serving, root=config.paths.root, url=config.url, target=config.target(), base=config.base
    ) as client:
        if config.prompt is None:
            chat.talk(client, sys.stdout, system=config.system, **options)
            return {}
        answer = chat.once(client, config.prompt, sys.stdout, system=config.system, **options)
        return {"reply": answer.text, "finish_reason": answer.finish_reason, "tokens": answer.completion_tokens}


if __name__ == "__main__":
    cli.main(
        run,
        verb="chat",
        default="chat",
        folder=cli.CONF / "verbs",
        verbatim=("prompt", "system"),
        schema=partial(parse_section, ChatConfig),
    )
