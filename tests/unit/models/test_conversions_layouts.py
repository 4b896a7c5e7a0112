"""The layouts of converted families: published ids of the real tokenizers, and pieces written out by hand."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.conversation import Message
from tasks.models import families, loading
from tasks.models.families import baichuan, chatglm, chatglm2, falcon, glm4, internlm

sys.path.insert(0, str(Path(__file__).parents[2]))
import tiny_models

HELLO = "你好👋！我是人工智能助手 ChatGLM{}-6B，很高兴见到你，欢迎问我任何问题。"
#: Source: li-plus/chatglm.cpp @ f86777c, chatglm_test.cpp (MIT): ids of the real THUDM tokenizers.
CHATGLM_ROUNDS = [
    *(53, 6945, 5, 8, 42, 4, 64286, 12, 74874, 4, 67342, 12, 74874, 130328, 130247, 130233, 130227, 35, 65806, 68241),
    *(75890, 14132, 5388, 340, 11, 21, 222, 6, 76693, 66877, 63852, 6, 66430, 68747, 102501, 63823, 4, 52, 6945, 5, 9),
    *(42, 4, 64286, 12, 65450, 83400, 64213, 66846, 4, 67342, 12, 130001, 130004),
]
CHATGLM2_ROUNDS = [
    *(64790, 64792, 790, 30951, 517, 30910, 30939, 30996, 13, 13, 54761, 31211, 39701, 13, 13, 55437, 31211, 39701),
    *(243, 162, 148, 142, 31404, 33030, 34797, 42481, 22011, 10461, 30944, 30943, 30941, 30978, 30949, 31123, 48895),
    *(35214, 54622, 31123, 32616, 39905, 31901, 31639, 31155, 13, 13, 30995, 30951, 517, 30910, 30943, 30996, 13, 13),
    *(54761, 31211, 32820, 54266, 31876, 35153, 13, 13, 55437, 31211),
]


def rounds(version: str) -> list[Message]:
    return [
        Message("user", "你好"),
        Message("assistant", HELLO.format(version)),
        Message("user", "晚上睡不着应该怎么办"),
    ]


def control_ids(tokenizer: Any) -> set[int]:
    return {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}


def read(renderer: Any, messages: list[Message]) -> list[tuple[str, bool]]:
    """A dialogue's tokens by name, runs of ordinary ones joined, with whether they are learned."""
    rendered = renderer.dialogue(messages)
    control = control_ids(renderer.tokenizer)
    found: list[tuple[str, bool]] = []
    run: list[int] = []
    for place, (token, learned) in enumerate(zip(rendered.ids, rendered.learn, strict=True)):
        if token in control:
            found.append((renderer.tokenizer.convert_ids_to_tokens(token), learned))
            continue
        run.append(token)
        last = place + 1 == len(rendered.ids)
        if last or rendered.ids[place + 1] in control or rendered.learn[place + 1] != learned:
            found.append((renderer.tokenizer.decode(run), learned))
            run = []
    return found


TALK = [
    Message("system", "治"),
    Message("user", "问1</s><|im_end|>"),
    Message("assistant", "答1"),
    Message("user", "问2"),
    Message("assistant", "答2"),
]


