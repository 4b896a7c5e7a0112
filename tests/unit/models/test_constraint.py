"""Constrained decoding: what the grammar of triples lets through, by hand; and real greedy replies under it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sentencepiece_models
import torch

from tasks.conversation import Message
from tasks.errors import ConfigError
from tasks.evaluation.metrics import triples
from tasks.models import constraint, loading
from tasks.models.constraint import Constraint, State
from tasks.models.embedded import FOLDER
from tasks.models.loading import Loaded
from tasks.models.tokenizers import chatglm, chatglm3, sentencepiece

xgrammar = pytest.importorskip("xgrammar", reason="xgrammar is not installed (extra: constrained)")

END = 256


def by_bytes() -> Constraint:
    """The grammar over a vocabulary of the 256 bytes, one that writes nothing, and the end."""
    return Constraint(constraint.TRIPLES, [*(bytes([i]) for i in range(256)), b"", b""], [END])


def allowed(made: Constraint, state: State, width: int = 258) -> set[int]:
    """The tokens that may come next in the only row."""
    return set(torch.isfinite(made.mask(state, torch.zeros(1, width)))[0].nonzero().flatten().tolist())


def accepts(made: Constraint, text: str) -> bool:
    """Whether the grammar lets a reply be this text, byte for byte, and end there."""
    state = made.start(1)
    for token in [*text.encode(), END]:
        if token not in allowed(made, state):
            return False
        made.accept(state, [token])
    return True


@pytest.mark.parametrize(
    "text",
    [
        "",
        "发动机_部件故障_水温高",
        "a_b_c",
        "a_b_c\nd_e_f\n油泵_组成_泵体",
        "\na_b_c",  # the line breaks that some layouts write around a reply
        "a_b_c\n",
        "水 温_部件 故障_ 高",  # spaces within and before a part
        "\\n_\"_'",
        "😀_é_ｅ",
    ],
)
def test_well_formed_answers_are_let_through(text: str) -> None:
    assert accepts(by_bytes(), text)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a_b",
        "a_b_",
        "_b_c",
        "a__c",
        "a_b_c_d",
        "a_b_c\nd_e",
        "a_b_c\n\nd_e_f",
        "a_ _c",  # a part of nothing but space
        "a_\u3000_c",
        "a_b_c\t",
        "a_b\r_c",
    ],
)
def test_malformed_answers_are_not(text: str) -> None:
    assert not accepts(by_bytes(), text)


def test_half_a_character_is_finished_before_anything_else() -> None:
    made = by_bytes()
    state = made.start(1)
    made.accept(state, ["高".encode()[0]])
    assert allowed(made, state) == set(range(0x80, 0xC0))


def test_tokens_that_write_nothing_are_never_allowed() -> None:
    made = by_bytes()
    assert 257 not in allowed(made, made.start(1))


def test_a_row_that_has_ended_is_left_alone_and_the_others_go_on() -> None:
    made = by_bytes()
    state = made.start(3)
    for tokens in ([END, ord("a"), ord("b")], [0, ord("_"), ord("x")]):
        made.accept(state, tokens)
    logits = torch.randn(3, 258)
    masked = made.mask(state, logits)
    assert torch.equal(masked[0], logits[0])
    assert masked[1, END] == masked[1, ord("_")] == float("-inf")  # "a_": a relation has to begin
    assert torch.isfinite(masked[2, ord("_")])  # "bx"
    later = State([state.matchers[row] for row in (2, 1)])
    assert torch.equal(made.mask(later, logits[[2, 1]]), masked[[2, 1]])


def test_a_token_that_was_ruled_out_is_an_error() -> None:
    made = by_bytes()
    with pytest.raises(ValueError, match="row 0: token 95 may not come next"):
        made.accept(made.start(1), [ord("_")])


def test_the_mask_keeps_the_logits_type_and_does_not_write_into_them() -> None:
    made = by_bytes()
    logits = torch.ones(1, 258, dtype=torch.bfloat16)
    masked = made.mask(made.start(1), logits)
    assert masked.dtype == torch.bfloat16
    assert torch.equal(logits, torch.ones_like(logits))


def test_an_unknown_grammar_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'triple'.*triples"):
        constraint.load("triple", loading.load_tokenizer(FOLDER), [1], 4495)


def test_without_xgrammar_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[constrained\]'"):
        constraint.load("triples", None, [1], 10)


def test_a_tokenizer_without_a_fast_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="object has no fast backend"):
        constraint.load("triples", object(), [1], 10)


# --- the bytes of real vocabularies -------------------------------------------------------------------------


def byte_level() -> Any:
    """A byte-level BPE of 400 tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentencepiece_models.SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")


