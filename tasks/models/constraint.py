"""Constrained decoding: which tokens may come next, so that every reply is well formed. Torch side.

Owns the grammars and the bytes that each token of a vocabulary stands for; xgrammar (extra ``constrained``) keeps
track of where in its grammar each reply is. The generation loop is the caller's: it masks the logits, chooses, and
tells which tokens it chose.

Tokenizers: those with a fast backend (tokenizers), whether their vocabulary is byte-level, falls back to bytes or
holds plain pieces, as all do that tasks.models.loading gives; no others.

Source: Dong et al. 2024, XGrammar, https://arxiv.org/abs/2411.15100.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasks import plugins
from tasks.errors import ConfigError
from tasks.models import spelling

#: Triples, in xgrammar's EBNF. A line is head_relation_tail. A part holds no underscore and no control character, and
#: more than spaces. The line breaks around the lines are those that some layouts write around a reply.
TRIPLES = r"""
root ::= "\n"? (line ("\n" line)*)? "\n"?
line ::= part "_" part "_" part
part ::= " "* [^_\x00-\x20\x7f\u00a0\u3000] [^_\x00-\x1f\x7f]*
"""
_KINDS = ["triples"]
_WORD = 32  # tokens in one number of xgrammar's mask


@dataclass
class State:
    """Where in the grammar each reply of a batch is: one matcher a row."""

    matchers: list[Any]


class Constraint:
    """A grammar, compiled for one vocabulary.

    Shapes: b rows, v the width of the logits.
    """

    def __init__(self, grammar: str, tokens: Sequence[bytes], stop_ids: Sequence[int]) -> None:
        """Compile.

        Args:
            tokens: [v] what each token writes; a token that writes nothing is never chosen.
            stop_ids: the tokens of which one ends a reply, where the grammar lets it end.
        """
        import xgrammar

        self._xgrammar = xgrammar
        vocabulary = xgrammar.TokenizerInfo(list(tokens), xgrammar.VocabType.RAW, stop_token_ids=list(stop_ids))
        self._grammar = xgrammar.GrammarCompiler(vocabulary).compile_grammar(grammar)
        self._size = len(tokens)

    def start(self, rows: int) -> State:
        """The state of replies that have no token yet."""
        return State([self._xgrammar.GrammarMatcher(self._grammar) for _ in range(rows)])

    def mask(self, state: State, logits: Any) -> Any:
        """The logits [b, v], minus infinity where a token may not come next; those of ended replies as they are."""
        import torch

        words = self._xgrammar.allocate_token_bitmask(len(state.matchers), self._size)  # [b, v / 32]
        for row, matcher in enumerate(state.matchers):
            if not matcher.is_terminated():
                matcher.fill_next_token_bitmask(words, row)
        bits = words.to(logits.device)[:, :, None] >> torch.arange(_WORD, device=logits.device, dtype=torch.int32)
        allowed = (bits & 1).bool().flatten(1)[:, : self._size]
        return logits.masked_fill(~allowed, float("-inf"))

    def accept(self, state: State, tokens: Sequence[int]) -> None:
        """Take the tokens chosen, one a row; whatever follows the end of a reply is padding.

        Raises:
            ValueError: a token that :meth:`mask` ruled out.
        """
        for row, (matcher, token) in enumerate(zip(state.matchers, tokens, strict=True)):
            if not matcher.is_terminated() and not matcher.accept_token(int(token)):
                raise ValueError(f"row {row}: token {token} may not come next: choose from the masked logits")


def load(kind: str, tokenizer: Any, stop_ids: Sequence[int], vocabulary_size: int) -> Constraint:
    """The constraint of a kind of answer for one model.

    Args:
        kind: "triples": any number of lines ``head_relation_tail``.
        tokenizer: a tokenizer with a fast backend.
        stop_ids: the tokens that end a reply.
        vocabulary_size: the width of the model's logits, which may be larger than the tokenizer's vocabulary.

    Raises:
        ConfigError: xgrammar is not installed, or a value cannot be used.
    """
    try:
        import xgrammar  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"constrained decoding of {kind} needs xgrammar ({error}); install it with "
            "pip install -e '.[constrained]', or decode without a constraint"
        ) from None
    if kind not in _KINDS:
        raise ConfigError(f"constrained decoding of {kind!r}: no such grammar; {plugins.nearest(kind, _KINDS)}")
    return Constraint(TRIPLES, token_bytes(tokenizer, vocabulary_size), stop_ids)


def token_bytes(tokenizer: Any, size: int) -> list[bytes]:
    """What each token writes within a text; nothing for control tokens, and for ids that the tokenizer lacks.

    The tokenizer's own decoder decides, so that a token like ChatGLM's ``<n>`` is a line break; xgrammar knows the
    tokens that are a part of a character.

    Raises:
        ConfigError: a tokenizer without a fast backend.
    """
    from xgrammar import TokenizerInfo, VocabType

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            f"constrained decoding: {type(tokenizer).__name__} has no fast backend, of which the bytes of each token "
            "are read; decode without a constraint"
        )
    vocabulary = tokenizer.get_vocab()
    control = spelling.of(tokenizer).control
    names = [""] * size
    for name, i in vocabulary.items():
        if i < size and name not in control:
            names[i] = name
    ids = [i for i, name in enumerate(names) if name]
    spelled = VocabType.BYTE_FALLBACK if "<0x0A>" in vocabulary else VocabType.BYTE_LEVEL
    raw = TokenizerInfo(names, spelled, stop_token_ids=[0]).decoded_vocab
    anchor = spelling.of(tokenizer).text("a")  # what stands at the very beginning may lose its space
    before = backend.decode(anchor, skip_special_tokens=False)
    found = [b""] * size
    for i, text in zip(ids, backend.decode_batch([[*anchor, i] for i in ids], skip_special_tokens=False), strict=True):
        whole = text.startswith(before) and "\ufffd" not in text
        found[i] = text[len(before) :].encode() if whole else raw[i]
    return found