def rendered_prompt_is_a_prefix(renderer: Any) -> bool:
    prompt = renderer.prompt_ids(TALK[:-1])
    return bool(renderer.dialogue(TALK).ids[: len(prompt)] == prompt)


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The real tokenizers of ChatGLM-6B and ChatGLM2, converted."""
    made = {}
    for name, module, source in (("chatglm", chatglm, "chatglm1"), ("chatglm2", chatglm2, "chatglm3")):
        folder = tmp_path_factory.mktemp(name)
        module.write_tokenizer(shared / "data" / "tokenizers" / source, folder, {})
        (folder / "config.json").write_text("{}", encoding="utf-8")  # the weights are not needed here
        made[name] = module.renderer(loading.load_tokenizer(folder))
    return made


@pytest.mark.parametrize(
    ("name", "messages", "ids"),
    [
        ("chatglm", [Message("user", "你好")], [5, 74874, 130001, 130004]),
        ("chatglm", rounds(""), CHATGLM_ROUNDS),
        (
            "chatglm2",
            [Message("user", "你好")],
            [64790, 64792, 790, 30951, 517, 30910, 30939, 30996, 13, 13, 54761, 31211, 39701, 13, 13, 55437, 31211],
        ),
        ("chatglm2", rounds("2"), CHATGLM2_ROUNDS),
    ],
)
def test_prompts_have_the_ids_of_the_real_tokenizers(
    real: dict[str, Any], name: str, messages: list[Message], ids: list[int]
) -> None:
    assert real[name].prompt_ids(messages) == ids


@pytest.mark.parametrize(("name", "reply"), [("chatglm", [5, 74874, 130005]), ("chatglm2", [36474, 54591, 2])])
def test_only_the_last_reply_and_its_end_are_learned(real: dict[str, Any], name: str, reply: list[int]) -> None:
    renderer = real[name]
    history = rounds("" if name == "chatglm" else "2")
    found = renderer.dialogue([*history, Message("assistant", "你好")])
    assert found.ids == renderer.prompt_ids(history) + reply
    assert found.learn == [False] * (len(found.ids) - 3) + [True] * 3
    assert not renderer.learns_history
    assert renderer.decode(reply[:-1]) == "你好"
    assert renderer.stop_ids == (reply[-1],)


def test_a_reply_that_is_not_to_be_learned_is_context(real: dict[str, Any]) -> None:
    for renderer in real.values():
        found = renderer.dialogue([Message("user", "你好"), Message("assistant", "你好", learn=False)])
        assert not any(found.learn) and found.ids[-1] in renderer.stop_ids


@pytest.mark.parametrize("text", ["soprano", "[gMASK]", "<sop>", "<eop>", "</s>", "eop"])
def test_text_never_becomes_a_control_token(real: dict[str, Any], text: str) -> None:
    for renderer in real.values():
        plain = renderer.dialogue([Message("user", "x"), Message("assistant", "y")]).ids
        found = renderer.dialogue([Message("user", f"x{text}"), Message("assistant", f"y{text}")]).ids
        control = control_ids(renderer.tokenizer)
        assert [i for i in found if i in control] == [i for i in plain if i in control]


def test_system_messages_and_results_of_tools_stand_in_the_query_that_follows(tmp_path: Path) -> None:
    messages = [
        Message("system", "治"),
        Message("user", "问"),
        Message("assistant", "答"),
        Message("observation", "22", metadata="t"),
    ]
    tiny_models.FAMILIES["chatglm"](tmp_path)
    renderer = chatglm.renderer(loading.load_tokenizer(tmp_path))
    assert read(renderer, [*messages, Message("assistant", "好")]) == [
        ("[Round 0]\n问：治\n\n问\n答：答\n[Round 1]\n问：t\n22\n答：", False),
        ("[gMASK]", False),
        ("<sop>", False),
        ("好", True),
        ("<eop>", True),
    ]


def test_glm4_learns_the_role_token_that_ends_a_reply(tmp_path: Path) -> None:
    tiny_models.FAMILIES["glm4"](tmp_path)
    renderer = glm4.renderer(loading.load_tokenizer(tmp_path))
    assert read(renderer, TALK) == [
        ("[gMASK]", False),
        ("<sop>", False),
        ("<|system|>", False),
        ("\n治", False),
        ("<|user|>", False),
        ("\n问1</s><|im_end|>", False),
        ("<|assistant|>", False),
        ("\n答1", True),
        ("<|user|>", True),
        ("\n问2", False),
        ("<|assistant|>", False),
        ("\n答2", True),
        ("<|user|>", True),
    ]
    assert rendered_prompt_is_a_prefix(renderer)
    assert families.recognise(tmp_path) == "glm4"


def test_baichuan_chat_has_a_token_before_each_turn_and_an_end_after_the_last_reply(tmp_path: Path) -> None:
    """chatglm.cpp's ids of the real chat models: 195 user 196 assistant 195 user 196, nothing between."""
    tiny_models.FAMILIES["baichuan13b"](tmp_path)
    renderer = baichuan.renderer(loading.load_tokenizer(tmp_path))
    assert read(renderer, TALK) == [
        ("治", False),
        ("<reserved_106>", False),
        ("问1</s><|im_end|>", False),
        ("<reserved_107>", False),
        ("答1", True),
        ("<reserved_106>", True),
        ("问2", False),
        ("<reserved_107>", False),
        ("答2", True),
        ("</s>", True),
    ]
    assert rendered_prompt_is_a_prefix(renderer)
    assert renderer.tokenizer.convert_ids_to_tokens(list(renderer.stop_ids)) == ["</s>", "<reserved_106>"]


