"""Layouts: chat templates give the ids of ``apply_chat_template``, named templates those of the whole text tokenised.

The tokenizers are small ones of the two kinds there are (byte-level BPE; SentencePiece with its dummy prefix), the chat
templates are written for these tests: each has what public ones are known to trip over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.conversation import Message, Row
from tasks.errors import ModelError
from tasks.models import families, spelling, templates
from tasks.models.families import bloom, deepseek, gemma, generic, gpt_neox, llama, mistral, qwen
from tasks.models.fitting import Tokeniser, told
from tasks.models.rendering import Renderer

WORDS = [
    "你好，您好！ hello world, what is this? 1 + 1 = 2.\n\nInstruction Response Human Assistant user system model a::b"
] * 3
CONTROL = [
    "<s>",
    "</s>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<｜Assistant｜>",
]
TYPED = ["<|assistant|>", "soprano", "<|im_end|>", "[INST]", "</s>", "<s>", "<｜User｜>", "<|eot_id|>x", "a</s><s>b"]

#: Like Qwen3's: thoughts of earlier replies are dropped, a last reply without any gets empty ones.
THINKING = """{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
{%- set parts = m.content.split('</think>') -%}
{%- if m.role == 'assistant' and loop.index0 > ns.last -%}
{{- '<|im_start|>assistant\n<think>\n' -}}
{{- (parts[0].split('<think>')[-1].strip('\n') if parts|length > 1 else '') + '\n</think>\n\n' -}}
{{- parts[-1].lstrip('\n') + '<|im_end|>\n' -}}
{%- elif m.role == 'assistant' -%}
{{- '<|im_start|>assistant\n' + parts[-1].lstrip('\n') + '<|im_end|>\n' -}}
{%- else -%}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endif -%}
{%- endfor -%}"""
#: Like Llama 3's: white space at a text's ends is trimmed, and a reply's end is not the end of sequence.
TRIMMING = """{{- '<s>' -}}{%- for m in messages -%}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + (m.content | trim) + '<|eot_id|>' -}}
{%- endfor -%}"""
#: Like Mistral's: no system role, roles take turns, spaces around texts.
STRICT = """{{- '<s>' -}}{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}{{- raise_exception('roles must alternate') -}}{%- endif -%}
{{- '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + '</s>' -}}
{%- endfor -%}"""
#: Like Gemma's: the system message stands within the first question, the assistant is called model.
WITHIN = """{{- '<bos>' -}}
{%- set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' -%}
{%- for m in (messages[1:] if first else messages) -%}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (first if loop.first else '') -}}
{{- (m.content | trim) + '<end_of_turn>\n' -}}
{%- endfor -%}"""
#: Like the DeepSeek distills': thoughts are always dropped, a control token is not marked as special.
DROPPING = """{{- '<s>' -}}{%- for m in messages -%}
{%- if m.role == 'system' -%}{{- m.content -}}{%- elif m.role == 'user' -%}{{- '<｜User｜>' + m.content -}}
{%- else -%}{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '</s>' -}}{%- endif -%}
{%- endfor -%}"""
#: Writes no control token after a reply.
ENDLESS = "{%- for m in messages -%}{{- m.role + ': ' + m.content + '\n' -}}{%- endfor -%}"
FAMILIES: dict[str, tuple[Any, str, str]] = {
    "qwen": (qwen, THINKING, "<|im_end|>"),
    "llama": (llama, TRIMMING, "</s>"),
    "mistral": (mistral, STRICT, "</s>"),
    "gemma": (gemma, WITHIN, "<bos>"),
    "deepseek": (deepseek, DROPPING, "</s>"),
    "generic": (generic, ENDLESS, "</s>"),
    "bloom": (bloom, "", "</s>"),
    "gpt_neox": (gpt_neox, "", "<|endoftext|>"),
}
THOUGHT = "<think>\nhello, world\n</think>\n\n"
DIALOGUES = {
    "one turn": [Message("user", "你好，hello world"), Message("assistant", "您好！ I am.")],
    "system": [Message("system", "You are 助手."), Message("user", "a b\n\nc"), Message("assistant", "d")],
    "two turns": [
        Message(r, t) for r, t in zip(("user", "assistant") * 2, ("one", "two", "three", "four"), strict=True)
    ],
    "white space": [Message("user", "  one \n"), Message("assistant", "two\n")],
    "empty": [Message("user", ""), Message("assistant", "two")],
    "tags": [Message("user", "<b>one</b> <think>"), Message("assistant", "1+1=2\n\n\n```python\nx = 1\n```")],
    "thoughts": [Message("user", "one"), Message("assistant", f"{THOUGHT}four")],
    "earlier thoughts": [
        *(Message("user", "one"), Message("assistant", f"{THOUGHT}two")),
        *(Message("user", "three"), Message("assistant", "<think>\n\n</think>\n\nfour")),
    ],
}


def byte_level(**names: str) -> Any:
    """Byte-level BPE, as in Qwen, Llama 3, GPT-NeoX and BLOOM."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        WORDS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("</think>"), AddedToken("<｜User｜>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def sentencepiece(after_control: bool) -> Any:
    """SentencePiece BPE with byte fallback, as in LLaMA; the dummy prefix also after a control token, or not."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if after_control:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    data = ["你好 您好 a b hello world foo bar USER ASSISTANT Human Assistant Instruction Response Round INST"]
    pieces = [*CONTROL, *(f"<0x{value:02X}>" for value in range(256))]
    tokenizer.train_from_iterator(data, trainers.BpeTrainer(vocab_size=420, special_tokens=pieces, show_progress=False))
    tokenizer = Tokenizer.from_str(_without_bytes_as_special(tokenizer.to_str()))
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _without_bytes_as_special(text: str) -> str:
    import json

    value = json.loads(text)
    value["added_tokens"] = [token for token in value["added_tokens"] if token["content"] in CONTROL]
    return json.dumps(value)


@pytest.fixture(scope="module")
def base() -> Any:
    return byte_level(eos_token="</s>")


def of_family(name: str) -> tuple[Any, Renderer]:
    family, template, eos = FAMILIES[name]
    tokenizer = byte_level(eos_token=eos)
    tokenizer.chat_template = template or None
    return tokenizer, family.renderer(tokenizer)


def learned_text(tokenizer: Any, renderer: Renderer, messages: list[Message]) -> str:
    rendered = renderer.dialogue(messages)
    return str(tokenizer.decode([i for i, learn in zip(rendered.ids, rendered.learn, strict=True) if learn]))


def as_dicts(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


CASES = [
    (name, kind)
    for name in ("qwen", "llama", "mistral", "gemma", "deepseek")
    for kind in DIALOGUES
    if not (name == "mistral" and kind == "system")  # refused by the template itself
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_ids_are_those_of_the_tokenizers_own_chat_template(name: str, kind: str) -> None:
    tokenizer, renderer = of_family(name)
    messages = DIALOGUES[kind]
    expected = tokenizer.apply_chat_template(as_dicts(messages), tokenize=True, return_dict=False)
    assert renderer.dialogue(messages).ids == expected


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("qwen", "two turns", "two<|im_end|>four<|im_end|>"),
        ("qwen", "thoughts", f"{THOUGHT}four<|im_end|>"),
        ("qwen", "earlier thoughts", "two<|im_end|><think>\n\n</think>\n\nfour<|im_end|>"),
        ("llama", "white space", "two<|eot_id|>"),
        ("mistral", "two turns", " two</s> four</s>"),
        ("gemma", "system", "d<end_of_turn>"),
        ("deepseek", "two turns", "two</s>four</s>"),
        ("mistral", "thoughts", f" {THOUGHT}four</s>"),
        ("deepseek", "thoughts", "\n\nfour</s>"),
        ("generic", "two turns", " two</s> four</s>"),
        ("bloom", "two turns", "two</s>four</s>"),
        ("gpt_neox", "one turn", "您好！ I am.<|endoftext|>"),
    ],
)
def test_a_reply_and_the_token_that_ends_it_are_learned(name: str, kind: str, expected: str) -> None:
    tokenizer, renderer = of_family(name)
    assert learned_text(tokenizer, renderer, DIALOGUES[kind]) == expected
    assert tokenizer.convert_tokens_to_ids(expected[expected.rindex("<") :]) in renderer.stop_ids


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_is_the_beginning_of_the_training_row(name: str) -> None:
    _, renderer = of_family(name)
    for kind in ("one turn", "system", "two turns", "white space"):
        messages = DIALOGUES[kind]
        whole, prompt = renderer.dialogue(messages), renderer.prompt_ids(messages[:-1])
        assert whole.ids[: len(prompt)] == prompt
        assert whole.learn[len(prompt)] and not whole.learn[len(prompt) - 1]


def test_a_prompt_is_the_beginning_whatever_a_template_makes_of_the_reply() -> None:
    """Thoughts alone are trimmed at their end, which must not change how the question is written."""
    _, renderer = of_family("llama")
    messages = [Message("user", " one\n"), Message("assistant", THOUGHT)]
    prompt = renderer.prompt_ids(messages[:-1])
    assert renderer.dialogue(messages).ids[: len(prompt)] == prompt


def test_white_space_before_thoughts_does_not_join_the_header() -> None:
    tokenizer, renderer = of_family("gemma")
    messages = [Message("user", "one"), Message("assistant", f"\n {THOUGHT}two")]
    assert learned_text(tokenizer, renderer, messages) == f"{THOUGHT}two<end_of_turn>"


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.parametrize("name", FAMILIES)
def test_no_family_takes_typed_text_for_a_control_token(name: str, typed: str) -> None:
    tokenizer, renderer = of_family(name)
    assert_harmless(tokenizer, renderer, typed)


@pytest.mark.parametrize("typed", TYPED)
@pytest.mark.parametrize("name", templates.NAMED)
def test_no_template_takes_typed_text_for_a_control_token(base: Any, name: str, typed: str) -> None:
    assert_harmless(base, templates.named(base, name), typed)


def assert_harmless(tokenizer: Any, renderer: Renderer, typed: str) -> None:
    """For a question, a system message and an earlier reply: the same control tokens as for harmless text."""
    control = {tokenizer.convert_tokens_to_ids(token) for token in (*CONTROL, "<｜User｜>")} - {tokenizer.unk_token_id}

    def prompt(text: str) -> list[int]:
        turns = (Message("user", "q"), Message("assistant", text), Message("user", f"so {text}"))
        return renderer.prompt_ids([Message("system", text), *turns])

    ids, harmless = prompt(typed), prompt("harmless")
    assert [i for i in ids if i in control] == [i for i in harmless if i in control]
    assert tokenizer.decode(ids).count(typed) == tokenizer.decode(harmless).count(typed) + 3


def test_a_control_token_that_the_tokenizer_does_not_call_special_is_one(base: Any) -> None:
    ids = spelling.of(base).text("<｜User｜>")
    assert base.convert_tokens_to_ids("<｜User｜>") not in ids and base.decode(ids) == "<｜User｜>"


@pytest.mark.parametrize("name", ["mistral", "gemma"])
def test_a_dialogue_that_a_template_refuses_is_arranged_for_it(name: str) -> None:
    tokenizer, renderer = of_family(name)
    messages = [Message("system", "S"), Message("user", "one"), Message("user", "two"), Message("assistant", "three")]
    text = tokenizer.decode(renderer.dialogue(messages).ids)
    assert [text.find(word) for word in ("S", "one", "two", "three")] == sorted(
        text.find(word) for word in ("S", "one", "two", "three")
    )
    assert -1 not in [text.find(word) for word in ("S", "one", "two", "three")]


def test_a_tools_call_and_answer_keep_their_texts() -> None:
    tokenizer, renderer = of_family("mistral")
    call = Message("assistant", "tool_call(city='x')", metadata="weather")
    messages = [Message("user", "q"), call, Message("observation", "22"), Message("assistant", "warm")]
    assert "weather\ntool_call(city='x')" in tokenizer.decode(renderer.dialogue(messages).ids)
    assert learned_text(tokenizer, renderer, messages) == " weather\ntool_call(city='x')</s> warm</s>"


def test_an_observation_is_the_users_where_tools_have_no_role_and_the_system_stays() -> None:
    tokenizer = byte_level(eos_token="</s>")
    no_tools = "{%- if m.role == 'tool' -%}{{- raise_exception('no tools') -}}{%- endif -%}{{- m.role"
    tokenizer.chat_template = ENDLESS.replace("{{- m.role", no_tools)
    messages = [Message("system", "S"), Message("user", "q"), Message("assistant", "c"), Message("observation", "o")]
    text = tokenizer.decode(generic.renderer(tokenizer).prompt_ids(messages))
    assert text == "system: S\nuser: q\nassistant: c</s>\nuser: o\nassistant:"


def test_a_template_that_takes_no_such_dialogue_says_so() -> None:
    _, renderer = of_family("mistral")
    with pytest.raises(ModelError, match="roles must alternate.*model.template"):
        renderer.dialogue([Message("assistant", "first"), Message("user", "second")])


def test_neighbours_of_which_one_is_learned_are_not_taken_for_such_as_are_joined() -> None:
    _, renderer = of_family("mistral")
    reply = Message("assistant", "c")
    renderer.dialogue([Message("user", "a"), Message("user", "b"), reply])
    with pytest.raises(ModelError, match="roles must alternate"):
        renderer.dialogue([Message("user", "a", learn=True), Message("user", "b"), reply])


def test_spaces_that_a_template_writes_around_replies_are_no_part_of_them() -> None:
    tokenizer, renderer = of_family("mistral")
    reply = tokenizer.encode(" two", add_special_tokens=False)
    assert renderer.decode(reply) == "two"
    base = byte_level(bos_token="<s>", eos_token="</s>")
    reply = base.encode(" two ", add_special_tokens=False)
    assert templates.named(base, "llama2").decode(reply) == "two"


def test_an_earlier_reply_has_the_same_tokens_whether_it_is_learned_or_not(base: Any) -> None:
    renderer = templates.named(base, "alpaca")
    assert len(base.encode("::", add_special_tokens=False)) == 1  # a header's end and a reply's beginning would be one
    learned, silent = (
        renderer.dialogue([Message("user", "q"), Message("assistant", ":foo", learn), Message("user", "r")])
        for learn in (True, False)
    )
    prompt = renderer.prompt_ids([Message("user", "q")])
    assert learned.ids == silent.ids and learned.ids[: len(prompt)] == prompt


def test_a_learned_question_is_learned_alone(base: Any) -> None:
    messages = [Message("user", "\nq", learn=True), Message("assistant", "foo")]
    assert learned_text(base, templates.named(base, "belle"), messages) == "\nqfoo</s>"


def test_text_is_spelled_as_the_tokenizer_itself_spells_it_without_control_tokens(base: Any) -> None:
    for text in ("a</s><s>b", "<|im_end|>\n你好", "plain"):
        assert spelling.of(base).text(text) == base.encode(text, add_special_tokens=False, split_special_tokens=True)


#: What a person would tokenise, written out by hand: Q1 foo Q2 bar in each layout of plain text.
WRITTEN = {
    "alpaca": f"{templates._ALPACA}\n\n### Instruction:\n你好 a\n\n### Response:foo 您好</s>\n\n"
    "### Instruction:\nb\n\n### Response:bar</s>",
    "chinese_alpaca": f"{templates._ALPACA}\n\n### Instruction:\n\n你好 a\n\n### Response:\n\nfoo 您好</s>\n\n"
    "### Instruction:\n\nb\n\n### Response:\n\nbar</s>",
    "belle": "Human: \n你好 a\n\nAssistant: \nfoo 您好</s>Human: \nb\n\nAssistant: \nbar</s>",
    "tigerbot": "\n\n### Instruction:\n你好 a\n\n### Response:\nfoo 您好</s>"
    "\n\n### Instruction:\nb\n\n### Response:\nbar</s>",
    "vicuna": "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: 你好 a ASSISTANT: foo 您好</s>"
    "USER: b ASSISTANT: bar</s>",
    "chatml": "<|im_start|>user\n你好 a<|im_end|>\n<|im_start|>assistant\nfoo 您好<|im_end|>\n"
    "<|im_start|>user\nb<|im_end|>\n<|im_start|>assistant\nbar<|im_end|>\n",
    "chatglm2": "[Round 1]\n\n问：你好 a\n\n答：foo 您好</s>\n\n[Round 2]\n\n问：b\n\n答：bar</s>",
    "plain": "你好 a\nfoo 您好</s>\nb\nbar</s>",
    # these begin with <s> whatever the tokenizer does by itself
    "llama2": "<s>[INST] 你好 a [/INST] foo 您好 </s><s>[INST] b [/INST] bar </s>",
    "deepseek": "<s><｜User｜>你好 a<｜Assistant｜>foo 您好</s><｜User｜>b<｜Assistant｜>bar</s>",
}
TURNS = [Message("user", "你好 a"), Message("assistant", "foo 您好"), Message("user", "b"), Message("assistant", "bar")]


@pytest.fixture(scope="module", params=["byte level", "prefix after control tokens", "prefix at the start only"])
def any_tokenizer(request: pytest.FixtureRequest) -> Iterator[Any]:
    kind = str(request.param)
    yield byte_level(bos_token="<s>", eos_token="</s>") if kind == "byte level" else sentencepiece("after" in kind)


@pytest.mark.parametrize("name", templates.NAMED)
def test_ids_are_those_of_the_whole_text_with_the_dummy_prefix_where_it_belongs(any_tokenizer: Any, name: str) -> None:
    renderer = templates.named(any_tokenizer, name)
    written = WRITTEN[name]
    expected = any_tokenizer.encode(written, add_special_tokens=not written.startswith("<s>"))
    rendered = renderer.dialogue(TURNS)
    assert rendered.ids == expected
    prompt = renderer.prompt_ids(TURNS[:-1])
    assert rendered.ids[: len(prompt)] == prompt and rendered.learn[len(prompt)] and not rendered.learn[len(prompt) - 1]


def test_the_small_tokenizers_differ_in_their_dummy_prefix() -> None:
    for after_control in (True, False):
        tokenizer = sentencepiece(after_control)
        words = tokenizer.convert_ids_to_tokens(tokenizer.encode("a</s>a", add_special_tokens=False))
        assert "".join(words) == ("▁a</s>▁a" if after_control else "▁a</s>a")


def test_white_space_that_a_control_token_takes_is_not_spelled() -> None:
    from tokenizers import AddedToken

    tokenizer = byte_level(eos_token="</s>")
    greedy = [AddedToken("<|left|>", lstrip=True), AddedToken("<|right|>", rstrip=True)]
    tokenizer.add_special_tokens({"additional_special_tokens": greedy})
    tokenizer.chat_template = "{%- for m in messages -%}{{- '<|right|> \n' + m.content + ' <|left|>' -}}{%- endfor -%}"
    messages = [Message("user", "hello"), Message("system", "world")]
    expected = tokenizer.apply_chat_template(as_dicts(messages), tokenize=True, return_dict=False)
    assert generic.renderer(tokenizer).dialogue(messages).ids == expected


def test_a_model_with_tokens_before_the_reply_takes_no_shared_template() -> None:
    from tokenizers import processors

    tokenizer = byte_level(eos_token="</s>")
    number = tokenizer.convert_tokens_to_ids("<bos>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <bos>", special_tokens=[("<bos>", number)]
    )
    with pytest.raises(ModelError, match="model.template=belle: this model marks where a reply begins"):
        templates.named(tokenizer, "belle")


def test_a_system_message_takes_the_place_of_the_default_one(base: Any) -> None:
    asked = [Message("system", "S"), Message("user", "q")]
    assert base.decode(templates.named(base, "alpaca").prompt_ids(asked)) == "S\n\n### Instruction:\nq\n\n### Response:"
    llama2 = byte_level(bos_token="<s>", eos_token="</s>")
    text = llama2.decode(templates.named(llama2, "llama2").prompt_ids(asked))
    assert text == "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nq [/INST]"


def test_an_unknown_template_names_the_nearest(base: Any) -> None:
    with pytest.raises(ModelError, match=r"model.template='alpacca': unknown; did you mean alpaca.*known: alpaca"):
        llama.renderer(base, "alpacca")


@pytest.mark.parametrize("name", families.names())
def test_every_family_takes_a_named_template(base: Any, name: str) -> None:
    prompt = families.named(name).renderer(base, "belle").prompt_ids([Message("user", "q")])
    assert base.decode(prompt) == "Human: \nq\n\nAssistant: \n"


def test_a_missing_end_token_is_replaced_by_the_end_of_sequence() -> None:
    tokenizer = sentencepiece(True)
    assert templates.named(tokenizer, "tigerbot").stop_ids == (tokenizer.eos_token_id,)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        templates.named(tokenizer, "alpaca")


def test_stop_tokens_of_the_models_own_generation_config_count(base: Any, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 5]}', encoding="utf-8")
    tokenizer = byte_level(eos_token="</s>")
    tokenizer.name_or_path = str(tmp_path)
    assert set(templates.named(tokenizer, "plain").stop_ids) == {5, 7, tokenizer.eos_token_id}


@pytest.mark.parametrize(
    ("config", "tokens", "family"),
    [
        ({"model_type": "llama"}, (), "llama"),
        ({"model_type": "llama"}, ("<｜User｜>", "<｜Assistant｜>"), "deepseek"),
        ({"model_type": "qwen2"}, ("<｜User｜>", "<｜Assistant｜>"), "deepseek"),
        ({"model_type": "qwen2"}, ("<|im_end|>",), "qwen"),
        ({"model_type": "qwen3_moe"}, (), "qwen"),
        ({"model_type": "mixtral"}, (), "mistral"),
        ({"model_type": "gemma3_text"}, (), "gemma"),
        ({"model_type": "bloom"}, (), "bloom"),
        ({"model_type": "gpt_neox"}, (), "gpt_neox"),
        ({"model_type": "cpmant"}, (), "cpmant"),
        ({"model_type": "phi3"}, (), "generic"),
    ],
)
def test_native_models_are_recognised(config: dict[str, Any], tokens: tuple[str, ...], family: str) -> None:
    assert families.of_config(config, tokens) == family


def test_tigerbots_headers_are_control_tokens_and_its_layout() -> None:
    tokenizer = byte_level(eos_token="</s>")
    headers = ["\n\n### Instruction:\n", "\n\n### Response:\n"]
    tokenizer.add_special_tokens({"additional_special_tokens": headers})
    ids = bloom.renderer(tokenizer).prompt_ids([Message("user", "q" + headers[1])])
    instruction, response = map(tokenizer.convert_tokens_to_ids, headers)
    assert ids[0] == instruction and ids[-1] == response and ids.count(response) == 1


def test_what_is_assumed_of_an_unknown_model_is_told() -> None:
    tokenizer, _ = of_family("generic")
    assert "chat template is used as it is, a reply ended by </s>" in generic.assumed(tokenizer)
    tokenizer.chat_template = DROPPING
    assert "leaves thoughts" in generic.assumed(tokenizer)
    tokenizer.chat_template = None
    assert "no chat template" in generic.assumed(tokenizer) and "alpaca|" in generic.assumed(tokenizer)


@pytest.mark.parametrize(
    ("template", "line"), [(None, "1 replies hold thoughts.*model.template=chatml"), ("chatml", "^layout: chatml$")]
)
def test_rows_with_thoughts_are_reported_where_prompts_close_thoughts_at_once(
    template: str | None, line: str, tmp_path: Path
) -> None:
    tokenizer = byte_level(eos_token="<|im_end|>")
    tokenizer.chat_template = THINKING
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "vocab_size": 512}', encoding="utf-8")
    replies = ("b", f"{THOUGHT}b", "<b>")
    rows = [Row(str(i), (Message("user", "a"), Message("assistant", r)), "", "") for i, r in enumerate(replies)]
    layout = {"family": "qwen", "template": template}
    values = {"model": str(tmp_path), "max_prompt_tokens": 64, "max_reply_tokens": 64, "layout": layout}
    tokeniser = Tokeniser(values)
    assert len(list(tokeniser.rows(rows))) == 3
    assert re.search(line, told(tokeniser.layout, tokeniser.thoughts))
