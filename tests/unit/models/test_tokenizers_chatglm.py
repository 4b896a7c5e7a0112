"""The ChatGLM tokenizers: ids of the models' own tokenizers, of sentencepiece, and what reloading keeps.

The vocabularies themselves are not in the project: these tests are skipped without the reference data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import sentencepiece_models
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tasks.errors import ModelError
from tasks.models.tokenizers import chatglm, chatglm3

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "tokenizer_ids.json").read_text(encoding="utf-8"))
COUNT = 3000
FILES = {
    "chatglm": "chatglm1/ice_text.model",
    "chatglm2": "chatglm3/tokenizer.model",
    "chatglm3": "chatglm3/tokenizer.model",
}
WRITE: dict[str, Callable[[Path, Path], None]] = {
    "chatglm": chatglm.write,
    "chatglm2": lambda source, target: chatglm3.write(source, target, roles=False),
    "chatglm3": lambda source, target: chatglm3.write(source, target, roles=True),
}
FAMILIES = pytest.mark.parametrize("family", sorted(FILES))


@pytest.fixture(scope="module")
def made(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The tokenizer of a family, written and loaded as any program would."""
    loaded: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in loaded:
            target = tmp_path_factory.mktemp(family)
            WRITE[family]((shared / "data" / "tokenizers" / FILES[family]).parent, target)
            loaded[family] = AutoTokenizer.from_pretrained(target)
        return loaded[family]

    return get


@pytest.fixture(scope="module")
def original(shared: Path) -> Callable[[str], Any]:
    def get(family: str) -> Any:
        return sentencepiece.SentencePieceProcessor(model_file=str(shared / "data" / "tokenizers" / FILES[family]))

    return get


def texts(family: str, original: Callable[[str], Any], shared: Path) -> list[str]:
    model = original(family)
    pieces = [model.id_to_piece(i) for i in range(0, model.get_piece_size(), 3)]
    return sentencepiece_models.texts(COUNT, pieces, sentencepiece_models.real_lines(shared))


def prepared(family: str, text: str) -> str:
    """What the hub's code gives to sentencepiece."""
    if family != "chatglm":
        return text
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    return re.sub(" {2,80}", lambda run: f"<|blank_{len(run[0])}|>", text)


def restored(family: str, text: str) -> str:
    """What the hub's code makes of sentencepiece's text."""
    if family != "chatglm":
        return text
    text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
    return re.sub(r"<\|blank_(\d+)\|>", lambda run: " " * int(run[1]), text)


def plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


@FAMILIES
def test_text_gets_the_ids_that_the_model_was_trained_with(family: str, made: Callable[[str], Any]) -> None:
    for text, ids in GOLDEN[family]["texts"]:
        assert made(family).encode(text) == ids


def test_codegeex2s_file_of_the_same_vocabulary_adds_no_prefix_space(shared: Path, tmp_path: Path) -> None:
    proto = ModelProto.FromString((shared / "data" / "tokenizers" / FILES["chatglm2"]).read_bytes())
    proto.normalizer_spec.add_dummy_prefix = False
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    WRITE["chatglm2"](tmp_path, tmp_path / "target")
    for text, ids in GOLDEN["codegeex2"]["texts"]:
        assert AutoTokenizer.from_pretrained(tmp_path / "target").encode(text) == ids


@FAMILIES
def test_the_chat_template_gives_the_ids_that_the_model_was_trained_with(
    family: str, made: Callable[[str], Any]
) -> None:
    for messages, ids in GOLDEN[family]["chats"]:
        assert made(family).apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ids


@FAMILIES
def test_ids_and_decoded_text_are_those_of_sentencepiece(
    family: str, made: Callable[[str], Any], original: Callable[[str], Any], shared: Path
) -> None:
    tokenizer, model = made(family), original(family)
    tied = 0
    for text in texts(family, original, shared):
        ids = model.encode(prepared(family, text))
        found = plain(tokenizer, text)
        if family == "chatglm" and sorted(found) == sorted(ids):
            # the same pieces in another order ("...", "." or ".", "..."): which sum of scores is greater depends on the
            # rounding of sentencepiece's 32-bit numbers
            tied += found != ids
        else:
            assert found == ids, repr(text)
        assert tokenizer.decode(ids) == restored(family, model.decode(ids)), repr(text)
    assert tied <= 5


@FAMILIES
def test_no_text_becomes_a_control_token(
    family: str, made: Callable[[str], Any], original: Callable[[str], Any], shared: Path
) -> None:
    tokenizer = made(family)
    control = set(tokenizer.all_special_ids)
    assert {"[gMASK]", "</s>"} <= {tokenizer.convert_ids_to_tokens(i) for i in tokenizer.added_tokens_decoder}
    for text in [*tokenizer.get_added_vocab(), *texts(family, original, shared)]:
        assert not control & set(plain(tokenizer, text)), repr(text)


@FAMILIES
def test_saving_again_keeps_everything(family: str, made: Callable[[str], Any], tmp_path: Path) -> None:
    tokenizer = made(family)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert again.chat_template == tokenizer.chat_template
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert (again.padding_side, again.pad_token_id) == ("left", tokenizer.pad_token_id)


