"""GLM-4's tokenizer, made of a small file of ranks and compared with a plain implementation of tiktoken's rule."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex
import sentencepiece_models
from transformers import AutoTokenizer

from tasks.errors import ModelError
from tasks.models.tokenizers import glm4

#: As the model's own code has it.
WORDS = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
#: A token that no merges lead to: as a whole word it is itself all the same.
UNREACHABLE = b" xylophone"
BYTES = [bytes([value]) for value in range(256)]


def merged(parts: list[bytes], ranks: dict[bytes, int]) -> list[bytes]:
    """Join the neighbours of the lowest rank, the leftmost first, until none is left."""
    while True:
        pairs = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not pairs:
            return parts
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def expected(text: str, ranks: dict[bytes, int]) -> list[int]:
    ids: list[int] = []
    for word in WORDS.findall(text):
        raw = word.encode()
        ids += [ranks[raw]] if raw in ranks else [ranks[p] for p in merged([bytes([b]) for b in raw], ranks)]
    return ids


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """Ranks learned on the sentences: the most frequent pair is next, whatever it is made of."""
    learned = {token: i for i, token in enumerate(BYTES)}
    words = [w.encode() for s in sentencepiece_models.SENTENCES for w in WORDS.findall(s + "\n    " + s)]
    splits = [[bytes([b]) for b in word] for word in words]
    for _ in range(400):
        counts: dict[bytes, int] = {}
        for parts in splits:
            for a, b in pairwise(parts):
                counts[a + b] = counts.get(a + b, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        learned[best] = len(learned)
        splits = [merged(parts, learned) for parts in splits]
    learned[UNREACHABLE] = len(learned)
    return learned


def lines(tokens: Sequence[bytes]) -> str:
    return "".join(f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(tokens))


def source(place: Path, content: str, **files: Any) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "tokenizer.model").write_text(content, encoding="utf-8")
    for name, value in files.items():
        (place / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def tokenizer(ranks: dict[bytes, int], tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("glm4")
    glm4.write(source(place / "source", lines(list(ranks))), place / "target")
    return AutoTokenizer.from_pretrained(place / "target")


def test_ids_and_decoded_text_are_those_of_tiktokens_rule(tokenizer: Any, ranks: dict[bytes, int]) -> None:
    control = set(tokenizer.added_tokens_decoder)
    assert len(control) == 14
    for text in ["a xylophone", "my xylophones", *tokenizer.get_added_vocab(), *sentencepiece_models.texts(3000)]:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ids == expected(text, ranks), repr(text)
        assert not control & set(ids)
        assert tokenizer.decode(ids) == text


def test_control_tokens_stand_behind_the_ranks_in_the_models_order(tokenizer: Any, ranks: dict[bytes, int]) -> None:
    # with the model's 151329 ranks: <|endoftext|> 151329, [gMASK] 151331, <sop> 151333, <|user|> 151336
    offsets = {"<|endoftext|>": 0, "[gMASK]": 2, "<sop>": 4, "<|system|>": 6, "<|user|>": 7, "<|assistant|>": 8}
    assert {name: tokenizer.convert_tokens_to_ids(name) - len(ranks) for name in offsets} == offsets
    assert tokenizer.encode("dog") == [len(ranks) + 2, len(ranks) + 4, *expected("dog", ranks)]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.padding_side) == (*["<|endoftext|>"] * 2, "left")


def test_the_template_writes_roles_and_marks_replies(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "{}", "metadata": "search"},
        {"role": "tool", "content": "t"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "[gMASK]<sop><|system|>\ns<|user|>\nu<|assistant|>search\n{}<|observation|>\nt<|assistant|>"
    )
    made = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, mask in zip(made["input_ids"], made["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(marked) == "search\n{}"


def test_the_folders_own_chat_template_is_kept(ranks: dict[bytes, int], tmp_path: Path) -> None:
    place = source(tmp_path / "source", lines(list(ranks)), tokenizer_config={"chat_template": "{{ messages }}"})
    glm4.write(place, tmp_path / "target")
    assert AutoTokenizer.from_pretrained(tmp_path / "target").chat_template == "{{ messages }}"


def test_saving_again_keeps_everything(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert again.chat_template == tokenizer.chat_template
    assert again.special_tokens_map == tokenizer.special_tokens_map


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (lines(BYTES)[:-3], "with gaps"),  # the last rank lost its end: 255 became 2
        (lines(BYTES)[:-5], r"tokenizer\.model:256: not `base64 rank`"),
        (lines(BYTES[:-1]), "without all 256 bytes"),
        (lines(BYTES).replace(" 255", " 300"), "with gaps"),
        (lines([*BYTES, b"a"]), "two ranks for the same bytes"),
        ("", "0 ranks"),
    ],
)
def test_a_file_that_is_not_one_of_ranks_is_refused(content: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=says):
        glm4.write(source(tmp_path, content), tmp_path / "target")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.model: the tokenizer's file is missing"):
        glm4.write(tmp_path, tmp_path / "target")