def sentence_pieces(folder: Path, **options: Any) -> Any:
    as_it_is = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    settings = {"byte_fallback": True, "vocabulary": 900, **as_it_is, **options}
    sentencepiece_models.folder(folder, sentencepiece_models.train(**settings))
    sentencepiece.write(folder, folder / "made")
    return sentencepiece.load(folder / "made")


MAKERS: dict[str, Callable[[Path, Any], Any]] = {
    "embedded": lambda folder, _: loading.load_tokenizer(FOLDER),
    "byte_level": lambda folder, _: byte_level(),
    "sentencepiece_bpe": lambda folder, _: sentence_pieces(folder),
    "sentencepiece_unigram": lambda folder, _: sentence_pieces(folder, model_type="unigram"),
    "chatglm": lambda folder, data: _written(chatglm.write, data() / "chatglm1", folder),
    "chatglm3": lambda folder, data: _written(chatglm3.write, data() / "chatglm3", folder, roles=True),
}


def _written(write: Callable[..., None], source: Path, folder: Path, **options: Any) -> Any:
    from transformers import AutoTokenizer

    write(source, folder, **options)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_the_bytes_of_a_texts_tokens_are_the_text(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    tokenizer = MAKERS[name](tmp_path, lambda: request.getfixturevalue("shared") / "data" / "tokenizers")
    size = len(tokenizer) + 7
    found = constraint.token_bytes(tokenizer, size)
    assert (len(found), found[-1]) == (size, b"")
    assert found[tokenizer.eos_token_id] == b""
    for text in ("发动机_部件故障_水温高\n风扇_组成_叶片", "油  泵_性能故障_gh,Oil (9%) 😀龘", "a\n_b_ c"):
        ids = tokenizer.encode(f"1{text}", add_special_tokens=False)
        joined = b"".join(found[i] for i in ids).decode()
        assert joined.removeprefix(" ") == f"1{text}", name


# --- real replies -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> Loaded:
    torch.set_num_threads(1)
    return loading.load(FOLDER)


def prompts(loaded: Loaded) -> list[list[int]]:
    """Instructions and texts of random words: the model is asked for anything but well-formed triples."""
    rng = random.Random(5)
    words = ("发动机", "水温高", "_", "\n", "请列出", "三元组", "风扇", "不转", "abc", "油泵", "漏油", "：", "症状")
    texts = ["".join(rng.choices(words, k=rng.randint(3, 25))) for _ in range(24)]
    return [loaded.renderer.prompt_ids([Message("user", text)]) for text in texts]


@torch.inference_mode()
def greedy(loaded: Loaded, made: Constraint | None, asked: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
    """Greedy replies, end token included; rows that end leave the batch. Without a cache: the prompts are short."""
    replies: list[list[int]] = [[] for _ in asked]
    rows = list(range(len(asked)))
    state = made.start(len(rows)) if made else State([])
    while rows and len(replies[rows[0]]) < limit:
        ids = [torch.tensor([[*asked[row], *replies[row]]]) for row in rows]
        logits = torch.stack([loaded.model(input_ids=one).logits[0, -1] for one in ids])
        chosen = (made.mask(state, logits) if made else logits).argmax(-1).tolist()
        for row, token in zip(rows, chosen, strict=True):
            replies[row].append(token)
        on = [n for n, token in enumerate(chosen) if token not in loaded.renderer.stop_ids]
        if made:
            made.accept(state, chosen)
            state = State([state.matchers[n] for n in on])
        rows = [rows[n] for n in on]
    return replies


def test_constrained_greedy_replies_are_well_formed_whatever_is_asked(embedded: Loaded) -> None:
    asked = prompts(embedded)
    stop_ids, width = embedded.renderer.stop_ids, embedded.model.config.vocab_size
    free = greedy(embedded, None, asked, 24)
    assert sum(triples.parse(embedded.renderer.decode(ids)).malformed > 0 for ids in free) > 12
    made = constraint.load("triples", embedded.tokenizer, stop_ids, width)
    replies = greedy(embedded, made, asked, 24)
    ended = [ids for ids in replies if ids[-1] in stop_ids]
    for ids in replies:
        text = embedded.renderer.decode(ids)
        # a reply that was cut at its limit may end within a line
        parsed = triples.parse(text if ids[-1] in stop_ids else text.rpartition("\n")[0])
        assert parsed.malformed == 0, text
    assert any(triples.parse(embedded.renderer.decode(ids)).triples for ids in ended)
