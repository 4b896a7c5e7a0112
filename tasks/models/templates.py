"""Layouts of dialogues as plain text, for base models and for models that were tuned in one of them.

``model.template=NAME`` uses one with any family. Owns the words of each layout; how text becomes ids is
``tasks.models.spelling``'s. A control token in a layout's words counts only where the tokenizer has it as one; a reply
always ends with a control token, the tokenizer's end of sequence unless the layout names another that is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tasks import plugins
from tasks.conversation import Message
from tasks.errors import ModelError
from tasks.models import spelling
from tasks.models.rendering import Renderer, stop_ids
from tasks.models.spelling import Piece, Span

_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


@dataclass(frozen=True)
class Template:
    """The words around the texts of a dialogue. ``{n}`` is a question's number from 1, ``{bos}`` that token.

    Attributes:
        source: where the layout comes from.
        user: before and after a user's text; a tool's observation is written in the same way.
        assistant: header of a reply.
        system: before and after a system message's text.
        default_system: the system message of a dialogue that has none.
        system_within: a system message stands within the user's message that follows it.
        start: what the text begins with; None: what the tokenizer puts in front of a text by itself.
        tail: between a reply's text and its end token, learned with them.
        end: the control token after a reply; empty, or unknown to the tokenizer: its end-of-sequence token.
        after: behind each end token, not learned.
        gap: between a reply and the next turn.
    """

    source: str
    user: tuple[str, str]
    assistant: str
    system: tuple[str, str] = ("", "\n\n")
    default_system: str = ""
    system_within: bool = False
    start: str | None = None
    tail: str = ""
    end: str = ""
    after: str = ""
    gap: str = ""


NAMED: dict[str, Template] = {
    "alpaca": Template(
        source="tatsu-lab/stanford_alpaca, train.py",
        default_system=_ALPACA,
        user=("### Instruction:\n", "\n\n"),
        assistant="### Response:",
        gap="\n\n",
    ),
    "chinese_alpaca": Template(
        source="ymcui/Chinese-LLaMA-Alpaca, scripts/inference/inference_hf.py",
        default_system=_ALPACA,
        user=("### Instruction:\n\n", "\n\n"),
        assistant="### Response:\n\n",
        gap="\n\n",
    ),
    "belle": Template(
        source="LianjiaTech/BELLE, train/src/sample_generator.py",
        user=("Human: \n", "\n\n"),
        assistant="Assistant: \n",
    ),
    "tigerbot": Template(
        source="TigerResearch/TigerBot, infer.py; the headers are control tokens of its tokenizers",
        system=("", ""),
        user=("\n\n### Instruction:\n", ""),
        assistant="\n\n### Response:\n",
    ),
    "vicuna": Template(
        source="lm-sys/FastChat, conversation template vicuna_v1.1",
        default_system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        system=("", " "),
        user=("USER: ", " "),
        assistant="ASSISTANT: ",
    ),
    "chatml": Template(
        source="openai/openai-python, chatml.md; Qwen's chat models",
        system=("<|im_start|>system\n", "<|im_end|>\n"),
        user=("<|im_start|>user\n", "<|im_end|>\n"),
        assistant="<|im_start|>assistant\n",
        end="<|im_end|>",
        after="\n",
    ),
    "llama2": Template(
        source="facebookresearch/llama, llama/generation.py",
        start="{bos}",
        system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        system_within=True,
        user=("[INST] ", " [/INST]"),
        assistant=" ",
        tail=" ",
        gap="{bos}",
    ),
    "chatglm2": Template(
        source="THUDM/ChatGLM2-6B, build_prompt; there, earlier replies have no end token",
        user=("[Round {n}]\n\n问：", "\n\n"),
        assistant="答：",
        gap="\n\n",
    ),
    "deepseek": Template(
        source="deepseek-ai/DeepSeek-R1-Distill-*, tokenizer_config.json",
        start="{bos}",
        system=("", ""),
        user=("<｜User｜>", ""),
        assistant="<｜Assistant｜>",
    ),
    "plain": Template(
        source="this project: one text a line, for base models without a layout of their own",
        system=("", "\n"),
        user=("", "\n"),
        assistant="",
        gap="\n",
    ),
}


def renderer_for(tokenizer: Any, template: str | None, own: Callable[[], Renderer]) -> Renderer:
    """The model's own renderer, or that of a named template.

    Raises:
        ModelError: an unknown template, a tokenizer without an end-of-sequence token, a model that needs its own.
    """
    return own() if template is None else named(tokenizer, template)


def named(tokenizer: Any, name: str, stops: Sequence[str] = ()) -> Renderer:
    """The renderer of a named template; ``stops`` are further tokens that end a reply, where the tokenizer has them."""
    if name not in NAMED:
        raise ModelError(f"model.template={name!r}: unknown; {plugins.nearest(name, sorted(NAMED))}")
    template, end = NAMED[name], end_token(tokenizer, NAMED[name])
    if spelling.of(tokenizer).closing:
        tokens = " ".join(tokenizer.convert_ids_to_tokens(spelling.of(tokenizer).closing))
        raise ModelError(
            f"model.template={name}: this model marks where a reply begins ({tokens}), which no shared template does; "
            "leave model.template unset"
        )

    def layout(tokenizer: Any, messages: Sequence[Message], generate: bool) -> Iterator[Piece]:
        speller = spelling.of(tokenizer)
        if template.start is None and speller.opening:
            yield speller.opening, False
        yield from speller.pieces(_spans(template, end, tokenizer.bos_token or "", messages, generate))

    # spaces at a header's end belong to the reply's first token, so that they are no part of the prompt
    _, lead = trailing_spaces(template.assistant)
    return Renderer(tokenizer, layout, stop_ids(tokenizer, [end, *stops]), lead=lead or "\n", trail=template.tail)


def end_token(tokenizer: Any, template: Template) -> str:
    """The control token after a reply."""
    if template.end in spelling.of(tokenizer).control:
        return template.end
    if tokenizer.eos_token is None:
        raise ModelError(
            f"{tokenizer.name_or_path}: its tokenizer has no end-of-sequence token, so that no reply could end; "
            "name one as eos_token in its tokenizer_config.json"
        )
    return str(tokenizer.eos_token)


def trailing_spaces(header: str) -> tuple[str, str]:
    """A header without the spaces at its end, and those spaces."""
    words = header.rstrip(" ")
    return words, header[len(words) :]


def full_text(message: Message) -> str:
    """A message's text where the layout has no place for metadata (a tool's name): a line above."""
    return f"{message.metadata}\n{message.content}" if message.metadata else message.content


def _spans(template: Template, end: str, bos: str, messages: Sequence[Message], generate: bool) -> Iterator[Span]:
    def words(text: str) -> Span:
        return Span(text.replace("{bos}", bos).replace("{n}", str(number)), own=True)

    number, waiting, replied = 1, list[Message](), False
    if template.default_system and not any(m.role == "system" for m in messages):
        messages = [Message("system", template.default_system), *messages]
    yield words(template.start or "")
    header, spaces = trailing_spaces(template.assistant)
    for message in messages:
        if replied:
            yield words(template.gap)
            replied = False
        if message.role == "assistant":
            yield words(header)
            yield Span(spaces, learned=message.learned, starts_reply=True)
            yield Span(full_text(message) + template.tail, learned=message.learned, starts_reply=not spaces)
            yield Span(end, own=True, learned=message.learned)
            yield words(template.after)
            replied, number = True, number + 1
        elif message.role == "system":
            waiting.append(message)
            if not template.system_within:
                yield from _wrapped(waiting.pop(), template.system, words)
        else:
            before, after = template.user
            yield words(before)
            for system in waiting:
                yield from _wrapped(system, template.system, words)
            waiting.clear()
            yield Span(full_text(message), learned=message.learned)
            yield words(after)
    if generate:
        yield words(template.gap if replied else "")
        yield words(header)


def _wrapped(message: Message, around: tuple[str, str], words: Callable[[str], Span]) -> Iterator[Span]:
    yield words(around[0])
    yield Span(full_text(message), learned=message.learned)
    yield words(around[1])