def test_control_tokens_have_the_models_ids(made: Callable[[str], Any]) -> None:
    names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]
    roles = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    for family in ("chatglm2", "chatglm3"):
        tokenizer = made(family)
        assert tokenizer.convert_tokens_to_ids(names) == list(range(64789, 64794))
        assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert made("chatglm3").convert_tokens_to_ids(roles) == list(range(64794, 64798))
    assert not set(roles) & set(made("chatglm2").get_vocab())
    v1 = made("chatglm")
    assert v1.convert_tokens_to_ids(["[MASK]", "[gMASK]", "<sop>", "<eop>"]) == [130000, 130001, 130004, 130005]
    assert (v1.pad_token_id, v1.bos_token_id, v1.eos_token_id, v1.unk_token_id) == (3, 130004, 130005, 0)


def test_a_word_that_holds_a_control_tokens_name_stays_a_word_for_other_programs(made: Callable[[str], Any]) -> None:
    tokenizer = made("chatglm3")
    text = "a soprano eopen"
    assert tokenizer.encode(text, add_special_tokens=False) == plain(tokenizer, text)


def test_the_template_marks_replies_and_writes_tools(made: Callable[[str], Any]) -> None:
    tokenizer = made("chatglm3")
    tool = {"name": "get_weather", "description": "d", "parameters": {"type": "object"}}
    messages = [
        {"role": "system", "content": "帮忙"},
        {"role": "user", "content": "天气"},
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "京", "n": 1}}}],
        },
        {"role": "tool", "content": "22"},
        {"role": "assistant", "content": "晴"},
    ]
    options = {"tools": [{"type": "function", "function": tool}], "return_dict": True}
    made_of = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, **options)
    marked = [i for i, mask in zip(made_of["input_ids"], made_of["assistant_masks"], strict=True) if mask]
    call = "get_weather\n ```python\ntool_call(city='京', n=1)\n```"
    assert tokenizer.decode(marked) == f"{call} \n 晴"  # text behind a control token begins with a prefix space
    assert tokenizer.apply_chat_template(messages, tokenize=False, **options) == (
        "[gMASK]sop<|system|>\n Answer the following questions as best as you can. You have access to the following "
        f"tools:\n{json.dumps([tool], indent=4)}<|system|>\n 帮忙<|user|>\n 天气<|assistant|>{call}"
        "<|observation|>\n 22<|assistant|>\n 晴"
    )
    with pytest.raises(Exception, match="role critic"):
        tokenizer.apply_chat_template([{"role": "critic", "content": "x"}])


def test_rounds_and_the_last_reply_in_the_templates_of_the_first_two_versions(made: Callable[[str], Any]) -> None:
    messages = [
        {"role": "system", "content": "简短"},
        {"role": "user", "content": "一"},
        {"role": "assistant", "content": "甲"},
        {"role": "user", "content": "二"},
        {"role": "assistant", "content": "乙"},
    ]
    assert made("chatglm2").apply_chat_template(messages, tokenize=False) == (
        "[gMASK]sop[Round 1]\n\n问：简短\n\n一\n\n答：甲\n\n[Round 2]\n\n问：二\n\n答： 乙</s>"
    )
    assert made("chatglm").apply_chat_template(messages, tokenize=False) == (
        "[Round 0]\n问：简短\n\n一\n答：甲\n[Round 1]\n问：二\n答：[gMASK]<sop>乙<eop>"
    )
    assert made("chatglm").apply_chat_template(messages[1:3], tokenize=False) == "一[gMASK]<sop>甲<eop>"


def test_spacing_survives_in_the_first_version(made: Callable[[str], Any]) -> None:
    text = "if a:\n\tb =  1\n        c\n" + " " * 200 + "d"
    assert made("chatglm").decode(plain(made("chatglm"), text)) == text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "the tokenizer's file is missing"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:e7dc\nsize 1018370\n", "a git-lfs pointer"),
        (b"PK\x03\x04 an archive", "not a whole SentencePiece model"),
        (b"", "not a whole SentencePiece model"),
        (sentencepiece_models.train(), "not"),
    ],
)
@FAMILIES
def test_a_file_that_is_not_the_models_tokenizer_is_named(
    family: str, content: bytes | None, says: str, tmp_path: Path
) -> None:
    path = tmp_path / Path(FILES[family]).name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=says) as raised:
        WRITE[family](tmp_path, tmp_path / "out")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.999])
@FAMILIES
def test_a_file_that_was_cut_short_is_refused(family: str, kept: float, shared: Path, tmp_path: Path) -> None:
    content = (shared / "data" / "tokenizers" / FILES[family]).read_bytes()
    path = tmp_path / Path(FILES[family]).name
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ModelError, match="not a whole SentencePiece model"):
        WRITE[family](tmp_path, tmp_path / "out")


def test_other_programs_need_no_class_of_this_project(made: Callable[[str], Any]) -> None:
    assert type(made("chatglm")) is PreTrainedTokenizerFast
