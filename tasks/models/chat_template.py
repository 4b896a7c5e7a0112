"""The layout that a tokenizer's own chat template writes, with a message's text never taken for the template's words.

The template is rendered with a mark in place of each text; what stands between the marks is the template's own and may
hold control tokens, the texts may not. Where a text has what templates change (white space at its ends, tags), it is
rendered as it is too, and the change is read off: ids are those of ``apply_chat_template``.

A dialogue that the template refuses is tried in other forms (``_FORMS``). A prompt is what stands before a reply in
training, whatever the template would add for generation instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from tasks.conversation import Message
from tasks.errors import ModelError
from tasks.models import spelling, templates
from tasks.models.rendering import Renderer, stop_ids
from tasks.models.spelling import Piece, Span

_MARK = "\u2063{}\u2063"  # an invisible separator around the part's name: no template contains it
_MARKS = re.compile("\u2063(\\d+[tr])\u2063")  # the message's number; t: its thoughts, r: all else of its text
#: A reply that begins with thoughts. Templates look for these tags, so they must see them.
#: White space after them is the text's: it is still there where a template drops the thoughts.
_THOUGHTS = re.compile(r"(<think>\s*)(.*?)(\s*</think>)(.*)", re.DOTALL)
#: The opening tag and the spaces that a template writes in front of a reply.
_OPEN_THOUGHTS = re.compile(r" *<think>\s*\Z")
_PATTERNS = 2000


@dataclass(frozen=True)
class _Skeleton:
    """What the template makes of one pattern of roles.

    Attributes:
        form: how the messages are arranged for the template.
        segments: words of the template and names of parts in turn, words first and last.
        exact: ordinary texts are written as they are.
    """

    form: Callable[[Sequence[Message]], list[Message]]
    segments: tuple[str, ...]
    exact: bool


def renderer(tokenizer: Any, *, default: str, stops: Sequence[str] = ()) -> Renderer:
    """The renderer of a tokenizer's own chat template; of the named template ``default`` where it has none.

    Args:
        stops: further tokens that end a reply, where the tokenizer has them.
    """
    if not getattr(tokenizer, "chat_template", None):
        return templates.named(tokenizer, default, stops)
    own = ChatTemplate(tokenizer)
    ends = stop_ids(tokenizer, [own.end, *stops])
    return Renderer(tokenizer, own.layout, ends, lead=own.lead or "\n", trail=own.trail)


class ChatTemplate:
    """A tokenizer's chat template.

    Attributes:
        end: the control token with which it ends a reply; the end of sequence where it writes none.
        lead: spaces that it writes in front of a reply; trail: white space behind it.
        keeps_thoughts: whether it writes the thoughts of a last reply.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._speller = spelling.of(tokenizer)
        self._known: dict[tuple[Any, ...], _Skeleton] = {}
        head, tail = self._around_reply()
        found = self._speller.control_pattern.search(tail)
        self._writes_end = found is not None
        self.end = found[0] if found else str(tokenizer.eos_token or "")
        if not self.end:
            raise ModelError(f"{tokenizer.name_or_path}: neither its chat template nor its tokenizer ends a reply")
        self.lead = templates.trailing_spaces(head)[1]
        words = tail[: found.start()] if found else ""
        self.trail = "" if words.strip() else words

    @property
    def keeps_thoughts(self) -> bool:
        turns = [Message("user", "a"), Message("assistant", "<think>\nb\n</think>\n\nc")]
        return "1t" in self._skeleton(turns).segments

    def _around_reply(self) -> tuple[str, str]:
        segments = self._skeleton([Message("user", "a"), Message("assistant", "b")]).segments
        return segments[-3], segments[-1]

    def layout(self, tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
        messages = [replace(m, content=_text(m), metadata="") for m in messages]
        whole = [*messages, Message("assistant", "")] if generate else messages
        return self._speller.pieces(self._spans(whole, generate))

    def _spans(self, messages: Sequence[Message], generate: bool) -> Iterator[Span]:
        skeleton = self._skeleton(messages)
        turns = skeleton.form(messages)
        texts = self._texts(skeleton, turns)
        segments = skeleton.segments
        before: int | None = None  # the message whose part stands before the words
        for place in range(0, len(segments), 2):
            words, name = segments[place], segments[place + 1] if place + 1 < len(segments) else None
            number = _number(name)
            if number is not None and number == before:  # between a reply's thoughts and its text
                yield Span(words, own=True, learned=turns[number].learned)
            else:
                if before is not None:
                    words = yield from self._ended(turns[before], words)
                opening = ""
                if number is not None and turns[number].role == "assistant":
                    words, opening = self._opening(words, str(name))
                yield Span(words, own=True)
                if number is None or (generate and number == len(turns) - 1):
                    return
                yield Span(opening, True, turns[number].learned, starts_reply=turns[number].role == "assistant")
            assert number is not None and name is not None
            yield Span(texts[name], learned=turns[number].learned, starts_reply=False)
            before = number

    def _ended(self, message: Message, words: str) -> Generator[Span, None, str]:
        """The token that ends a message is learned with it; returns the words that are left."""
        if not self._writes_end and message.role == "assistant":
            yield Span(self.end, own=True, learned=message.learned)
        elif message.learned and self.end in words:
            cut = words.index(self.end) + len(self.end)
            yield Span(words[:cut], own=True, learned=True)
            return words[cut:]
        return words

    def _opening(self, words: str, name: str) -> tuple[str, str]:
        """Words before a reply, and the end of them that belongs to the reply: spaces, or the tag of its thoughts."""
        tag = _OPEN_THOUGHTS.search(words) if name.endswith("t") else None
        return (words[: tag.start()], tag[0]) if tag else templates.trailing_spaces(words)

    def _texts(self, skeleton: _Skeleton, turns: Sequence[Message]) -> dict[str, str]:
        """The parts' texts as the template writes them."""
        texts = {name: text for i, turn in enumerate(turns) for name, text in _parts(i, turn)}
        if skeleton.exact and all(text and text == text.strip() and "<" not in text for text in texts.values()):
            return texts
        try:
            rendered = self._render([m.content for m in turns], turns)
        except Exception:  # the same roles were fine: it dislikes a text, which is then written as it is
            return texts
        return _aligned(rendered, skeleton.segments, texts)

    def _skeleton(self, messages: Sequence[Message]) -> _Skeleton:
        key = tuple((m.role, m.learned, *_tags(m)) for m in messages)  # all that a form looks at
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _PATTERNS:
                self._known.clear()
            found = self._known[key] = self._make(messages)
        return found

    def _make(self, messages: Sequence[Message]) -> _Skeleton:
        problem = ""
        for form in _FORMS:
            turns = form(messages)
            try:
                segments = tuple(_MARKS.split(self._render([_marked(i, m) for i, m in enumerate(turns)], turns)))
                if _in_order(segments[1::2], turns):
                    return _Skeleton(form, segments, self._is_exact(segments, turns))
            except Exception as error:  # templates raise what they like
                problem = problem or f"refuses a dialogue of {[m.role for m in messages]}: {error}"
                continue
            problem = problem or f"drops, repeats or reorders messages of {[m.role for m in messages]}"
        raise ModelError(
            f"{self._tokenizer.name_or_path}: its chat template {problem.strip()}; use model.template to name another"
        )

    def _is_exact(self, segments: tuple[str, ...], turns: Sequence[Message]) -> bool:
        """Whether ordinary texts stand in the template's text as they are."""
        plain = {name: f"Ein Text, 文 {name}.\nEnd" for name in segments[1::2]}
        contents = ["".join(plain.get(name, "x") for name, _ in _parts(i, m)) for i, m in enumerate(turns)]
        if any(_tags(m) for m in turns):
            return False
        written = "".join(plain[s] if i % 2 else s for i, s in enumerate(segments))
        return written == self._render(contents, turns)

    def _render(self, contents: Sequence[str], turns: Sequence[Message]) -> str:
        named = [{"role": _ROLES.get(m.role, m.role), "content": c} for m, c in zip(turns, contents, strict=True)]
        return str(self._tokenizer.apply_chat_template(named, tokenize=False))


_ROLES = {"observation": "tool"}


def _number(name: str | None) -> int | None:
    return None if name is None else int(name[:-1])


def _text(message: Message) -> str:
    """A message's text; white space before a reply's thoughts goes: it would join the header's."""
    text = templates.full_text(message)
    return text.lstrip() if message.role == "assistant" and _THOUGHTS.fullmatch(text.lstrip()) else text


def _tags(message: Message) -> tuple[str, ...]:
    """The tags around a reply's thoughts as they stand in it, with their white space; nothing for other messages."""
    found = _THOUGHTS.fullmatch(message.content) if message.role == "assistant" else None
    return (found[1], found[3]) if found else ()


def _parts(number: int, message: Message) -> list[tuple[str, str]]:
    found = _THOUGHTS.fullmatch(message.content) if message.role == "assistant" else None
    return [(f"{number}t", found[2]), (f"{number}r", found[4])] if found else [(f"{number}r", message.content)]


def _marked(number: int, message: Message) -> str:
    thoughts, text = _MARK.format(f"{number}t"), _MARK.format(f"{number}r")
    tags = _tags(message)
    return f"{tags[0]}{thoughts}{tags[1]}{text}" if tags else text


def _in_order(names: Sequence[str], turns: Sequence[Message]) -> bool:
    """Whether each message's text is there once, in order; a template may drop thoughts."""
    return [n for n in names if n.endswith("r")] == [f"{i}r" for i in range(len(turns))] and len(set(names)) == len(
        names
    )


def _aligned(rendered: str, segments: Sequence[str], texts: dict[str, str]) -> dict[str, str]:
    """The parts' texts as they stand in what the template wrote; from where that cannot be told, as they are.

    What comes later does not count, so that a prompt has the same texts with its reply and without it.
    """
    found = dict(texts)
    if not rendered.startswith(segments[0]):
        return found
    position = len(segments[0])
    for name, words in zip(segments[1::2], segments[2::2], strict=True):
        text = texts[name]
        for form in (text, text.strip(), text.lstrip(), text.rstrip(), text.strip("\n"), text.lstrip("\n")):
            if rendered.startswith(form + words, position):
                found[name] = form
                position += len(form) + len(words)
                break
        else:
            break
    return found


def _as_is(messages: Sequence[Message]) -> list[Message]:
    return list(messages)


def _observed(messages: Sequence[Message]) -> list[Message]:
    """Observations of tools as the user's messages, for templates without a tool's role."""
    return [replace(m, role="user", learn=m.learned) if m.role == "observation" else m for m in messages]


def _told(messages: Sequence[Message]) -> list[Message]:
    """System messages in front of the user's message that follows, for templates without a system's role."""
    turns, waiting = [], list[str]()
    for message in _observed(messages):
        if message.role == "system":
            waiting.append(message.content)
            continue
        if waiting and message.role == "user":
            message = replace(message, content="\n\n".join([*waiting, message.content]))
            waiting.clear()
        turns.append(message)
    return turns if not waiting else list(messages)


def _joined(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message, for templates in which roles must take turns."""
    turns = []
    for _, group in groupby(_told(messages), key=lambda m: (m.role, m.learned)):
        same = list(group)
        turns.append(replace(same[-1], content="\n".join(m.content for m in same)))
    return turns


#: Ways to arrange a dialogue, tried in turn until the template takes it.
_FORMS: tuple[Callable[[Sequence[Message]], list[Message]], ...] = (_as_is, _observed, _told, _joined)
