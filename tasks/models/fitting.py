"""Rows made ready for training: rendered for one model, cut to their limits, and checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import compress, groupby
from pathlib import Path
from typing import Any

from tasks.conversation import Message, Row
from tasks.errors import DataError, ModelError
from tasks.models import families
from tasks.models.rendering import Rendered, Renderer

#: Refused rows that are named; all are counted.
_NAMED = 3


class Tokeniser:
    """Renders the rows of a data set for one model, and checks what came out.

    Attributes:
        layout: one line on the layout that is used.
        thoughts: rows so far whose reply holds thoughts although the layout's prompts close them at once.
        refused: what the model's chat template said of the first rows that it does not take.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        from tasks.models.loading import load_tokenizer

        model = Path(values["model"])
        given = values.get("layout")
        layout = families.Layout.from_json(given) if given else families.layout(model)
        self.tokenizer = load_tokenizer(model)
        self.renderer = layout.renderer(self.tokenizer)
        self._limits = (int(values["max_prompt_tokens"]), int(values["max_reply_tokens"]))
        self._official = _official(layout, values.get("labels", "assistant"))
        self._vocabulary = vocabulary(model)
        assumed = getattr(layout.module, "assumed", None) if layout.template is None else None
        self.layout = assumed(self.tokenizer) if assumed else f"layout: {layout.template or layout.family}"
        prompt = self.renderer.prompt_ids([Message("user", "a")])
        self._closes_thoughts = "</think>" in str(self.tokenizer.decode(prompt))
        self.thoughts = 0
        self.refused: list[str] = []

    def rows(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Rendered, str]]:
        """Each row with its tokens and what was wrong with it, if anything."""
        for row in rows:
            self.thoughts += self._closes_thoughts and row.reference.lstrip().startswith("<think>")
            if self._official is not None:
                row = replace(row, messages=tuple(self._official(row.messages)))
            try:
                yield row, *fit(self.renderer, row, *self._limits)
            except DataError as error:
                raise DataError(f"row {row.id}: {error}") from error
            except ModelError as error:  # some templates take only some orders of roles
                self.refused = first_refused([*self.refused, f"row {row.id} is left out: {error}"])
                yield row, Rendered([], []), "refused by the model's chat template"

    def check(self, row: Row, rendered: Rendered) -> None:
        """What must hold for every row that is trained on.

        Raises:
            ModelError: it does not; names the row.
        """
        top = max(rendered.ids)
        if top >= self._vocabulary:
            raise ModelError(
                f"row {row.id}: token id {top}, but the model knows {self._vocabulary} (config.json, vocab_size); "
                "the tokenizer is another model's"
            )
        problem = uncovered(self.renderer, row.messages, rendered)
        if problem:
            raise ModelError(f"row {row.id}: {problem}; the layout does not fit the tokenizer: try model.template")


def told(layout: str, thoughts: int) -> str:
    """One line on the layout that is used, and on rows that it does not suit."""
    if not thoughts:
        return layout
    return (
        f"{layout}; {thoughts} replies hold thoughts (<think>), but this layout's prompts close them "
        "at once, so that the model is never asked to think: set model.template=chatml to leave them open"
    )


def first_refused(lines: Sequence[str]) -> list[str]:
    """As many as are named."""
    return list(lines[:_NAMED])


def fit(renderer: Renderer, row: Row, max_prompt: int, max_reply: int) -> tuple[Rendered, str]:
    """Render a row within its limits; the second value says what was too long, or is empty."""
    problem = ""
    messages = list(row.messages)
    rendered = renderer.dialogue(messages)
    if len(rendered.ids) <= min(max_prompt, max_reply):
        return rendered, "" if any(rendered.learn) else "no token to learn"
    prompt = _prompt_tokens(renderer, messages, rendered)
    if prompt > max_prompt:
        problem = "prompt over tokenization.max_prompt_tokens"
        messages = [*renderer.fit_prompt(row.prompt, max_prompt), row.messages[-1]]
        rendered = renderer.dialogue(messages)
        prompt = _prompt_tokens(renderer, messages, rendered)
        if prompt > max_prompt:
            return Rendered([], []), "prompt cannot be cut to tokenization.max_prompt_tokens"
    limit = prompt + max_reply
    if len(rendered.ids) > limit:
        lost = any(rendered.learn[limit:])  # a template may write more after the end token, which is never learned
        problem = problem or ("reply over tokenization.max_reply_tokens" if lost else "")
        rendered = Rendered(rendered.ids[:limit], rendered.learn[:limit], cut=lost)
    if not any(rendered.learn):
        problem = "no token to learn"
    return rendered, problem


def _prompt_tokens(renderer: Renderer, messages: Sequence[Message], rendered: Rendered) -> int:
    """How many tokens stand before the last reply: where the last run of learned tokens starts, as a rule."""
    if messages[-1].learned and not (len(messages) > 1 and messages[-2].learned) and any(rendered.learn):
        end = len(rendered.learn) - 1 - rendered.learn[::-1].index(True)
        reversed_start = rendered.learn[end::-1]
        return end + 1 - (reversed_start.index(False) if False in reversed_start else end + 1)
    return len(renderer.prompt_ids(messages[:-1]))


def uncovered(renderer: Renderer, messages: Sequence[Message], rendered: Rendered) -> str:
    """What is wrong with a row's targets: each learned reply must be there and end with a learned end token."""
    ids, learn = rendered.ids, rendered.learn
    learned = list(compress(ids, learn))
    if not learned:
        return "no token is learned"
    ends = sum(map(renderer.ends.__contains__, learned))
    last = learned[-1] in renderer.ends
    if not last and not rendered.cut:
        return "the token that ends its last reply is not learned"
    # neighbours count as one: where roles must take turns they are joined
    replies = sum(kind == ("assistant", True) for kind, _ in groupby(messages, lambda m: (m.role, m.learned)))
    # turns that did not fit are gone: only of an untouched row is the number known
    whole = not rendered.cut and renderer.learns_history
    if whole and ends < replies and len(renderer.dialogue(messages).ids) == len(ids):
        return f"{replies} replies are to be learned, {ends} end tokens are"
    return ""


def vocabulary(model: Path) -> int:
    """How many token ids the model in a folder knows."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    if not isinstance(size, int):
        raise ModelError(f"{model / 'config.json'}: no vocab_size")
    return size


def _official(layout: families.Layout, labels: str) -> Any:
    """How messages are marked for ``labels=official``; None for the usual labels."""
    if labels != "official":
        return None
    official = getattr(layout.module, "official", None)
    if official is None or layout.template is not None:
        used = f"model.template={layout.template}" if layout.template else f"this model's family is {layout.family}"
        raise ModelError(
            f"tokenization.labels=official: only for ChatGLM3's own layout, whose official code it follows; {used}; "
            "use tokenization.labels=assistant"
        )
    return official
