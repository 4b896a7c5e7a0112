"""Runs of digits in a text, and which of them are numbers of people: the digit half of the final scan (scan.py).

The text is walked once: every group of digits of any script, then the gaps between the groups, by Unicode class.
Neighbouring groups whose gap could stand inside a written number make a run, and windows of a run are judged by length,
prefix, check digit, grouping and the words before. How numbers are found here has nothing of the redaction; which
words make a number nobody's is one decision for both (detectors/context.py), or the scan would stop what the redaction
leaves.

Source: GB 11643-1999 (identity numbers), ISO/IEC 7812-1 (Luhn), the Chinese numbering plan (mobile prefixes, areas).
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from tasks.data.personal_data.detectors import context
from tasks.data.personal_data.detectors.folding import fold

BOUNDARY = "\x1e"
"""Stands between two messages in the text that is walked."""

Span = tuple[str, int, int]
"""Kind, start, end in the walked text."""

_GROUP = re.compile(r"[\d⓪①-⑨]+")
_CIRCLED = re.compile(r"[⓪①-⑨]+|\d+")
# more digits than any number of a person; a group is cut there, so that a million hidden characters cost no more
_LONGEST = 40
_BREAKS = "\n" + BOUNDARY
_PROVINCE_CODES = (
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83"
)
_PROVINCES = frozenset(_PROVINCE_CODES.split())
_PHONE_GROUPS = {(3, 4, 4), (3, 8), (7, 4), (4, 3, 4), (3, 3, 5), (1,) * 11}
# words that say what a number is when it is nobody's: the nearest word before the number decides
_OTHER_WORDS = (
    "订单", "单号", "运单", "流水", "交易号", "编号", "编码",
    "序号", "序列", "病历号", "住院号", "门诊号", "条码", "条形码",
    "批号", "发票", "工号", "货号", "型号", "合同", "保单", "学号", "票号", "淘宝", "顺丰",
    "案号", "件号", "期号", "架号", "库号", "登记号", "申请号", "受理", "凭证", "专利", "文号", "备案", "考号",
    "会员号", "积分", "验证码", "取件码", "物流", "追踪", "档案", "pmid", "isbn", "imei", "doi",
    "order", "invoice", "tracking", "serial",
)  # fmt: skip
_PHONE_WORDS = ("电话", "座机", "固话", "热线", "传真", "总机", "值班室", "tel", "phone", "打", "拨")
_OWN_WORDS = ("电话", "座机", "固话", "热线", "传真", "tel", "phone", "手机", "联系", "卡号", "账", "微信", "身份证")
_LABEL_WORDS = "ip tel t m mob mobile phone ph vx wx v q qq id no card wechat weixin"
_LABELS = frozenset(_LABEL_WORDS.split())


@dataclass(slots=True)
class Group:
    """Digits that stand together; invisible characters between them are ignored."""

    start: int
    end: int
    digits: str


@dataclass(slots=True)
class Run:
    """Groups and the classes of the gaps between them: one of space, hyphen, dot, bracket, line break, BOUNDARY."""

    groups: list[Group]
    gaps: list[str] = field(default_factory=list)

    def window(self, first: int, last: int) -> tuple[str, tuple[int, ...], list[str]]:
        """Digits, group sizes and inner gaps of groups first..last."""
        groups = self.groups[first : last + 1]
        return "".join(g.digits for g in groups), tuple(len(g.digits) for g in groups), self.gaps[first:last]

    def around(self, first: int, last: int) -> tuple[str, str]:
        """The gaps on both sides of a window; empty at the ends of the run."""
        return self.gaps[first - 1] if first else "", self.gaps[last] if last < len(self.gaps) else ""


@lru_cache(maxsize=4096)
def _gap(text: str) -> str | None:
    """The class of a gap, "" for one of invisible characters only, None where the digits do not belong together."""
    classes = set()
    for c in text:
        category = unicodedata.category(c)
        if category == "Cf":
            continue
        if category == "Zs" or c == "\t":
            classes.add(" ")
        elif category == "Pd" or c == "−":
            classes.add("-")
        elif c in ".．·•・。":
            classes.add(".")
        elif c in "()（）":
            classes.add(")")
        elif c in "\r\n":
            classes.add("\n")
        elif c == BOUNDARY:
            classes.add(c)
        else:
            return None
    if len(classes) > 1:
        classes.discard(" ")
    return next(iter(classes), "") if len(classes) < 2 else None


def _groups(text: str) -> Iterator[Group]:
    """Digits that stand together; a circled digit before plain ones is a list number, not a part of them."""
    for match in _GROUP.finditer(text):
        found = match[0]
        if found.isascii():
            yield Group(match.start(), match.end(), found)
        else:
            for part in _CIRCLED.finditer(found):
                digits = "".join(str(unicodedata.digit(c)) for c in part[0])
                yield Group(match.start() + part.start(), match.start() + part.end(), digits)


def runs(text: str) -> Iterator[Run]:
    """Every run of digit groups."""
    run: Run | None = None
    for group in _groups(text):
        if run is not None:
            last = run.groups[-1]
            gap = _gap(text[last.end : group.start]) if 0 < group.start - last.end < 9 else None
            if gap == "":
                last.end, last.digits = group.end, (last.digits + group.digits)[:_LONGEST]
                continue
            if gap is not None:
                run.gaps.append(gap)
                run.groups.append(group)
                continue
            yield run
        run = Run([group])
    if run is not None:
        yield run


def latin(c: str) -> str:
    """The lower-case ASCII letter that a letter stands for, or ""."""
    if "Ａ" <= c <= "ｚ":
        c = chr(ord(c) - 0xFEE0)
    return c.lower() if c.isascii() and c.isalpha() else ""


def said(text: str, start: int, words: tuple[str, ...], reach: int = 8) -> int:
    """Where the last of the words stands in the characters before start (its end), -1 where none does."""
    before = text[max(0, start - reach) : start].lower()
    return max(before.rfind(word) + len(word) if word in before else -1 for word in words)


def _nobodys(text: str, start: int, end: int) -> bool:
    """Whether the words around say that the number is an order, a record, an article, an amount, part of a link..."""
    if said(text, start, _OTHER_WORDS, 18) > said(text, start, _OWN_WORDS, 18):
        return True
    before, number, after = (
        fold(part.replace(BOUNDARY, "\n"))
        for part in (text[max(0, start - 120) : start], text[start:end], text[end:][:20])
    )
    place = before + number + after, len(before), len(before + number)
    return context.is_other(*place) or context.is_glued(*place)


def _glued(text: str, start: int, end: int) -> bool:
    """Whether the number is part of a longer code: letters before or after that are no label such as `tel`."""
    at = start
    while at and start - at < 9 and latin(text[at - 1]):
        at -= 1
    to = end
    while to < len(text) and to - end < 9 and latin(text[to]):
        to += 1
    before, after = ("".join(latin(c) for c in part) for part in (text[at:start], text[end:to]))
    underscored = text[max(0, start - 1) : start] == "_" or text[end : end + 1] == "_"
    return bool(before and before not in _LABELS) or bool(after and after not in _LABELS) or underscored


def identity_number(value: str) -> bool:
    """Whether 18 characters are an identity number: province, date of birth, check digit."""
    return (
        identity_shape(value)
        and "10X98765432"[sum(int(c) * (1 << 17 - i) for i, c in enumerate(value[:17])) % 11] == value[17]
    )


def identity_shape(value: str) -> bool:
    """Whether the first 14 digits are a province and a date of birth."""
    try:
        born = datetime.date(int(value[6:10]), int(value[10:12]), int(value[12:14]))
    except ValueError:
        return False
    return value[:2] in _PROVINCES and 1900 <= born.year <= datetime.date.today().year


def luhn(digits: str) -> bool:
    """Whether the digits pass the Luhn test."""
    doubled = (sum(divmod(2 * int(c), 10)) for c in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _mobile(digits: str) -> bool:
    return len(digits) == 11 and digits[0] == "1" and (
        digits[1] in "38"
        or (digits[1] == "4" and digits[2] in "56789")
        or (digits[1] in "59" and digits[2] != "4")
        or (digits[1] == "6" and digits[2] in "2567")
        or (digits[1] == "7" and digits[2] != "9")
    )  # fmt: skip


def _broken_once(gaps: list[str]) -> bool:
    return len(gaps) == 1 and gaps[0] in _BREAKS


def _find_identity(text: str, run: Run, first: int, last: int) -> Span | None:
    digits, sizes, gaps = run.window(first, last)
    if len(digits) not in (17, 18) or len(set(gaps) - set(_BREAKS)) > 1 or (len(sizes) > 6 and max(sizes) > 1):
        return None
    start, end = run.groups[first].start, run.groups[last].end
    if len(digits) == 17:
        to = end
        while to < len(text) and to - end < 4 and _gap(text[to]) is not None:
            to += 1
        if to >= len(text) or latin(text[to]) != "x":
            return None
        digits, end = digits + "X", to + 1
    if not identity_number(digits) or _glued(text, start, end):
        return None
    return "id_card", start, end


def _find_card(text: str, run: Run, first: int, last: int) -> Span | None:
    digits, sizes, gaps = run.window(first, last)
    length = len(digits)
    if not 16 <= length <= 19 or not (
        digits[:2] == "62" or (length == 16 and (digits[0] == "4" or "51" <= digits[:2] <= "55"))
    ):
        return None
    grouped = (sizes[:3] == (4, 4, 4) and all(n <= 7 for n in sizes[3:])) or (len(sizes) == 2 and sizes[0] == 6)
    irregular = digits[:2] == "62" and sizes[0] > 2 and max(sizes) > 3 and set(gaps) <= {" ", "-"}
    if gaps and not (grouped or set(sizes) == {1} or _broken_once(gaps) or (irregular and _alone(run, first, last))):
        return None
    if irregular and not grouped and not _single_signs(text, run, first, last):
        return None
    if set(gaps or ".") & set(run.around(first, last)):  # a table of numbers, or a decimal
        return None
    start, end = run.groups[first].start, run.groups[last].end
    if (
        not luhn(digits)
        or (length == 18 and identity_shape(digits))
        or _glued(text, start, end)
        or _nobodys(text, start, end)
    ):
        return None
    return "bank_card", start, end


def _alone(run: Run, first: int, last: int) -> bool:
    """Whether nothing stands beside a window but its line's ends."""
    return not set(run.around(first, last)) - {"", *_BREAKS}


