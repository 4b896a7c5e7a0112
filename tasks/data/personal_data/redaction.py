"""Personal data in dialogues: found in Chinese and mixed text, replaced by pseudonyms that stay the same.

A pseudonym is ``[手机号:kdrfwz]``: what it stands for, and six letters that a keyed hash makes of the value, so that
one person keeps one placeholder over all files made with the same key, and nobody without the key can test guesses.
Messages are never dropped. Redacting redacted text changes nothing.

Owns the pseudonyms, the key, and which of overlapping findings counts. What personal data looks like is told by
the modules of :mod:`tasks.data.personal_data.detectors`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tasks.data.personal_data.detectors import addresses, contacts, documents, numbers
from tasks.data.personal_data.detectors import names as people
from tasks.data.personal_data.detectors.folding import (
    BOUNDARY,
    KINDS,
    LETTERS,
    PLACEHOLDER,
    WORDS,
    Dialogue,
    Match,
    Piece,
    fold,
)
from tasks.data.personal_data.detectors.hint import HINT
from tasks.data.personal_data.detectors.names import usable_names
from tasks.errors import ConfigError
from tasks.store import Store

__all__ = ["KEY_FILE", "KEY_VARIABLE", "KINDS", "PLACEHOLDER", "Hit", "Redactor", "load_key", "usable_names"]

KEY_VARIABLE = "WEITIAO_REDACTION_KEY"
KEY_FILE = "redaction.key"
_KEY_CHARACTERS = 16
_KEY_BYTES = 32
_PSEUDONYM_LETTERS = 6
#: Of findings at the very same place, the first of these counts.
_PRECEDENCE = {
    kind: rank
    for rank, kind in enumerate(
        ("id_card", "mobile", "bank_card", "email", "landline", "ip", "plate", "passport", "wechat", "qq", "address")
    )
}
#: What a part of a longer number may look like.
_PARTS = frozenset({"mobile", "landline", "qq", "passport", "ip", "address"})
#: Characters of a card's number, separators included.
_LONGEST_CARD = 130
_HINTED = HINT.search
_PUNCTUATION = re.compile(r"[\s\-._·,()+]")


@dataclass(frozen=True)
class Hit:
    """Personal data in one message: half-open offsets into its original text.

    Data that runs over several messages gives one hit in each, all with the same ``value``.

    Attributes:
        value: the normalised value (NFKC, separators removed) from which the pseudonym is made.
    """

    kind: str
    message: int
    start: int
    end: int
    value: str


@dataclass(frozen=True)
class _Finding:
    kind: str
    value: str
    pieces: tuple[Piece, ...]


class Redactor:
    """Finds personal data in the messages of a dialogue and replaces it.

    Args:
        key: secret of the pseudonyms, see :func:`load_key`.
        kinds: which of :data:`KINDS` to report and replace; None: all.
        names: people who may occur in any dialogue, see :func:`usable_names`.
        allow: texts that stay as they are (a hotline's number, a public name).

    Raises:
        ConfigError: an unknown kind.
    """

    def __init__(
        self, key: bytes, kinds: Sequence[str] | None = None, names: Sequence[str] = (), allow: Sequence[str] = ()
    ) -> None:
        unknown = sorted(set(kinds or ()) - set(KINDS))
        if unknown:
            raise ConfigError(
                f"data.redact_kinds: unknown {', '.join(map(repr, unknown))}; allowed are {', '.join(KINDS)}"
            )
        self._key = key
        self._kinds = frozenset(KINDS if kinds is None else kinds)
        self._names = tuple(names)
        self._allow = frozenset(_plain(text) for text in allow)

    def find(self, messages: Sequence[str], names: Sequence[str] = ()) -> list[Hit]:
        """Personal data in the messages of one dialogue, in the order of the text.

        Args:
            messages: consecutive messages; a number may run from one into the next.
            names: people of this dialogue, beside those of the redactor.
        """
        hits = [
            Hit(finding.kind, piece.message, piece.start, piece.end, finding.value)
            for finding in self._findings(messages, names)
            for piece in finding.pieces
        ]
        return sorted(hits, key=lambda hit: (hit.message, hit.start))

    def redact(self, messages: Sequence[str], names: Sequence[str] = ()) -> tuple[list[str], Counter[str]]:
        """The messages with placeholders, and how many findings were replaced, by kind.

        Of data that runs over several messages, the first piece becomes the placeholder and the others vanish;
        a message left empty by that gets the placeholder too.
        """
        texts, counts = list(messages), Counter[str]()
        # A replacement can change what stands beside the rest, so look again; each turn leaves less to find.
        while findings := self._findings(texts, names):
            counts.update(finding.kind for finding in findings)
            texts = self._replaced(texts, findings)
        return texts, counts

    def placeholder(self, kind: str, value: str) -> str:
        """What stands for a value: its kind and six letters of its keyed hash."""
        digest = hmac.new(self._key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        number, letters = int.from_bytes(digest, "big"), ""
        for _ in range(_PSEUDONYM_LETTERS):
            number, index = divmod(number, len(LETTERS))
            letters += LETTERS[index]
        return f"[{WORDS[kind]}:{letters}]"

    def _findings(self, messages: Sequence[str], names: Sequence[str]) -> list[_Finding]:
        known = _known((*self._names, *names)) if self._names or names else ()
        if not _may_hold(messages, people.hint(known) if known else None):
            return []
        dialogue = Dialogue(messages)
        matches = _resolved(_without_parts(list(_matches(dialogue, known)), dialogue.text), dialogue.text)
        return [
            _Finding(m.kind, m.value, tuple(dialogue.pieces(m.start, m.end)))
            for m in matches
            if m.kind in self._kinds and not (self._allow and self._is_allowed(m, dialogue.text))
        ]

    def _is_allowed(self, match: Match, text: str) -> bool:
        return _plain(match.value) in self._allow or _plain(text[match.start : match.end]) in self._allow

    def _replaced(self, messages: Sequence[str], findings: Sequence[_Finding]) -> list[str]:
        edits: dict[int, list[tuple[int, int, str, str]]] = {}
        for finding in findings:
            placeholder = self.placeholder(finding.kind, finding.value)
            for number, piece in enumerate(finding.pieces):
                edit = (piece.start, piece.end, "" if number else placeholder, placeholder)
                edits.setdefault(piece.message, []).append(edit)
        return [_edited(m, edits[i]) if i in edits else m for i, m in enumerate(messages)]


def load_key(root: Path) -> tuple[bytes, str]:
    """The key of the pseudonyms and its public id.

    The key is the text of the environment variable, or a random one that is made once and kept below ``root``,
    readable by its owner only. Two processes that start at once end with one key.

    Raises:
        ConfigError: the variable is too short, or the file holds no key.
    """
    text = os.environ.get(KEY_VARIABLE)
    if text is None:
        key = _stored_key(root)
    elif len(text) < _KEY_CHARACTERS:
        raise ConfigError(
            f"{KEY_VARIABLE}: {len(text)} characters; at least {_KEY_CHARACTERS} are needed "
            f"(unset it to use a random key kept in {KEY_FILE})"
        )
    else:
        key = text.encode("utf-8", "surrogateescape")
    return key, hmac.new(key, b"id", hashlib.sha256).hexdigest()[:8]


def _stored_key(root: Path) -> bytes:
    path = root / KEY_FILE
    if not path.exists():
        with Store(root).lock("redaction-key"):
            if not path.exists():
                _write_secret(path, secrets.token_hex(_KEY_BYTES) + "\n")
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if not re.fullmatch(rf"[0-9a-f]{{{2 * _KEY_BYTES}}}", text):
        raise ConfigError(
            f"{path}: not a redaction key ({2 * _KEY_BYTES} hexadecimal digits); restore it, "
            "or delete it to start with new pseudonyms"
        )
    return bytes.fromhex(text)


def _write_secret(path: Path, text: str) -> None:
    """Like tasks.files.write_atomic, but at no moment readable by others."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@lru_cache(maxsize=1024)
def _known(names: tuple[str, ...]) -> tuple[people.Known, ...]:
    return people.known(names)


def _may_hold(messages: Sequence[str], names: re.Pattern[str] | None) -> bool:
    # any() over a generator costs as much as the pattern itself on a short text
    for message in messages:  # noqa: SIM110
        if _HINTED(message) or (names and names.search(message)):
            return True
    return False


def _plain(text: str) -> str:
    return _PUNCTUATION.sub("", fold(text)).casefold()


def _matches(dialogue: Dialogue, names: tuple[people.Known, ...]) -> Iterator[Match]:
    text, messages = dialogue.text, dialogue.messages()
    yield from numbers.find(text)
    yield from contacts.landlines(text)
    yield from contacts.emails(text)
    yield from contacts.qq_numbers(text, messages)
    yield from contacts.wechat_ids(text, messages)
    yield from documents.plates(text)
    yield from documents.passports(text)
    yield from documents.ip_addresses(text)
    yield from addresses.find(text)
    yield from people.find(text, names)


def _without_parts(matches: list[Match], text: str) -> list[Match]:
    """Matches that are no part of a card's number; a card with a wrong check digit stays whole, and as it is."""
    if not any(match.kind in _PARTS for match in matches):
        return matches
    wholes = list(numbers.mistaken(text))
    starts = [start for start, _ in wholes]

    def is_part(match: Match) -> bool:
        near = wholes[bisect_left(starts, match.start - _LONGEST_CARD) : bisect_right(starts, match.start)]
        return match.kind in _PARTS and any(match.end <= end for _, end in near)

    return [match for match in matches if not is_part(match)]


def _resolved(matches: Sequence[Match], text: str) -> list[Match]:
    """Matches without overlaps: those within one message (or with a check digit) first, then the longer ones."""
    taken: list[Match] = []
    used = bytearray(len(text))
    for match in sorted(matches, key=lambda m: _rank(m, text)):
        if not any(used[match.start : match.end]):
            used[match.start : match.end] = b"\1" * (match.end - match.start)
            taken.append(match)
    return taken


def _rank(match: Match, text: str) -> tuple[bool, int, int, int]:
    # a card's first digits could end the message before a phone number; a check digit and 62 make that unlikely
    sure = match.kind == "id_card" or (match.kind == "bank_card" and match.value.startswith("62"))
    split = not sure and BOUNDARY in text[match.start : match.end]
    return split, match.start - match.end, _PRECEDENCE.get(match.kind, len(KINDS)), match.start


def _edited(message: str, edits: Sequence[tuple[int, int, str, str]]) -> str:
    result, position = [], 0
    for start, end, replacement, _ in sorted(edits):
        result += [message[position:start], replacement]
        position = end
    text = "".join(result) + message[position:]
    return text if text.strip() else edits[0][3]