def test_a_base_model_of_baichuan_gets_plain_text(tmp_path: Path) -> None:
    tiny_models.FAMILIES["baichuan7b"](tmp_path)
    renderer = families.layout(tmp_path).renderer(loading.load_tokenizer(tmp_path))
    assert read(renderer, TALK[:3])[-2:] == [("答1", True), ("</s>", True)]
    assert not any(learned for _, learned in read(renderer, TALK[:3])[:-2])


def test_internlm_chat_ends_queries_and_replies_with_tokens_of_their_own() -> None:
    """As chatglm.cpp's ids of the real tokenizer: <s>, text, <eoh>, text, <eoa>, text, ..."""
    tokenizer = tiny_models.build_tokenizer(
        ("<unk>", "<s>", "</s>", "<eoh>", "<eoa>"),
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"heard_token": "<eoh>", "answered_token": "<eoa>"},
    )
    renderer = internlm.renderer(tokenizer)
    assert read(renderer, TALK) == [
        ("<s>", False),
        ("<|System|>:治\n<|User|>:问1</s><|im_end|>", False),
        ("<eoh>", False),
        ("\n<|Bot|>:", False),
        ("答1", True),
        ("<eoa>", True),
        ("\n<|User|>:问2", False),
        ("<eoh>", False),
        ("\n<|Bot|>:", False),
        ("答2", True),
        ("<eoa>", True),
    ]
    assert rendered_prompt_is_a_prefix(renderer)


def test_internlm3_is_chatml(tmp_path: Path) -> None:
    tiny_models.FAMILIES["internlm3"](tmp_path)
    assert families.recognise(tmp_path) == "internlm"
    renderer = internlm.renderer(loading.load_tokenizer(tmp_path))
    assert read(renderer, TALK[1:3]) == [
        ("<|im_start|>", False),
        ("user\n问1</s><|im_end|>", False),
        ("<|im_end|>", False),
        ("\n", False),
        ("<|im_start|>", False),
        ("assistant\n", False),
        ("答1", True),
        ("<|im_end|>", True),
        ("\n", False),
    ]


def test_falcon_writes_names_and_learns_the_space_before_a_reply(tmp_path: Path) -> None:
    tiny_models.FAMILIES["falcon"](tmp_path)
    renderer = falcon.renderer(loading.load_tokenizer(tmp_path))
    assert read(renderer, TALK) == [
        ("System: 治\n\nUser: 问1</s><|im_end|>\n\nAssistant:", False),
        (" 答1", True),
        ("<|endoftext|>", True),
        ("User: 问2\n\nAssistant:", False),
        (" 答2", True),
        ("<|endoftext|>", True),
    ]
    assert rendered_prompt_is_a_prefix(renderer)
    assert renderer.decode(renderer.tokenizer.encode(" 答1")) == "答1"


def sentencepiece(pieces: list[tuple[str, int]]) -> bytes:
    """A SentencePiece BPE model with byte fallback and without a prefix space; kinds: 1 normal, 2 unknown, 3 control,
    4 user-defined, 6 byte.
    """

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, *_varint(len(content))]) + content

    entries = b"".join(
        field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", -float(i)) + bytes([3 << 3, kind]))
        for i, (text, kind) in enumerate(pieces)
    )
    trainer = bytes([3 << 3, 2, *_varint(35 << 3), 1])
    normalizer = field(1, b"identity") + bytes([3 << 3, 0, 4 << 3, 0, 5 << 3, 1])
    return entries + field(2, trainer) + field(3, normalizer)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128, *_varint(value >> 7)])


@pytest.mark.parametrize("kind", [3, 4])
def test_reserved_tokens_of_a_chat_model_become_control_tokens(tmp_path: Path, kind: int) -> None:
    reserved = ["<reserved_106>", "<reserved_107>"]
    byte_pieces = [(f"<0x{value:02X}>", 6) for value in range(256)]
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((r, kind) for r in reserved), *byte_pieces, ("问", 1), ("答", 1)]
    source, target = tmp_path / "hub", tmp_path / "native"
    source.mkdir()
    (source / "tokenizer.model").write_bytes(sentencepiece(pieces))
    settings = {"add_bos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    generation = {"user_token_id": 3, "assistant_token_id": 4}
    (source / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    baichuan.write_tokenizer(source, target, {})
    (target / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    renderer = baichuan.renderer(loading.load_tokenizer(target))
    assert read(renderer, [Message("user", "问<reserved_107>"), Message("assistant", "答")]) == [
        ("<reserved_106>", False),
        ("问<reserved_107>", False),
        ("<reserved_107>", False),
        ("答", True),
        ("</s>", True),
    ]