def _single_signs(text: str, run: Run, first: int, last: int) -> bool:
    """Whether one character parts each two neighbouring groups of a window."""
    groups = run.groups[first : last + 1]
    return all(b.start - a.end == 1 for a, b in pairwise(groups))


def find_pieces(text: str, found: list[Run]) -> Iterator[Span]:
    """Identity and card numbers told in two neighbouring messages with words like 后四位 before the second part."""
    told = [run for run in found if not _counts_pieces(text, run)]
    for one, other in pairwise(told):
        between = text[one.groups[-1].end : other.groups[0].start]
        words = between.rpartition(BOUNDARY)[2]
        if not 0 < between.count(BOUNDARY) < 3 or len(between) > 30 or not any(w in words for w in "后剩尾末"):
            continue
        head, tail = ("".join(group.digits for group in run.groups) for run in (one, other))
        kind = _pieces_kind(head, tail)
        if kind and not any(_no_piece(text, run, kind) for run in (one, other)):
            yield kind, one.groups[0].start, one.groups[-1].end
            yield kind, other.groups[0].start, other.groups[-1].end


def _counts_pieces(text: str, run: Run) -> bool:
    """Whether it is the 4 of 后4位."""
    return len(run.groups) == 1 and len(run.groups[0].digits) < 3 and text[run.groups[0].end :][:1] in ("位", "段")


