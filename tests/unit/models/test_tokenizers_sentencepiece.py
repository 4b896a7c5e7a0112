"""Tokenizers made of SentencePiece models: every setting that changes ids, compared with sentencepiece itself."""

from __future__ import annotations

import copy
import json
import pickle
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import sentencepiece_models
from sentencepiece import sentencepiece_model_pb2
from sentencepiece_models import folder, train
from transformers import AutoTokenizer

from tasks.errors import ModelError
from tasks.models.tokenizers import sentencepiece as made_of_sentencepiece
from tasks.models.tokenizers.sentencepiece import load, needed, write

SYMBOLS = ["<|user|>", "<n>", "<|blank_2|>"]
CONTROL = ["<|im_end|>", "sop"]
LLAMA = {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False}


def reference(model: bytes) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def converted(tmp_path: Path, model: bytes, **files: dict[str, Any]) -> Any:
    write(folder(tmp_path / "source", model, **files), tmp_path / "target")
    return AutoTokenizer.from_pretrained(tmp_path / "target")


def plain(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


@pytest.mark.parametrize(
    ("rule", "prefix", "strip"),
    [
        *product(["identity", "nmt_nfkc"], [True, False], [True, False]),
        *product(["nfkc", "nmt_nfkc_cf", "nfkc_cf"], [True], [True]),
    ],
)
@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_ids_and_decoded_text_are_those_of_sentencepiece(
    algorithm: str, rule: str, prefix: bool, strip: bool, tmp_path: Path
) -> None:
    for fallback, symbols in ((True, SYMBOLS), (False, [])):
        model = train(
            1100,
            model_type=algorithm,
            normalization_rule_name=rule,
            add_dummy_prefix=prefix,
            remove_extra_whitespaces=strip,
            byte_fallback=fallback,
            split_digits=fallback,
            user_defined_symbols=symbols,
            control_symbols=CONTROL,
        )
        original, tokenizer = reference(model), converted(tmp_path / str(fallback), model)
        control = {i for i in range(original.get_piece_size()) if original.is_control(i)}
        for text in sentencepiece_models.texts(300):
            if algorithm == "bpe" and text in symbols:
                continue  # a text that is one symbol and nothing else gets no prefix space: a known limit
            ids = original.encode(text)
            assert plain(tokenizer, text) == ids, repr(text)
            assert not control & set(ids)
            if fallback:  # without, sentencepiece decodes unknown characters as a sign of its own
                assert tokenizer.decode(ids) == original.decode(ids), repr(text)
        assert [tokenizer.convert_tokens_to_ids(s) for s in symbols] == [original.piece_to_id(s) for s in symbols]


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_three_thousand_texts_agree_with_a_model_like_llamas(algorithm: str, tmp_path: Path) -> None:
    model = train(1500, model_type=algorithm, split_digits=True, **LLAMA)
    original, tokenizer = reference(model), converted(tmp_path, model)
    pieces = [original.id_to_piece(i) for i in range(original.get_piece_size())]
    different = [t for t in sentencepiece_models.texts(3000, pieces) if plain(tokenizer, t) != original.encode(t)]
    assert different == []


def test_merges_follow_the_scores_and_not_the_ids(tmp_path: Path) -> None:
    proto = sentencepiece_model_pb2.ModelProto.FromString(train(1500, **LLAMA))
    scores = [piece.score for piece in proto.pieces]
    order = list(range(259, len(scores)))  # behind the control and byte pieces
    random.Random(3).shuffle(order)
    for i, other in zip(range(259, len(scores)), order, strict=True):
        proto.pieces[i].score = scores[other]
    model = proto.SerializeToString()
    original, tokenizer = reference(model), converted(tmp_path, model)
    assert all(plain(tokenizer, text) == original.encode(text) for text in sentencepiece_models.texts(500))


def appended(model: bytes, more: bytes) -> bytes:
    """A model with the pieces of another behind its own, all with one score, as Chinese-LLaMA was made."""
    first, second = (sentencepiece_model_pb2.ModelProto.FromString(m) for m in (model, more))
    known = {piece.piece for piece in first.pieces}
    for piece in first.pieces:
        piece.score += (
            0.0  # no -0.0: sentencepiece releases since 0.2 put it below 0.0, those of the models' time did not
        )
    for piece in second.pieces:
        if piece.piece not in known:
            first.pieces.add(piece=piece.piece, score=0.0)
    return bytes(first.SerializeToString())


@pytest.fixture(scope="module")
def chinese_llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    english = [s for s in sentencepiece_models.SENTENCES if s.isascii()]
    model = appended(train(400, english, **LLAMA), train(1500))
    size = len(sentencepiece_model_pb2.ModelProto.FromString(model).pieces)
    place = folder(
        tmp_path_factory.mktemp("chinese") / "source",
        model,
        tokenizer_config={"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"},
        added_tokens={"[PAD]": size},
        special_tokens_map={"pad_token": "[PAD]", "unk_token": {"content": "<unk>", "lstrip": False}},
    )
    return place, model


def test_among_merges_with_one_score_the_leftmost_is_first(chinese_llama: tuple[Path, bytes], tmp_path: Path) -> None:
    source, model = chinese_llama
    write(source, tmp_path / "target")
    original = reference(model)
    texts = sentencepiece_models.texts(2000)
    expected = [original.encode(text) for text in texts]
    assert needed(tmp_path / "target")
    for place in (tmp_path / "target", source):  # written, and as it came
        tokenizer = load(place)
        assert [plain(tokenizer, text) for text in texts] == expected
        assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("[PAD]", original.get_piece_size())
        assert len(tokenizer) == original.get_piece_size() + 1
    written = AutoTokenizer.from_pretrained(tmp_path / "target")  # why it is needed
    assert [plain(written, text) for text in texts] != expected


def test_a_leftmost_tokenizer_can_be_copied_and_saved(chinese_llama: tuple[Path, bytes], tmp_path: Path) -> None:
    source, model = chinese_llama
    tokenizer, original = load(source), reference(model)
    tokenizer.save_pretrained(tmp_path)
    assert needed(tmp_path)
    texts = sentencepiece_models.texts(300)
    for other in (tokenizer, load(tmp_path), copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert [plain(other, text) for text in texts] == [original.encode(text) for text in texts]
        assert other.encode("你好")[0] == other.bos_token_id == 1


def test_the_ends_of_a_text_are_those_of_the_configuration(tmp_path: Path) -> None:
    model = train(**LLAMA)
    ids = reference(model).encode("the dog")
    for i, (config, expected) in enumerate(
        [
            ({}, [1, *ids]),
            ({"add_bos_token": False}, ids),
            ({"add_bos_token": True, "add_eos_token": True}, [1, *ids, 2]),
            ({"bos_token": "", "eos_token": ""}, [1, *ids]),  # the first LLaMA conversions: no names at all
        ]
    ):
        assert converted(tmp_path / str(i), model, tokenizer_config=config).encode("the dog") == expected


def test_a_reserved_piece_takes_its_new_name_and_is_no_text(tmp_path: Path) -> None:
    for algorithm in ("bpe", "unigram"):
        model = train(model_type=algorithm, user_defined_symbols=["[UNUSED_1]", "<|user|>"], **LLAMA)
        original = reference(model)
        reserved, user, size = original.piece_to_id("[UNUSED_1]"), original.piece_to_id("<|user|>"), len(original)
        table = {
            str(reserved): {"content": "<|im_start|>", "special": True},
            str(user): {"content": "<|user|>", "special": True},
            str(size): {"content": "<|plugin|>", "special": True},
        }
        tokenizer = converted(tmp_path / algorithm, model, tokenizer_config={"added_tokens_decoder": table})
        assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|user|>", "<|plugin|>"]) == [reserved, user, size]
        text = "the<|im_start|> <|user|>"
        assert {reserved, user} <= set(tokenizer.encode(text))
        assert not {reserved, user} & set(plain(tokenizer, text))
        assert tokenizer.decode(plain(tokenizer, text)) == text


def test_the_folders_own_chat_template_is_kept(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = converted(tmp_path, train(**LLAMA), tokenizer_config={"chat_template": template})
    assert tokenizer.chat_template == template
    assert converted(tmp_path / "base", train(**LLAMA)).chat_template is None


def test_a_llama_folder_does_not_build_its_tokenizer_anew(tmp_path: Path) -> None:
    model = train(1100, **{**LLAMA, "normalization_rule_name": "nmt_nfkc", "add_dummy_prefix": False})
    tokenizer = converted(tmp_path, model)
    (tmp_path / "target" / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    again = AutoTokenizer.from_pretrained(tmp_path / "target")
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert plain(again, "Ａ dog") == reference(model).encode("Ａ dog")


def test_saving_again_keeps_everything(tmp_path: Path) -> None:
    tokenizer = converted(tmp_path, train(user_defined_symbols=SYMBOLS, **LLAMA), added_tokens={"[PAD]": 700})
    tokenizer.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert again.special_tokens_map == tokenizer.special_tokens_map


def test_a_native_folder_with_only_the_model_is_loaded_here(tmp_path: Path) -> None:
    model = train(1100, **LLAMA)
    place = folder(tmp_path / "native", model, config={"model_type": "llama"}, tokenizer_config={})
    assert needed(place)
    tokenizer, original = load(place), reference(model)
    assert all(plain(tokenizer, text) == original.encode(text) for text in sentencepiece_models.texts(300))
    (place / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert not needed(place)
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    assert not needed(tmp_path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model_type": "char"}, "model_type=4"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix=true"),
        ({"escape_whitespaces": False}, "escape_whitespaces=false"),
        ({"normalization_rule_tsv": "rule.tsv"}, "normalization rule"),
    ],
)
def test_a_setting_that_cannot_be_kept_is_refused(
    options: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rule.tsv").write_text("41\t42\n", encoding="utf-8")  # A becomes B
    if "escape_whitespaces" in options:
        proto = sentencepiece_model_pb2.ModelProto.FromString(train())
        proto.normalizer_spec.escape_whitespaces = False
        model = proto.SerializeToString()
    else:
        model = train(**options)
    with pytest.raises(ModelError, match=says):
        write(folder(tmp_path / "source", model), tmp_path / "target")


def test_unused_pieces_and_double_pieces_are_refused(tmp_path: Path) -> None:
    proto = sentencepiece_model_pb2.ModelProto.FromString(train())
    proto.pieces[300].type = sentencepiece_model_pb2.ModelProto.SentencePiece.UNUSED
    with pytest.raises(ModelError, match="unused pieces"):
        write(folder(tmp_path / "unused", proto.SerializeToString()), tmp_path / "target")
    proto.pieces[300].CopyFrom(proto.pieces[301])
    with pytest.raises(ModelError, match="twice"):
        write(folder(tmp_path / "double", proto.SerializeToString()), tmp_path / "target")


def test_files_of_different_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'\[PAD\]' has the id 49953"):
        converted(tmp_path, train(), added_tokens={"[PAD]": 49953})
    with pytest.raises(ModelError, match="not a table of tokens and ids"):
        converted(tmp_path, train(), added_tokens={"[PAD]": "x"})
    (tmp_path / "source" / "added_tokens.json").write_text('{"[PAD]"', encoding="utf-8")
    with pytest.raises(ModelError, match=r"added_tokens\.json: not JSON"):
        write(tmp_path / "source", tmp_path / "target")


@pytest.mark.parametrize("content", [None, b"version https://git-lfs.github.com/spec/v1\n", b"\n\xff"])
def test_a_missing_or_foreign_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer.model").write_bytes(content)
        assert needed(tmp_path)
    for attempt in (lambda: write(tmp_path, tmp_path / "out"), lambda: load(tmp_path)):
        with pytest.raises(ModelError, match=r"tokenizer\.model"):
            attempt()


def test_two_writes_into_one_folder_leave_the_last(chinese_llama: tuple[Path, bytes], tmp_path: Path) -> None:
    source, model = chinese_llama
    write(source, tmp_path)
    (tmp_path / "chat_template.jinja").write_text("old", encoding="utf-8")
    write(folder(tmp_path / "other", train(**LLAMA)), tmp_path)
    assert not needed(tmp_path)
    assert not (tmp_path / "chat_template.jinja").exists()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "pad_token" not in config
    write(source, tmp_path)
    assert (tmp_path / made_of_sentencepiece.MODEL).read_bytes() == model
