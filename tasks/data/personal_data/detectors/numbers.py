"""Mobile numbers, identity cards, bank cards: numbers that may be written in groups, spoken, or split.

Digits that only separators part form a chain; every run of whole groups in a chain is looked at once as a number.
What makes it one are its length, prefix, check digit and the lengths of its groups: ``138 1234 5678`` is a
phone number, ``138 12 345 678`` is one only beside a word like 电话.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from itertools import pairwise

from tasks.data.personal_data.detectors import context
from tasks.data.personal_data.detectors.folding import BOUNDARY, Match

_CHAIN = re.compile(rf"[0-9]+(?:[ \t\n\-._·,、。/|*+()~:;#=\\{BOUNDARY}]{{1,6}}[0-9]+)*")
_GROUP = re.compile(r"[0-9]+")
_NUMERALS = "〇零一二三四五六七八九幺壹贰叁肆伍陆柒捌玖"
_SPOKEN = str.maketrans(_NUMERALS, "001234567891123456789")
_SPOKEN_RUN = re.compile(rf"[{_NUMERALS}0-9](?:[ \-,、·.]{{0,2}}[{_NUMERALS}0-9]){{9}}")
_COUNTRY = re.compile(r"(?:\(?\+?(?:00|0)?86\)?|\(\+?(?:00)?86\))[ -]{0,2}\Z")
_MOBILE = re.compile(r"1[3-9][0-9]{9}")
_MOBILE_SHAPES = {
    (3, 4, 4), (3, 8), (7, 4), (4, 7), (4, 4, 3), (3, 3, 5), (5, 6), (6, 5), (3, 5, 3), (4, 3, 4), (3, 3, 3, 2),
    (3, 2, 2, 2, 2), (3, 4, 2, 2), (3, 2, 2, 4), (8, 3), (2, 3, 3, 3),
}  # fmt: skip
_CLEAR_SHAPES = {(3, 4, 4)}
#: Separators that part numbers more often than they group one number's digits.
_ODD = frozenset(".,、。/|*+~:;#=\\")
_LANDLINE = re.compile(r"0(?:10|2[0-9]|[3-9][0-9]{2})[2-8][0-9]{6,7}")
# Source: GB/T 2260, the provinces' codes
_PROVINCE_CODES = "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71"
_PROVINCES = frozenset((*_PROVINCE_CODES.split(), "81", "82", "83", "91"))
_CHECK_DIGIT = re.compile(rf"[ \n\-{BOUNDARY}]{{0,3}}([xX×Х])(?![A-Za-z0-9])")
# Source: GB 11643-1999, ISO 7064 MOD 11-2
_WEIGHTS = tuple(pow(2, 17 - i, 11) for i in range(17))
_CHECK_DIGITS = "10X98765432"
_SHORTEST, _LONGEST = 10, 19
_CARD_DIGITS = (16, 19)
_COUNTED = "[元块斤克米次人个年月天条件岁分万%]"
#: The two halves of a mobile number, with words between: 前面是177013 / 后面59284
_HALVES = re.compile(
    rf"(?<![0-9A-Za-z.\-])(1[3-9][0-9]{{1,7}})(?![0-9]|{_COUNTED})[^0-9A-Za-z{BOUNDARY}]{{0,6}}[{BOUNDARY},;\n ]"
    rf"[^0-9A-Za-z{BOUNDARY}]{{0,4}}(?:后|剩下|剩余|接着|然后|再|还有|下半|另|末|尾)"
    rf"(?:[0-9](?=位))?[^0-9A-Za-z{BOUNDARY}]{{0,6}}([0-9]{{3,8}})(?![0-9A-Za-z]|\.[0-9]|{_COUNTED})"
)
#: Beginnings and lengths of which one of the kinds below may be made; refuses most lists of values at once.
_POSSIBLE = re.compile(
    r"(?:(?:0|(?:00|0)?86)?1[3-9][0-9]{9}|0[1-9][0-9]{8,10}|[1-9][0-9]{14}|[1-9][0-9]{5}(?:1[89]|20)[0-9]{9,10}"
    r"|[1-9][0-9]{15,18})"
)

#: A piece of a card's number, perhaps in groups; 4位 and 2段 say how long or how many the pieces are.
_PIECE = re.compile(
    r"(?<![0-9A-Za-z.])(?![0-9]{1,2} ?[位段个条次部])(?:[0-9]+(?:[ \-][0-9]+)*[xX]?|[xX])(?![0-9A-Za-z])"
)
_REST = re.compile(
    r"后|剩|余下|接着|接上|然后|再来|还有|下半|另一?半|另外|末|尾|(?:前|上|先发|头)[^0-9\uffff]{0,3}[位段半部]"
)
_AFTER_PIECE = re.compile(rf" ?(?:{_COUNTED}|\.[0-9])")
_FARTHEST = 40

Span = tuple[int, int]


def find(text: str) -> Iterator[Match]:
    """Mobile numbers, identity cards and bank cards in a folded text."""
    for chain in _CHAIN.finditer(text):
        if chain.end() - chain.start() >= _SHORTEST:
            yield from _in_chain(text, text, chain.span())
    yield from _halves(text)
    if BOUNDARY in text:
        yield from _told_in_pieces(text)
    for run in _SPOKEN_RUN.finditer(text):
        if not run.group().isascii():
            yield from _spoken(text)
            return


def _halves(text: str) -> Iterator[Match]:
    """A mobile number told in two parts: each is a match, so that the words between them stay."""
    for told in _HALVES.finditer(text):
        number = told.group(1) + told.group(2)
        if _MOBILE.fullmatch(number) and not context.is_other(text, *told.span(1)):
            yield Match("mobile", *told.span(1), number)
            yield Match("mobile", *told.span(2), number)


def _told_in_pieces(text: str) -> Iterator[Match]:
    """A card's number told in two messages, with words around the pieces: each is a match, the words stay.

    前14位11010519491231 / 后四位002X. A message without digits (嗯) may stand between.
    """
    for first, second in pairwise(_PIECE.finditer(text)):
        between = text[first.end() : second.start()]
        if len(between) > _FARTHEST or not 1 <= between.count(BOUNDARY) <= 2 or not between.strip(" \n" + BOUNDARY):
            continue
        head, tail = (re.sub(r"[ \-]", "", piece.group()).upper() for piece in (first, second))
        kind = _told_kind(head, tail, told=_REST.search(text, max(0, first.start() - 8), second.start()) is not None)
        if kind and not any(_explained(text, piece, kind) for piece in (first, second)):
            yield Match(kind, *first.span(), head + tail)
            yield Match(kind, *second.span(), head + tail)


def _told_kind(head: str, tail: str, *, told: bool) -> str:
    """What two pieces make together; empty if nothing, or if the first is a whole number already.

    Args:
        told: the words speak of parts. A citizen's number is sure without them if both pieces are long.
    """
    number = head + tail
    if not head.isdigit() or len(head) < 4 or _MOBILE.fullmatch(tail):
        return ""
    if len(number) == 18 and is_id_card(number):
        return "id_card" if told or (len(head) >= 10 and len(tail) >= 3) else ""
    whole = len(head) >= _CARD_DIGITS[0] and is_luhn(head)
    if not told or whole or not number.isdigit() or not _CARD_DIGITS[0] <= len(number) <= _CARD_DIGITS[1]:
        return ""
    likely = head.startswith("62") and len(tail) >= 2 and is_luhn(number) and not starts_like_id_card(number)
    return "bank_card" if likely else ""


def _explained(text: str, piece: re.Match[str], kind: str) -> bool:
    """Whether a piece is an amount, or (no citizen's number) what the words before call an order."""
    if _AFTER_PIECE.match(text, piece.end()):
        return True
    return kind != "id_card" and context.is_other(text, *piece.span())


def _spoken(text: str) -> Iterator[Match]:
    """Numbers with digits written as Chinese numerals (at least three, so that 一 alone is no digit)."""
    said = text.translate(_SPOKEN)
    for chain in _CHAIN.finditer(said):
        start, end = chain.span()
        if end - start >= _SHORTEST and not text[start:end].isascii():
            for match in _in_chain(said, text, (start, end)):
                if sum(not c.isascii() for c in text[match.start : match.end]) >= 3:
                    yield match


def _in_chain(text: str, original: str, chain: Span) -> Iterator[Match]:
    groups = [m.span() for m in _GROUP.finditer(text, *chain)]
    digits = "".join(text[a:b] for a, b in groups)
    begin = 0
    for first, (start, end) in enumerate(groups):
        stop = begin
        for last in range(first, len(groups)):
            stop += groups[last][1] - groups[last][0]
            if stop - begin > _LONGEST:
                break
            if stop - begin >= _SHORTEST and _POSSIBLE.fullmatch(digits, begin, stop):
                yield from _Window(text, original, groups, first, last).matches()
        begin += end - start


class _Window:
    """Neighbouring groups of a chain, read as one number."""

    def __init__(self, text: str, original: str, groups: list[Span], first: int, last: int) -> None:
        self.text, self.original = text, original
        self.start, self.end = groups[first][0], groups[last][1]
        spans = groups[first : last + 1]
        self.shape = tuple(b - a for a, b in spans)
        self.digits = "".join(text[a:b] for a, b in spans)
        gaps = [text[a[1] : b[0]] for a, b in pairwise(spans)]
        self.separators = gaps
        self.gaps, self.even = "".join(gaps), len({gap.strip(" ") for gap in gaps}) == 1
        self.before = self._neighbour(groups, first, first - 1)
        self.after = self._neighbour(groups, last, last + 1)
        self.split = BOUNDARY in self.gaps
        self.single = len(spans) == 1
        self.ones = not self.single and set(self.shape) == {1}

    def _neighbour(self, groups: list[Span], own: int, other: int) -> int:
        """Length of the group beside the window; 0 where there is none in the same line."""
        if not 0 <= other < len(groups):
            return 0
        (_, end), (start, _) = sorted((groups[own], groups[other]))
        between = self.text[end:start]
        return 0 if "\n" in between or BOUNDARY in between else groups[other][1] - groups[other][0]

    def matches(self) -> Iterator[Match]:
        length = len(self.digits)
        if self.ones and 1 in (self.before, self.after):
            return
        if length <= 15 and self._is_mobile():
            yield self._mobile()
        if 10 <= length <= 12 and self._is_landline():
            yield Match("landline", self.start, self.end, self.digits)
        if length in (15, 17, 18) and (found := self._id_card()):
            yield found
        if length >= 16 and not starts_like_id_card(self.digits) and self._is_bank_card():
            yield Match("bank_card", self.start, self.end, self.digits)

    # --- mobile ----------------------------------------------------------------------------------------------------

    def _is_mobile(self) -> bool:
        number = self.digits[-11:]
        if not _MOBILE.fullmatch(number) or self.digits[:-11] not in ("", "0", "86", "086", "0086"):
            return False
        if not self._mobile_shape():
            return False
        if self.single and context.is_glued(self.text, self.start, self.end) and not self._country():
            return False
        return not context.is_other(self.original, self.start, self.end)

    def _mobile_shape(self) -> bool:
        extra = len(self.digits) - 11
        if self.single:
            return True
        shape = self.shape if not extra else (self.shape[0] - extra, *self.shape[1:])
        if extra and shape[0] <= 0:  # the prefix is a group: the window without it is looked at by itself
            return False
        if self.split:
            return (min(shape) >= 2 and shape[0] >= 3 and not set(self.gaps) & _ODD) or self.ones
        if shape == (4, 4, 3) and self.before == 4:
            return False
        if set(self.gaps) & _ODD:
            return (shape in _CLEAR_SHAPES and self.even) or self.ones or self._called(context.PHONE)
        if set(self.gaps) == {"-"} and len(shape) <= 5 and shape[0] >= 3:
            return True
        return shape in _MOBILE_SHAPES or self.ones or set(shape[:-1]) == {2} or self._called(context.PHONE)

    def _country(self) -> re.Match[str] | None:
        return _COUNTRY.search(self.text, max(0, self.start - 9), self.start)

    def _mobile(self) -> Match:
        country, start = self._country(), self.start
        if country and (country.start() == 0 or not self.text[country.start() - 1].isdigit()):
            start = country.start()
        elif self.text[max(0, start - 1) : start] == "+":
            start -= 1
        return Match("mobile", start, self.end, self.digits[-11:])

    def _is_landline(self) -> bool:
        """Digit by digit, or split after the area code; other forms are contacts.landlines' business."""
        if not _LANDLINE.fullmatch(self.digits) or set(self.gaps) & _ODD:
            return False
        spoken = self.original is not self.text
        return self.ones or spoken or (self.split and self.shape[0] in (3, 4) and min(self.shape) >= 3)

    # --- identity card -----------------------------------------------------------------------------------------------

    def _id_card(self) -> Match | None:
        digits, end = self.digits, self.end
        if len(digits) == 17:
            letter = _CHECK_DIGIT.match(self.text, end)
            if not letter:
                return None
            digits, end = digits + "X", letter.end()
        if len(digits) == 15:
            old = is_old_id_card(digits) and self._called(context.IDENTITY)
            return Match("id_card", self.start, end, digits) if old else None
        return Match("id_card", self.start, end, digits) if is_id_card(digits) else None

    # --- bank card ---------------------------------------------------------------------------------------------------

    def _is_bank_card(self) -> bool:
        digits, called = self.digits, self._called(context.ACCOUNT)
        if not is_luhn(digits) or len(set(digits)) == 1 or not (_plausible_card(digits) or called):
            return False
        if context.is_other(self.original, self.start, self.end):
            return False
        if self.single:
            return called or not context.is_glued(self.text, self.start, self.end)
        if set(self.gaps) & _ODD:
            return self.even and set(self.shape[:-1]) == {4} and self.before != 4
        return self._card_shape() or called

    def _card_shape(self) -> bool:
        if self.split:
            return min(self.shape) >= 3
        head = self.shape[:-1]
        if set(head) == {4} and self.before != 4:
            return True
        if self.ones or len(self.shape) == 2:
            return True
        return self.digits.startswith("62") and (min(head) >= 3 or self._irregular())

    def _irregular(self) -> bool:
        """Groups of any size with single separators: 622 202 02001 12 34 5; a list of values has no long ones."""
        if not set(self.separators) <= {" ", "-"} or {self.before, self.after} - {0, 11}:
            return False
        return max(self.shape) >= (4 if self.shape[0] >= 3 else 5)

    def _called(self, words: re.Pattern[str]) -> bool:
        return context.says(words, self.original, self.start)


def mistaken(text: str) -> Iterator[Span]:
    """Numbers in groups with the form of an identity card or a bank card, whatever their check digit.

    A part of one is no telephone number, however much 0571 8765 4321 within 6222 0571 8765 4321 looks like one.
    """
    for chain in _CHAIN.finditer(text):
        if chain.end() - chain.start() > _CARD_DIGITS[0]:
            groups = [m.span() for m in _GROUP.finditer(text, *chain.span())]
            for first in range(len(groups) - 1):
                if last := _card_like(text, groups, first):
                    yield groups[first][0], last


def _card_like(text: str, groups: list[Span], first: int) -> int:
    """Where the longest number ends that starts with this group and has the form of a card; 0 without one."""
    digits, found = "", 0
    for last in range(first, len(groups)):
        start, end = groups[last]
        digits += text[start:end]
        if len(digits) > _CARD_DIGITS[1]:
            break
        letter = _CHECK_DIGIT.match(text, end) if len(digits) == 17 else None
        if last > first and starts_like_id_card(digits + "X" * bool(letter)):
            found = letter.end() if letter else end
        elif len(digits) >= _CARD_DIGITS[0] and _in_fours(text, groups[first : last + 1]):
            found = end
    return found


def _in_fours(text: str, groups: list[Span]) -> bool:
    gaps = {text[a[1] : b[0]] for a, b in pairwise(groups)}
    sizes = [b - a for a, b in groups]
    return len(gaps) == 1 and set(sizes[:-1]) == {4} and sizes[-1] <= 4 and text[groups[0][0]] != "0"


def starts_like_id_card(number: str) -> bool:
    """Whether 18 characters begin with a province's code and hold a date where a citizen's number has the birth."""
    return len(number) == 18 and number[:2] in _PROVINCES and _is_date(number[6:14])


def _plausible_card(digits: str) -> bool:
    """Issuer prefixes in use in China: UnionPay 62 and older 6x (16-19 digits), 9558; Visa, Mastercard, JCB (16)."""
    if digits[0] == "6" or digits.startswith("9558"):
        return True
    return digits[0] in "345" and len(digits) == 16


def is_luhn(digits: str) -> bool:
    """Whether the last digit is the others' check digit. Source: ISO/IEC 7812-1, annex B."""
    doubled = (sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])
    return (sum(doubled) + sum(int(d) for d in digits[-1::-2])) % 10 == 0


def is_id_card(number: str) -> bool:
    """Whether 17 digits and a check digit (or X) are a citizen's number. Source: GB 11643-1999."""
    if number[:2] not in _PROVINCES or not _is_date(number[6:14]):
        return False
    return _CHECK_DIGITS[sum(w * int(d) for w, d in zip(_WEIGHTS, number[:17], strict=True)) % 11] == number[17]


def is_old_id_card(number: str) -> bool:
    """Whether 15 digits have the form of a citizen's number from before 1999 (no check digit)."""
    return number[:2] in _PROVINCES and _is_date("19" + number[6:12])


def _is_date(digits: str) -> bool:
    if not "1850" <= digits[:4] <= "2099":
        return False
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return True
