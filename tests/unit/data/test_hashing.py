"""Folding agrees with unicodedata for every text, and hashes tell texts apart."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data import hashing

TEXTS = st.lists(
    st.text(max_size=20) | st.text("裙子，。？ＡＢａ１①㎏ﾞｶﾊﾞがe\u0301가각ßﬁİ \u3000\n", max_size=20), max_size=8
)


def texts_of(codes: hashing.Array, starts: hashing.Array) -> list[str]:
    return [codes[a:b].astype("<u4").tobytes().decode("utf-32-le") for a, b in pairwise(starts)]


@given(TEXTS)
def test_folding_is_nfkc(texts: list[str]) -> None:
    assert texts_of(*hashing.folded(texts)) == [unicodedata.normalize("NFKC", text) for text in texts]


@given(TEXTS)
def test_case_folding_makes_equal_what_differs_in_case_or_width(texts: list[str]) -> None:
    expected = [unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()) for text in texts]
    assert texts_of(*hashing.folded(texts, case=True)) == expected


@given(TEXTS)
def test_white_space_is_left_out(texts: list[str]) -> None:
    found = texts_of(*hashing.without_spaces(*hashing.folded(texts)))
    assert found == ["".join(unicodedata.normalize("NFKC", text).split()) for text in texts]


def test_every_simple_character_folds_by_the_table_alone() -> None:
    for case in (False, True):
        table = hashing._fold_table(case)
        simple = [chr(code) for code in np.flatnonzero(table != hashing._COMPLEX).tolist()]
        assert len(simple) > 30_000
        for text in simple:
            assert hashing.fold_simple(text, case) == hashing.fold(text, case)
        # and next to any other simple character too: nothing combines
        joined = "".join(simple)
        assert hashing.fold_simple(joined, case) == hashing.fold(joined, case)
        backwards = joined[::-1]
        assert hashing.fold_simple(backwards, case) == hashing.fold(backwards, case)


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=6), min_size=2, max_size=12))
def test_sequences_share_a_hash_only_when_they_are_equal(sequences: list[list[int]]) -> None:
    values = np.array([v for s in sequences for v in s], np.uint32)
    starts = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    hashes = hashing.sequence_hashes(values, starts).tolist()
    for i, one in enumerate(sequences):
        for j, other in enumerate(sequences):
            assert (hashes[i] == hashes[j]) == (one == other)


@given(TEXTS, st.integers(0, 3))
def test_a_texts_hash_does_not_depend_on_its_neighbours(texts: list[str], other: int) -> None:
    alone = [int(hashing.text_hashes(*hashing.folded([text]))[0]) for text in texts]
    assert hashing.text_hashes(*hashing.folded(texts)).tolist() == alone
    assert hashing.text_hashes(*hashing.folded(["邻居𠀀" * other, *texts]))[1:].tolist() == alone


def test_long_batches_are_hashed_in_slices_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, starts = hashing.folded(["甲乙丙" * n for n in range(12)])
    whole = hashing.text_hashes(codes, starts).tolist()
    monkeypatch.setattr(hashing, "_SLICE", 20)
    assert hashing.text_hashes(codes, starts).tolist() == whole


@pytest.mark.parametrize(
    "pair", [("ab", "ba"), ("a", "aa"), ("", "\0"), ("abc", "acb"), ("甲乙", "乙甲"), ("𠀀", "𠀁")]
)
def test_order_and_length_count(pair: tuple[str, str]) -> None:
    one, other = hashing.text_hashes(*hashing.folded(list(pair))).tolist()
    assert one != other


def test_the_low_and_the_high_bits_are_spread_evenly() -> None:
    hashes = hashing.text_hashes(*hashing.folded([f"第{i}件上衣" for i in range(20_000)]))
    assert len(np.unique(hashes)) == 20_000
    for bits in (hashes & np.uint64(15), hashes >> np.uint64(60)):
        counts = np.bincount(bits.astype(int), minlength=16)
        assert (abs(counts - 1250) < 200).all()  # 5.8 standard deviations
