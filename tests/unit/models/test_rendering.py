"""Rendering: ChatGLM3's ids and labels, no control token out of text, one cut for training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tasks.conversation import Message, Row
from tasks.models.families import chatglm3, generic, recognise
from tasks.models.fitting import fit
from tasks.models.rendering import Renderer

GOLDEN = Path(__file__).parents[2] / "golden" / "chatglm3_preprocess.json"
CONTROL = {
    "[gMASK]": 64790,
    "sop": 64792,
    "<|system|>": 64794,
    "<|user|>": 64795,
    "<|assistant|>": 64796,
    "<|observation|>": 64797,
    "</s>": 2,
}


class StubTokenizer:
    """The golden vectors' tokenizer: a dummy prefix, then a number for each character."""

    eos_token_id = 2
    chat_template = None

    def encode(self, text: str, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]:
        assert not add_special_tokens and split_special_tokens
        return [30910, *(100000 + ord(c) for c in text)]

    def decode(self, ids: list[int], **_: Any) -> str:
        return "".join(chr(i - 100000) for i in ids if i > 100000)

    def convert_tokens_to_ids(self, token: str) -> int:
        return CONTROL[token]


def golden() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text(encoding="utf-8"))["finetune_hf_HEAD"])


@pytest.mark.parametrize("name", sorted(golden()))
def test_ids_and_labels_are_those_of_the_official_code(name: str) -> None:
    case = golden()[name]
    renderer = chatglm3.renderer(StubTokenizer())
    # the official code learns observation turns; here a message must say so
    messages = [
        Message(m["role"], m["content"], learn=True if m["role"] == "observation" else None)
        for m in case["conversations"]
    ]
    rendered = renderer.dialogue(messages)
    limit = case["max_input_length"] + case["max_output_length"] + 1
    labels = [i if learn else -100 for i, learn in zip(rendered.ids, rendered.learn, strict=True)]
    if not messages or messages[-1].role == "user":
        # the official code appends </s> to every row, learned or not; so do we
        assert rendered.ids[-1] == 2
    assert rendered.ids[:limit] == case["process_batch"]["input_ids"][0]
    assert labels[:limit] == case["process_batch"]["labels"][0]


def test_prompt_is_the_training_rows_beginning() -> None:
    renderer = chatglm3.renderer(StubTokenizer())
    messages = [Message("system", "a"), Message("user", "b"), Message("assistant", "c")]
    whole = renderer.dialogue(messages)
    prompt = renderer.prompt_ids(messages[:-1])
    assert whole.ids[: len(prompt)] == prompt
    assert not any(whole.learn[: len(prompt)]) and all(whole.learn[len(prompt) :])


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.mark.parametrize("text", ["<|assistant|>", "</s>", "sop", "问<|user|>\n治", "[gMASK]sop", "soprano 🙂\u200d"])
def test_text_never_becomes_a_control_token_and_comes_back_whole(tokenizer: Any, text: str) -> None:
    renderer = chatglm3.renderer(tokenizer)
    plain = renderer.prompt_ids([Message("user", "")])
    ids = renderer.prompt_ids([Message("user", text)])
    special = set(tokenizer.all_special_ids)
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    assert renderer.decode(ids).removeprefix("\n") == text


def test_family_is_recognised_by_files(tiny_base: Path) -> None:
    assert recognise(tiny_base) == "chatglm3"


def test_long_prompt_loses_its_middle_and_oldest_turns_first() -> None:
    renderer = chatglm3.renderer(StubTokenizer())
    question = Message("user", "头" + "中" * 50 + "尾")
    (kept,) = renderer.fit_prompt([question], 20)
    assert len(renderer.prompt_ids([kept])) == 20
    assert kept.content[0] == "头" and kept.content[-1] == "尾"
    turns = [
        Message("system", "s"),
        Message("user", "old"),
        Message("assistant", "reply"),
        Message("user", "new"),
    ]
    kept_turns = renderer.fit_prompt(turns, len(renderer.prompt_ids(turns)) - 1)
    assert [m.content for m in kept_turns] == ["s", "new"]


def test_a_chat_of_hundreds_of_turns_is_cut_in_a_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = chatglm3.renderer(StubTokenizer())
    turns = [Message(role, f"{n}") for n in range(500) for role in ("user", "assistant")]  # type: ignore[arg-type]
    rendered: list[int] = []
    layout = renderer._layout

    def counted(tokenizer: Any, messages: Any, generate: bool) -> Any:
        rendered.append(len(messages))
        return layout(tokenizer, messages, generate)

    monkeypatch.setattr(renderer, "_layout", counted)
    kept = renderer.fit_prompt([*turns, Message("user", "?")], 60)
    assert [m.content for m in kept] == ["497", "497", "498", "498", "499", "499", "?"]
    assert len(rendered) <= 12


def test_row_is_cut_alike_for_training_and_evaluation() -> None:
    renderer = chatglm3.renderer(StubTokenizer())
    row = Row("1", (Message("user", "问" * 60), Message("assistant", "答" * 30)), "t", "generation")
    rendered, problem = fit(renderer, row, 40, 10)
    prompt = renderer.prompt_ids(row.prompt, 40)
    assert problem and len(prompt) == 40
    assert rendered.ids[:40] == prompt and len(rendered.ids) == 50


class TemplateTokenizer(StubTokenizer):
    """A ChatML-like template that refuses system messages."""

    name_or_path = "stub"
    eos_token = "<|endoftext|>"  # another one than ends a turn, as in some base models
    eos_token_id = 8
    all_special_tokens: ClassVar[list[str]] = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    chat_template = "x"

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<|im_start|>": 6, "<|im_end|>": 7, "<|endoftext|>": 8}[token]

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool) -> str:
        if messages[0]["role"] == "system":
            raise ValueError("no system role")
        thinking = {"user": "", "assistant": "<think>\n\n</think>\n\n"}  # as Qwen3 writes before a reply
        return "".join(f"<|im_start|>{m['role']}\n{thinking[m['role']]}{m['content']}<|im_end|>\n" for m in messages)

    def encode(self, text: str, add_special_tokens: bool, split_special_tokens: bool = False) -> list[int]:
        ids: list[int] = []
        while text:
            mark = next((m for m in ("<|im_start|>", "<|im_end|>") if text.startswith(m)), None)
            if mark and not split_special_tokens:
                ids.append(6 if mark == "<|im_start|>" else 7)
                text = text[len(mark) :]
            else:
                ids.append(100000 + ord(text[0]))
                text = text[1:]
        return ids


def test_generic_layout_learns_the_reply_and_its_stop_token_only() -> None:
    renderer: Renderer = generic.renderer(TemplateTokenizer())
    messages = [Message("system", "S"), Message("user", "<|im_end|>"), Message("assistant", "ok")]
    rendered = renderer.dialogue(messages)
    learned = [i for i, learn in zip(rendered.ids, rendered.learn, strict=True) if learn]
    assert learned == [100000 + ord("o"), 100000 + ord("k"), 7]
    assert rendered.ids.count(7) == 2  # the template's own: one a message, none out of the user's text
    assert renderer.stop_ids == (7, 8)
    prompt = renderer.prompt_ids(messages[:-1])
    assert rendered.ids[: len(prompt)] == prompt
    assert rendered.learn[len(prompt) - 1 : len(prompt) + 1] == [False, True]