def _pieces_kind(head: str, tail: str) -> str:
    if len(head) > 5 and len(head + tail) == 18 and identity_number(head + tail):
        return "id_card"
    card = head[:2] == "62" and 5 < len(head) < 16 and 2 < len(tail) < 11 and 16 <= len(head + tail) <= 19
    return "bank_card" if card and luhn(head + tail) and not identity_shape(head + tail) else ""


def _no_piece(text: str, run: Run, kind: str) -> bool:
    """Whether a run is part of a code, an amount, written with other signs, or (no identity number) an order."""
    start, end = run.groups[0].start, run.groups[-1].end
    before, after = text[max(0, start - 1) : start], text[end : end + 2].strip()[:1]
    signs = set(run.gaps) <= {" ", "-"} and _single_signs(text, run, 0, len(run.groups))
    glued = (
        before in tuple("._") or latin(before) or latin(after) or after in tuple("._元块斤克米次人个年月天条件岁分万%")
    )
    return not signs or bool(glued) or (kind != "id_card" and _nobodys(text, start, end))


def _phone_grouping(run: Run, sizes: tuple[int, ...], gaps: list[str]) -> bool:
    """Whether the groups are those in which people write a mobile number; a dot with two groups is a decimal."""
    if "." in gaps and set(gaps) != {"."}:
        return False
    return sizes in _PHONE_GROUPS and gaps != ["."]


def _phones_around(run: Run, first: int, last: int) -> bool:
    """Whether what stands beside a window is grouped mobile numbers too; else it is a table of numbers."""

    def phone(groups: list[Group]) -> bool:
        return not groups or ([len(g.digits) for g in groups] == [3, 4, 4] and groups[0].digits[0] == "1")

    return phone(run.groups[max(0, first - 3) : first]) and phone(run.groups[last + 1 : last + 4])


