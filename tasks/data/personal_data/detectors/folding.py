"""The text that detectors read: NFKC, invisible characters gone, all messages of a dialogue in one string.

Owns the way back from a position in that string to a message and its original offsets, and the form of
placeholders, which detectors never look into. Does not know what personal data is.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: Stands between two messages; only numbers may run across it.
BOUNDARY = "\uffff"
#: Stands for a placeholder: belongs to no detector's alphabet.
FILLER = "\ufffc"
_GONE = "\u200b"

WORDS = {
    "mobile": "手机号",
    "landline": "座机号",
    "id_card": "身份证号",
    "bank_card": "银行卡号",
    "email": "邮箱",
    "qq": "QQ号",
    "wechat": "微信号",
    "plate": "车牌号",
    "passport": "护照号",
    "ip": "IP地址",
    "address": "地址",
    "name": "姓名",
}
KINDS = tuple(WORDS)
#: Letters of a pseudonym: no vowels (no words), no q, v, x (no "qq", "vx", "wx" before other text).
LETTERS = "bcdfghjkmnprstwyz"
#: A placeholder as :meth:`tasks.data.personal_data.redaction.Redactor.redact` writes it, or as another tool of the
#: same habit did, with letters that this one never takes.
PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(WORDS.values())}):[A-Za-z]{{6}}\]")

# white space, joiners, direction marks, variation selectors and the keycap of emoji digits
_INVISIBLE = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff\u20e3]")
#: Of traditional characters, those that detectors look for.
TRADITIONAL = dict(
    zip("號樓棟單區電話機帳門縣鄉鎮東灣雲蘇魯遼貴瓊寧陝", "号楼栋单区电话机账门县乡镇东湾云苏鲁辽贵琼宁陕", strict=True)
)
_DASHES = "‐‑‒–—―−﹣－"
_DOTS = "·•・∙⋅●‧"


class _Table(dict[int, str]):
    """What each character becomes; filled as characters come up."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if _INVISIBLE.match(character):
            result = ""
        elif character in _DASHES:
            result = "-"
        elif character in _DOTS:
            result = "·"
        elif character in TRADITIONAL:
            result = TRADITIONAL[character]
        elif character in (BOUNDARY, "\r", "\u2028", "\u2029", "\x0b", "\x0c", "\x85"):
            result = "\n"
        else:
            result = unicodedata.normalize("NFKC", character)
        self[code] = result
        return result


_TABLE = _Table()


def fold(text: str) -> str:
    """A text in the form that detectors read (a name, a value of the allow list)."""
    return text.translate(_TABLE)


def nfkc(text: str) -> str:
    """A text in NFKC without invisible characters, otherwise as it was written."""
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))


class Match(NamedTuple):
    """Personal data at ``start:end`` of a dialogue's folded text."""

    kind: str
    start: int
    end: int
    value: str


@dataclass(frozen=True)
class Piece:
    """The part of a match that lies in one message: half-open offsets into its original text."""

    message: int
    start: int
    end: int


class Dialogue:
    """Messages as one folded text."""

    def __init__(self, messages: Sequence[str]) -> None:
        self._masked = [PLACEHOLDER.sub(_mask, m) if "[" in m else m for m in messages]
        folded = [m.translate(_TABLE) for m in self._masked]
        self.text = BOUNDARY.join(folded)
        self._starts = [0]
        for part in folded:
            self._starts.append(self._starts[-1] + len(part) + 1)
        self._origins: dict[int, list[int]] = {}

    def pieces(self, start: int, end: int) -> list[Piece]:
        """Where a span of the folded text lies, one piece for each message that it touches."""
        result = []
        for message in range(self._message(start), self._message(end - 1) + 1):
            begin = self._starts[message]
            part = self.text[max(start, begin) : min(end, self._starts[message + 1] - 1)]
            left = max(start, begin) - begin + len(part) - len(part.lstrip(_SEPARATORS))
            right = max(start, begin) - begin + len(part.rstrip(_SEPARATORS))
            if left < right:
                origin = self._origin(message)
                result.append(Piece(message, origin[left], origin[right - 1] + 1))
        return result

    def messages(self) -> list[tuple[int, int]]:
        """Start and end of each message in the folded text."""
        return [(a, b - 1) for a, b in zip(self._starts, self._starts[1:], strict=False)]

    def _message(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def _origin(self, message: int) -> list[int]:
        if message not in self._origins:
            text = self._masked[message]
            self._origins[message] = [i for i, c in enumerate(text) for _ in _TABLE[ord(c)]]
        return self._origins[message]


_SEPARATORS = " \t\n-._,、/~·…"


def _mask(match: re.Match[str]) -> str:
    return FILLER + _GONE * (len(match.group()) - 1)
