"""What holds for every layout and any dialogue: a prompt is the beginning of its training row, a reply is learned from
its first token to its end token, no text becomes a control token, and a row cut to its limits stays such a row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_templates import FAMILIES, byte_level, of_family, sentencepiece

from tasks.conversation import Message, Row
from tasks.errors import ModelError
from tasks.models import families, loading, spelling, templates
from tasks.models.fitting import fit, uncovered
from tasks.models.rendering import Renderer

sys.path.insert(0, str(Path(__file__).parents[2]))
import tiny_models

ODD = [
    *("", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u3000", "\u2581", "\u2063", "\u20630r\u2063", ":", "::", "a"),
    *("你好", "hello world", "😀", "答：", "[Round 1]\n\n问：", "{bos}", "{n}", "{{ x }}", "[INST]", " [/INST]"),
    *("sop", "<sop>", "<eop>", "[gMASK]", "<s>", "</s>", "<think>", "</think>\n\n", "<|im_start|>", "<|im_end|>"),
    *("<|user|>", "<|assistant|>", "<|eot_id|>", "<end_of_turn>", "<reserved_106>", "<eoa>", "<｜User｜>"),
]
THOUGHTS = ["<think>\nhm\n</think>\n\n", "<think>hm</think>", "<think>\n\n</think>\n\n", " \n<think>\n a \n</think>\n"]
TEXTS = st.lists(st.sampled_from(ODD) | st.text(max_size=3), max_size=5).map("".join)
TOKENIZERS: dict[str, Callable[[], Any]] = {
    "byte level": cache(lambda: byte_level(bos_token="<s>", eos_token="</s>")),
    "prefix after control tokens": cache(lambda: sentencepiece(True)),
    "prefix at the start only": cache(lambda: sentencepiece(False)),
}
LAYOUTS = [
    *(("family", name) for name in tiny_models.FAMILIES),
    *(("chat template", name) for name in FAMILIES),
    *((kind, name) for kind in TOKENIZERS for name in templates.NAMED),
]


@st.composite
def dialogues(draw: st.DrawFn) -> list[Message]:
    """One to three questions with their replies, system messages, tools and questions in a row among them."""
    messages = [Message("system", text) for text in draw(st.lists(TEXTS, max_size=2))]
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(TEXTS), draw(st.sampled_from([None, None, True]))))
        if draw(st.integers(0, 5)) == 0:
            messages.append(Message("user", draw(TEXTS)))
        if draw(st.integers(0, 4)) == 0:
            call = Message("assistant", draw(TEXTS), draw(st.sampled_from([None, False])), draw(st.sampled_from("ab")))
            messages += [call, Message("observation", draw(TEXTS))]
        reply = draw(st.sampled_from(["", "", "", *THOUGHTS])) + draw(TEXTS)
        messages.append(Message("assistant", reply, draw(st.sampled_from([None, False]))))
    return [*messages[:-1], Message("assistant", messages[-1].content)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        tiny_models.FAMILIES[name](folder)
        return folder

    return made


@pytest.fixture(scope="module", params=LAYOUTS, ids=" ".join)
def layout(request: pytest.FixtureRequest, folders: Callable[[str], Path]) -> tuple[str, Renderer]:
    kind, name = request.param
    if kind == "family":
        folder = folders(name)
        return name, families.layout(folder).renderer(loading.load_tokenizer(folder))
    if kind == "chat template":
        return f"{name}'s chat template", of_family(name)[1]
    return name, templates.named(TOKENIZERS[kind](), name)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(messages=dialogues(), prompt_limit=st.integers(8, 80), reply_limit=st.integers(1, 30))
def test_the_invariants_of_a_layout(
    layout: tuple[str, Renderer], messages: list[Message], prompt_limit: int, reply_limit: int
) -> None:
    name, renderer = layout
    # Qwen3's mode without thinking: its prompt ends with empty thoughts, which a reply's own take the place of
    assume(name != "qwen's chat template" or "</think>" not in messages[-1].content)
    try:
        whole, prompt = renderer.dialogue(messages), renderer.prompt_ids(messages[:-1])
        harmless = renderer.dialogue([Message(m.role, "zz", m.learn, m.metadata) for m in messages])
    except ModelError:  # a template that takes no such order of roles
        assume(False)
    assert whole.ids[: len(prompt)] == prompt
    assert whole.learn[len(prompt)] and (messages[-2].learned or not whole.learn[len(prompt) - 1])
    last = max(i for i, learned in enumerate(whole.learn) if learned)
    assert whole.ids[last] in renderer.ends and all(whole.learn[len(prompt) : last])
    assert uncovered(renderer, messages, whole) == ""
    speller = spelling.of(renderer.tokenizer)
    control = {speller.id(token) for token in speller.control} - {renderer.tokenizer.unk_token_id}
    assert [i for i in whole.ids if i in control] == [i for i in harmless.ids if i in control]

    cut, problem = fit(renderer, Row("r", tuple(messages), "t", "generation"), prompt_limit, reply_limit)
    if not cut.ids:
        assert "cannot be cut" in problem
        return
    asked = renderer.prompt_ids(messages[:-1], prompt_limit)
    assert len(asked) <= prompt_limit and len(cut.ids) <= prompt_limit + reply_limit
    assert cut.ids[: len(asked)] == asked and cut.learn[len(asked)]
    assert uncovered(renderer, messages, cut) == ""