def _find_mobile(text: str, run: Run, first: int, last: int) -> Span | None:
    digits, sizes, gaps = run.window(first, last)
    start, end = run.groups[first].start, run.groups[last].end
    country = 2 if len(digits) == 13 and text[start - 1 : start] in ("+", "＋") else 4 * digits.startswith("0086")
    if country and digits[country - 2 : country] == "86" and len(sizes) == 1 and end - start == len(digits):
        digits, sizes, start = digits[country:], (11,), start + country
    if not _mobile(digits):
        return None
    left, right = run.around(first, last)
    if gaps:
        if not (_phone_grouping(run, sizes, gaps) or (_broken_once(gaps) and len(run.groups) == 2 and min(sizes) > 2)):
            return None
        if first and run.groups[first - 1].digits in ("86", "0086"):
            left = ""
        if {left, right} & {*gaps, "."} and not _phones_around(run, first, last):
            return None
    elif "." in (left, right):
        return None
    return None if _glued(text, start, end) or _nobodys(text, start, end) else ("mobile", start, end)


def _find_landline(text: str, run: Run, first: int, last: int) -> Span | None:
    digits, sizes, gaps = run.window(first, last)
    if digits[0] != "0":
        before = run.groups[first - 1] if first else None
        national = before and text[before.start - 1 : before.end] in ("+86", "＋86", "＋８６")
        if not national and not (before and before.digits == "0086"):
            return None
        digits, sizes = "0" + digits, (sizes[0] + 1, *sizes[1:])
    area = 3 if digits[1] in "12" else 4
    number = digits[area:]
    if digits[1] == "0" or digits[:3] in ("011", "012", "026") or len(number) not in ((8,) if area == 3 else (7, 8)):
        return None
    if number[0] not in "2345678" or (number[:2] == "20" and identity_shape("110000" + number)):
        return None
    if gaps and (sizes[0] != area or sizes[1:] not in ((7,), (8,), (4, 4), (3, 4)) or set(gaps) & {".", *_BREAKS}):
        return None
    start, end = run.groups[first].start, run.groups[last].end
    clear = (bool(gaps) and gaps[0] in "-)") or said(text, start, _PHONE_WORDS, 12) >= 0
    left, right = run.around(first, last)
    abroad = bool(first) and run.groups[first - 1].digits in ("86", "0086")
    if left == "-" and not abroad:  # the end of a longer code
        return None
    if not clear or "." in (left, right) or _glued(text, start, end) or _nobodys(text, start, end):
        return None
    return "landline", start, end


def _find_address(text: str, run: Run, first: int, last: int) -> Span | None:
    digits, sizes, gaps = run.window(first, last)
    if len(sizes) != 4 or gaps != [".", ".", "."] or max(sizes) > 3 or "." in run.around(first, last):
        return None
    parts = [int(g.digits) for g in run.groups[first : last + 1]]
    start, end = run.groups[first].start, run.groups[last].end
    if (
        max(parts) > 255
        or end - start != len(digits) + 3
        or parts[0] in (0, 127)
        or said(text, start, ("版本", "version", "节"), 10) >= 0
    ):
        return None
    clear = max(parts) > 99 or said(text, start, ("ip", "服务器", "ping", "地址", "@"), 10) >= 0
    return None if not clear or _glued(text, start, end) else ("ip", start, end)


# from the strongest evidence to the weakest, each with the counts of digits that it takes
_FINDERS = (
    (_find_identity, (17, 18)),
    (_find_card, (16, 17, 18, 19)),
    (_find_mobile, (11, 13, 15)),
    (_find_address, tuple(range(4, 13))),
    (_find_landline, (9, 10, 11, 12)),
)


def find_numbers(text: str, run: Run) -> list[Span]:
    """Identity, card and telephone numbers and IPv4 addresses of a run; a group is used once, by the strongest."""
    found: list[Span] = []
    sizes = [len(g.digits) for g in run.groups]
    free = [True] * len(sizes)
    for finder, lengths in _FINDERS:
        four = finder is _find_address
        if four and "." not in run.gaps:
            continue
        for first in range(len(sizes)):
            length = 0
            for last in range(first, min(first + (4 if four else lengths[-1]), len(sizes))):
                length += sizes[last]
                if length > lengths[-1] or not free[last]:
                    break
                if length in lengths and (last == first + 3 or not four):
                    span = finder(text, run, first, last)
                    if span is not None:
                        found.append(span)
                        free[first : last + 1] = [False] * (last + 1 - first)
                        break
    return found
