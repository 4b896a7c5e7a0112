"""Near duplicates against a brute-force comparison of all pairs, and against datasketch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from tasks.conversation import Message, Row
from tasks.data import duplicates
from tasks.data.duplicates import Bands, gram_hashes, near_pairs
from tasks.data.hashing import fold
from tasks.data.processing import table
from tasks.data.source import Draft, Entry
from tasks.data.spool import Spool

CHARACTERS = "".join(chr(c) for c in range(0x4E00, 0x4E00 + 3000))


def spooled(path: Path, rows: Sequence[tuple[str, str]], batch: int = 7) -> Spool:
    entries = [
        (
            Entry(i + 1, f"f#{i + 1}"),
            Draft(Row(f"f#{i + 1}", (Message("user", p), Message("assistant", r)), "t", "generation")),
        )
        for i, (p, r) in enumerate(rows)
    ]
    with Spool(path) as spool:
        for start in range(0, len(entries), batch):
            part = entries[start : start + batch]
            spool.add(table(part, "f", [draft for _, draft in part]), 0, 0, "train")
    return spool


def grams(text: str) -> set[str]:
    text = "".join(fold(text, case=True).split())
    return {text[i : i + 5] for i in range(len(text) - 4)}


def similarity(one: str, other: str) -> float:
    return len(grams(one) & grams(other)) / len(grams(one) | grams(other))


def varied(text: str, changes: int, rng: random.Random) -> str:
    letters = list(text)
    for place in rng.sample(range(len(letters)), changes):
        letters[place] = rng.choice(CHARACTERS)
    return "".join(letters)


def corpus(rng: random.Random, texts: int, copies: int, prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for _ in range(texts):
        prompt, reply = ("".join(rng.choices(CHARACTERS, k=k)) for k in (60, 80))
        rows.append((prefix + prompt, reply))
        rows += [(prefix + varied(prompt, rng.randint(0, 6), rng), reply) for _ in range(copies)]
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("threshold", [0.7, 0.9])
@pytest.mark.parametrize("processes", [1, 2])
def test_pairs_are_those_of_a_comparison_of_all_rows(tmp_path: Path, threshold: float, processes: int) -> None:
    rows = corpus(random.Random(3), 60, 4)
    found = near_pairs(spooled(tmp_path / "s", rows), threshold, tmp_path, processes)
    distinct = [i for i, row in enumerate(rows) if row not in rows[:i]]  # exact copies are found by their hash
    every = {(i, j): similarity("".join(rows[i]), "".join(rows[j])) for i, j in combinations(distinct, 2)}
    expected = {pair for pair, value in every.items() if value >= threshold}
    got = set(map(tuple, found.tolist()))
    assert len(expected) > 20
    assert got <= expected  # every pair that is reported was compared exactly
    assert len(expected - got) <= max(1, 0.02 * len(expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


def test_a_common_instruction_makes_no_rows_alike(tmp_path: Path) -> None:
    rng = random.Random(5)
    instruction = "".join(rng.choices(CHARACTERS, k=400))
    rows = [
        (instruction + "".join(rng.choices(CHARACTERS, k=20)), "".join(rng.choices(CHARACTERS, k=20)))
        for _ in range(50)
    ]
    assert similarity("".join(rows[0]), "".join(rows[1])) > 0.75
    assert near_pairs(spooled(tmp_path / "s", rows), 0.75, tmp_path, 1).tolist() == []
    copied = [*rows, (rows[3][0] + "。", rows[3][1])]
    assert near_pairs(spooled(tmp_path / "c", copied), 0.75, tmp_path, 1).tolist() == [[3, 50]]


def test_rows_that_differ_in_a_short_reply_are_not_duplicates(tmp_path: Path) -> None:
    text = "".join(random.Random(7).choices(CHARACTERS, k=100))
    rows = [(text, "相同"), (text + "。", "不同"), (text + "！", "相 同")]
    assert near_pairs(spooled(tmp_path / "s", rows), 0.9, tmp_path, 1).tolist() == [[0, 2]]


@pytest.mark.parametrize("copies", [1, 12, 30])
def test_exact_copies_of_a_row_do_not_hide_its_near_duplicate(tmp_path: Path, copies: int) -> None:
    rows = corpus(random.Random(9), 600, 0)
    copied = [*rows, *[rows[5]] * copies, (rows[5][0] + "。", rows[5][1])]
    assert [5, len(copied) - 1] in near_pairs(spooled(tmp_path / "s", copied), 0.9, tmp_path, 1).tolist()


def test_pairs_within_families_of_variants_are_found(tmp_path: Path) -> None:
    rng = random.Random(13)
    rows = corpus(rng, 40, 9)
    found = set(map(tuple, near_pairs(spooled(tmp_path / "s", rows), 0.9, tmp_path, 1).tolist()))
    distinct = [i for i, row in enumerate(rows) if row not in rows[:i]]
    every = combinations(distinct, 2)
    expected = {(i, j) for i, j in every if similarity("".join(rows[i]), "".join(rows[j])) >= 0.9}
    assert len(expected) > 40
    assert len(expected - found) <= 0.02 * len(expected)


def test_short_rows_are_left_to_the_exact_comparison(tmp_path: Path) -> None:
    assert (
        near_pairs(spooled(tmp_path / "s", [("你好呀", "好"), ("你好呀。", "好"), ("", "好")]), 0.6, tmp_path, 1).size
        == 0
    )


def test_nothing_is_found_in_an_empty_data_set(tmp_path: Path) -> None:
    assert near_pairs(spooled(tmp_path / "s", []), 0.9, tmp_path, 1).shape == (0, 2)


@pytest.mark.parametrize(("threshold", "bands"), [(0.9, Bands(9, 8)), (0.8, Bands(14, 5)), (1.0, Bands(1, 72))])
def test_bands_are_the_most_selective_that_find_99_percent(threshold: float, bands: Bands) -> None:
    assert Bands.of(threshold) == bands
    assert 1 - (1 - threshold**bands.rows) ** bands.count >= 0.99
    assert 1 - (1 - threshold ** (bands.rows + 1)) ** (72 // (bands.rows + 1)) < 0.99 or bands.rows == 72


@given(st.lists(st.text(max_size=30), max_size=8))
def test_every_text_has_the_hashes_of_its_own_grams(texts: list[str]) -> None:
    together, starts = gram_hashes(texts)
    assert len(starts) == len(texts) + 1
    for i, text in enumerate(texts):
        alone, _ = gram_hashes([text])
        assert together[starts[i] : starts[i + 1]].tolist() == alone.tolist()
        assert len(set(alone.tolist())) == len(grams(text))


def test_the_share_of_equal_minima_estimates_the_similarity_as_well_as_datasketch() -> None:
    rng = random.Random(11)
    ours, theirs = [], []
    for _ in range(60):
        text = "".join(rng.choices(CHARACTERS, k=150))
        pair = [text, varied(text, 4, rng)]
        true = similarity(*pair)
        minima = duplicates.band_hashes(*gram_hashes(pair), Bands(72, 1))
        ours.append(float((minima[0] == minima[1]).mean()) - true)
        sketches = [MinHash(72) for _ in pair]
        for sketch, side in zip(sketches, pair, strict=True):
            sketch.update_batch([gram.encode() for gram in grams(side)])
        theirs.append(sketches[0].jaccard(sketches[1]) - true)
    # the standard error of one estimate is about 0.05, of the mean of 60 about 0.007
    assert abs(np.mean(ours)) < 0.025
    assert np.std(ours) < 1.4 * np.std(theirs)
