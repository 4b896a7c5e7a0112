"""A fast tokenizer that merges as SentencePiece does where several merges have one score: the leftmost first.

The library ranks merges without ties, so text is split into pieces here, by the same rule as SentencePiece, and the
library looks the pieces up.

Source: sentencepiece's bpe_model.cc.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import PreTrainedTokenizerFast

from tasks.models.tokenizers import _proto
from tasks.models.tokenizers._proto import NORMAL, Piece

_CACHED = 1 << 16
_MODEL = "tokenizer.model"


class Splitter:
    """Splits normalised text into pieces; what tokenizers calls a custom pre-tokenizer."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._scores = {piece.text: piece.score for piece in pieces if piece.kind == NORMAL}
        #: Neighbours in some piece: between other characters nothing ever merges.
        self._joined = {text[i : i + 2] for text in self._scores for i in range(len(text) - 1)}
        self._merged = lru_cache(maxsize=_CACHED)(self._merge)

    def pre_tokenize(self, text: Any) -> None:
        text.split(self._split)

    def _split(self, _: int, text: Any) -> list[Any]:
        ends = [0]
        for piece in self.pieces(str(text.normalized)):
            ends.append(ends[-1] + len(piece))
        return [text[start:end] for start, end in itertools.pairwise(ends)]

    def pieces(self, text: str) -> list[str]:
        start = 0
        found: list[str] = []
        for i in range(1, len(text) + 1):
            if i == len(text) or text[i - 1 : i + 1] not in self._joined:
                found += self._merged(text[start:i]) if i - start > 1 else (text[start:i],)
                start = i
        return found

    def _merge(self, text: str) -> tuple[str, ...]:
        """Merge neighbours, best score first, leftmost first among equals."""
        symbols = list(text)
        after = [*range(1, len(text)), -1]
        before = list(range(-1, len(text) - 1))
        waiting: list[tuple[float, int, int, str]] = []

        def offer(left: int) -> None:
            right = after[left] if left >= 0 else -1
            if right >= 0 and (score := self._scores.get(joined := symbols[left] + symbols[right])) is not None:
                heapq.heappush(waiting, (-score, left, right, joined))

        for left in range(len(text) - 1):
            offer(left)
        while waiting:
            _, left, right, joined = heapq.heappop(waiting)
            if not symbols[left] or symbols[left] + symbols[right] != joined or after[left] != right:
                continue  # one of the two has merged since
            symbols[left], symbols[right] = joined, ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            offer(before[left])
            offer(left)
        return tuple(filter(None, symbols))


class LeftmostTokenizer(PreTrainedTokenizerFast):
    """The tokenizer of a folder with tokenizer.json and tokenizer.model; it saves both, and can be copied."""

    @classmethod
    def from_folder(cls, folder: Path) -> LeftmostTokenizer:
        tokenizer: LeftmostTokenizer = cls.from_pretrained(folder, local_files_only=True)
        tokenizer._set("_model", _proto.read_bytes(folder / _MODEL))
        tokenizer._attach()
        return tokenizer

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the base class keeps what it does not know as a setting

    def _attach(self) -> None:
        self._set("_splitter", Splitter(_proto.parse(self._model, _MODEL).pieces))
        self._use_splitter(True)

    def _use_splitter(self, use: bool) -> None:
        self._tokenizer.pre_tokenizer = PreTokenizer.custom(self._splitter) if use else None
        self._tokenizer.model.ignore_merges = use  # what the splitter gives is looked up as it is

    def _save_pretrained(self, save_directory: Any, *arguments: Any, **options: Any) -> tuple[str, ...]:
        self._use_splitter(False)  # it cannot be written
        try:
            saved: tuple[str, ...] = super()._save_pretrained(save_directory, *arguments, **options)
        finally:
            self._use_splitter(True)
        model = Path(save_directory) / _MODEL
        model.write_bytes(self._model)
        return (*saved, str(model))

    def __getstate__(self) -> dict[str, Any]:
        self._use_splitter(False)
        try:
            return {**self.__dict__, "_tokenizer": self._tokenizer.to_str(), "_splitter": None}
        finally:
            self._use_splitter(True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _tokenizer=Tokenizer.from_str(state["_tokenizer"]))
        self._attach()
