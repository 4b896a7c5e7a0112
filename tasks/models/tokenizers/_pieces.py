"""Makes a tokenizers.Tokenizer of a SentencePiece model, so that text becomes the same ids.

Agreement rests on four facts about SentencePiece: control, byte and unknown pieces never match text; user-defined
pieces always do and are never split; any two neighbours whose text joins to a piece may merge, by that piece's score;
the prefix space is added once, before the first character.

Source: sentencepiece's bpe_model.cc, unigram_model.cc and normalizer.cc.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import ModelError
from tasks.models.tokenizers import _unicode
from tasks.models.tokenizers._proto import BPE, BYTE, CONTROL, NORMAL, UNIGRAM, UNUSED, USER_DEFINED, Model, Piece

SPACE = "▁"
#: The score of pieces that no text may become: far below the sum of any real ones.
_NEVER = -1e6
#: A noncharacter, so that no text has it.
_START = "\ufdd2"
_SCORES = {USER_DEFINED: 0.0}  # above all others, which are logarithms of probabilities


def build(model: Model, path: Path, *, names: Mapping[int, str] | None = None, before: Sequence[Any] = ()) -> Any:
    """The tokenizer of ``model``, with its control pieces as special tokens; no post-processor.

    Args:
        path: of the model's file, for errors.
        names: id -> another name for that piece, as a tokenizer's configuration gives it; such a piece is never text.
        before: normalisers that come first.

    Raises:
        ModelError: a setting that cannot be kept exactly.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    _refuse(model, path)
    pieces = [Piece(names[i], 0.0, CONTROL) if names and i in names else piece for i, piece in enumerate(model.pieces)]
    symbols = sorted((p.text for p in pieces if p.kind == USER_DEFINED), key=len, reverse=True)
    if model.algorithm == BPE:
        tokenizer = Tokenizer(
            models.BPE(
                vocab={piece.text: i for i, piece in enumerate(pieces)},
                merges=merges(pieces),
                unk_token=model.pieces[model.unknown_id].text,
                fuse_unk=True,
                byte_fallback=model.byte_fallback,
            )
        )
        # matched in normalised text: what stands around a symbol gets no prefix space of its own
        added = [AddedToken(text, normalized=True, special=False) for text in reversed(symbols)]
    else:
        tokenizer = Tokenizer(
            models.Unigram(
                [
                    (piece.text, piece.score if piece.kind == NORMAL else _SCORES.get(piece.kind, _NEVER))
                    for piece in pieces
                ],
                unk_id=model.unknown_id,
                byte_fallback=model.byte_fallback,
            )
        )
        if pattern := _isolated(pieces, symbols, path):
            tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
        added = []
    tokenizer.normalizer = normalizers.Sequence(
        [*before, *_normalizers(model, symbols if model.algorithm == BPE else ())]
    )
    decode = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix or model.remove_extra_whitespaces:
        decode.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(decode)
    tokenizer.add_tokens(added)
    unknown = model.pieces[model.unknown_id].text
    tokenizer.add_special_tokens(
        [AddedToken(p.text, normalized=False, special=True) for p in pieces if p.kind == CONTROL or p.text == unknown]
    )
    return tokenizer


def merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Every way to join two pieces to a third, best score first.

    Where several give the same piece, the one with the longer left part comes first: SentencePiece takes the leftmost,
    and in a run of one character that is the one which the left end has grown further.
    """
    known = {piece.text for piece in pieces if piece.kind == NORMAL}
    found = sorted(
        (-piece.score, i, cut - len(piece.text))
        for i, piece in enumerate(pieces)
        if piece.kind == NORMAL
        for cut in range(1, len(piece.text))
        if piece.text[:cut] in known and piece.text[cut:] in known
    )
    return [(pieces[i].text[:end], pieces[i].text[end:]) for _, i, end in found]


def _isolated(pieces: Sequence[Piece], symbols: Sequence[str], path: Path) -> str:
    """A pattern of what a Unigram model must see on its own: symbols and, where needed, characters without a piece.

    An unknown character costs more than any piece. Where a control piece has one, that piece would win over its own
    characters, and typed text would become a control token; cut out, the character leaves no such choice. No other
    piece holds it, so nothing else changes.
    """
    covered = {piece.text for piece in pieces if piece.kind == NORMAL and len(piece.text) == 1}
    held = {kind: {c for p in pieces if (p.kind == NORMAL) == kind for c in p.text} for kind in (True, False)}
    parts = [re.escape(text) for text in symbols]
    if not held[False] - {c for text in symbols for c in text} <= covered:
        if not held[True] <= covered:
            character = min(held[True] - covered)
            raise ModelError(f"{path}: {character!r} is in pieces, but is none itself: cannot be converted exactly")
        symbol = f"(?!{'|'.join(parts)})" if parts else ""
        parts.append(f"(?:{symbol}[^{_unicode.ranges(covered)}])+")
    return "|".join(parts)


def _normalizers(model: Model, symbols: Sequence[str]) -> list[Any]:
    """How text is prepared. ``symbols`` are matched in prepared text, so they are prepared themselves: no prefix."""
    from tokenizers import Regex, normalizers

    prefix = []
    if model.add_dummy_prefix:
        # not by one pattern that inserts: before the first character that breaks the library's offsets
        alone = rf"\A{_START}(?=(?:{'|'.join(map(re.escape, symbols))})\z)"
        prefix = [normalizers.Prepend(_START), normalizers.Replace(Regex(alone), ""), normalizers.Replace(_START, " ")]
        prefix = prefix if symbols else [normalizers.Prepend(" ")]
    rules = _unicode.compiled_rules(model.charsmap) if model.charsmap else []
    spaces = normalizers.Replace(" ", SPACE)
    if not model.remove_extra_whitespaces:
        return [*prefix, *rules, spaces]
    # \A and \z: ^ and $ would match at every line. At the end a typed "▁" is a space, too.
    first, runs, last = (
        normalizers.Replace(Regex(pattern), put)
        for pattern, put in ((r"\A +", ""), (" {2,}", " "), (rf"{SPACE}+\z", ""))
    )
    return [*rules, first, runs, *prefix, spaces, last]


def _refuse(model: Model, path: Path) -> None:
    """Raise for what SentencePiece can do and the tokenizers library cannot."""
    kinds = {piece.kind for piece in model.pieces}
    byte_pieces = sum(piece.kind == BYTE for piece in model.pieces)
    problem = (
        f"model_type={model.algorithm}: only unigram (1) and bpe (2)"
        if model.algorithm not in (UNIGRAM, BPE)
        else "treat_whitespace_as_suffix=true"
        if model.whitespace_as_suffix
        else "escape_whitespaces=false"
        if not model.escape_whitespaces
        else "denormalizer_spec: decoding by rules"
        if model.denormalizes
        else f"normalization rule {model.rule!r}: only identity, {', '.join(_unicode.RULES)}"
        if model.charsmap and model.rule not in _unicode.RULES
        else "unused pieces (a restricted vocabulary)"
        if UNUSED in kinds
        else f"byte_fallback=true with {byte_pieces} byte pieces instead of 256"
        if model.byte_fallback and byte_pieces != 256
        else None
    )
    if problem:
        raise ModelError(f"{path}: {problem}: cannot be converted exactly")
