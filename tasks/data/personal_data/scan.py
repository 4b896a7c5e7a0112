"""The final scan: a second look for personal data in what was written, by means that are not the redaction's.

It fails the stage when it fires, so it fires only on clear forms. Where the redaction matches patterns on normalised
text, this walks characters by Unicode class (digits: scan_numbers.py) and tokens around an anchor: the @ of an e-mail
address, the province of a number plate, the words before an account, the road before a house number. Placeholders
(`[手机号:kdqfwx]`) are blanked first.

Not looked for: digits written in Chinese characters; postal addresses without a district, house number or room.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tasks.data.personal_data.scan_numbers import BOUNDARY, Run, Span, find_numbers, find_pieces, latin, runs, said


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that looks like personal data: characters start..end of one message."""

    kind: str
    message: int
    start: int
    end: int


_ANCHOR = re.compile(r"[\d@＠﹫⓪①-⑨]")
_PLACEHOLDER = re.compile(r"\[[^\[\]:\n]{1,8}:[a-z]{6}\]")
_BLANK = "\x1f"
_AT = "@＠﹫"
_DOMAINS = "com cn net org edu gov io me cc tv top xyz info biz co hk tw jp us uk de fr ru app dev vip tech"
_TOP_DOMAINS = frozenset(_DOMAINS.split())
_PLATE_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_PLATE_WORDS = ("车", "牌", "etc", "滴滴", "停", "挪")
_BEFORE_PLATE = frozenset(_PLATE_PROVINCES + " .．·•・-－")
_PASSPORT_WORDS = ("护照", "passport", "通行证")
_QQ_WORDS = ("qq", "扣扣", "企鹅", "球球", "加q")
_QQ_LINKS = frozenset(" \t:：=-是为号码加我的改换成了(（，")
_NOT_QQ = frozenset("人个元条次年月天分秒万%kKmM")
_WECHAT = re.compile(r"微信|[微威][❤♥]\ufe0f?|薇信|威信|[vV]信|加[vV]|[wW]e[cC]hat|[wW]ei[xX]in|[vVwW][xX]")
_WECHAT_LINKS = frozenset(" \t:：=是为号码加我的换成了新IDid(（，搜索")
_NOT_WECHAT = (
    "wechat", "weixin", "android", "iphone", "windows", "harmony", "version", "http", "applet", "pay", "ios",
    "app",
)  # fmt: skip
_ROADS = ("路", "街", "大道", "巷", "胡同", "弄")
_NO_ROADS = ("电路", "线路", "回路", "管路", "油路", "气路", "思路", "通路")
_ESTATES = ("花园", "小区", "家园", "公寓", "苑", "新村", "村")
_BEFORE_DOOR = frozenset(" \u3000" + "".join(word[-1] for word in (*_ROADS, *_ESTATES)))
_DISTRICTS = "省市区县镇乡"
_DOORS = ("号", "弄", "栋", "幢", "单元", "室", "组", "座")
_ROOMS = ("栋", "幢", "单元", "室", "楼", "座", "弄")
_ADDRESS_WORDS = (
    "地址改成", "注册地址为", "地址", "住址", "现住", "暂住", "住在", "寄到", "寄", "住", "在", "到", "送",
    "为", "是", "把",
)  # fmt: skip


def scan(messages: Sequence[str], names: Sequence[str] = (), allow: Sequence[str] = ()) -> list[Finding]:
    """Personal data that is still in the messages of one row, in reading order.

    Args:
        messages: Texts that belong together; a number may go on from one to the next.
        names: Names to look for as they are; a Latin name only as a whole word.
        allow: Values that are no personal data, whatever their width, case, spaces and hyphens.
    """
    text = messages[0] if len(messages) == 1 else BOUNDARY.join(messages)
    numbers = _ANCHOR.search(text) is not None
    accounts = _mentions_account(text) and _WECHAT.search(text) is not None
    named = [name for name in names if name in text] if len(names) < 20 else _present(tuple(names), text)
    colons = "::" in text or text.count(":") > 6
    if not (numbers or accounts or named or colons):
        return []
    if "[" in text:
        text = _PLACEHOLDER.sub(lambda match: _BLANK * len(match[0]), text)
    spans: list[Span] = []
    if numbers:
        spans += _from_digits(text)
        if any(c in text for c in _AT):
            spans += _emails(text)
    if colons:
        spans += _long_addresses(text)
    if accounts:
        spans += _accounts(text)
    for name in named:
        spans += _names(text, name)
    return _findings(messages, text, spans, allow) if spans else []


def _mentions_account(text: str) -> bool:
    """A cheap necessary condition of _WECHAT, which takes 40 ns a character; `in` takes 1 ns."""
    # fmt: off
    return (
        "信" in text or "x" in text or "X" in text or "❤" in text or "♥" in text or "加v" in text or "加V" in text
        or "hat" in text
    )
    # fmt: on


# -- from runs of digits
def _from_digits(text: str) -> list[Span]:
    """What digits are part of; a walk is entered only where the count of digits or the character before allows it."""
    found: list[Span] = []
    numbers = list(runs(text))
    if len(numbers) > 1 and BOUNDARY in text:
        found += find_pieces(text, numbers)
    for run in numbers:
        total = sum([len(group.digits) for group in run.groups])
        spans = find_numbers(text, run) if total > 6 or len(run.groups) > 3 else []
        if not spans and total > 4:
            spans = _passports(text, run) or _qq(text, run)
        start = run.groups[0].start
        if not spans and start:
            before = text[start - 1]
            if before in _BEFORE_PLATE or latin(before):
                spans = _plates(text, run)
            if not spans and before in _BEFORE_DOOR:
                spans = _addresses(text, run)
        found += spans
    return found


def _passports(text: str, run: Run) -> list[Span]:
    """A letter E, G, P, S or D and eight digits, or E, a letter and seven, after the word for a passport."""
    first, last = run.groups[0], run.groups[min(1, len(run.groups) - 1)]
    digits = sum(len(g.digits) for g in run.groups)
    if len(run.groups) > 2 or digits not in (7, 8) or any(gap not in " " for gap in run.gaps):
        return []
    at = first.start
    while at and text[at - 1] in " \u3000":
        at -= 1
    start = at
    while start and at - start < 3 and latin(text[start - 1]):
        start -= 1
    letters = "".join(latin(c) for c in text[start:at])
    fits = (digits == 8 and letters in ("e", "g", "p", "s", "d")) or (
        digits == 7 and len(letters) == 2 and letters[0] == "e"
    )
    near = said(text, start, _PASSPORT_WORDS, 20) >= 0 or any(
        word in text[last.end : last.end + 6] for word in _PASSPORT_WORDS
    )
    return [("passport", start, last.end)] if fits and near and not _word(text, last.end) else []


def _qq(text: str, run: Run) -> list[Span]:
    """5 to 11 digits straight after the word QQ and joining words."""
    first = run.groups[0]
    at = first.start
    while at and first.start - at < 8 and text[at - 1] in _QQ_LINKS:
        at -= 1
    before = text[max(0, at - 3) : at]
    before = "".join(latin(c) or c for c in before)
    joined = any(c in ":：" for c in text[at : first.start])
    own_letter = before.endswith("q") and joined and not latin(before[-2:-1])
    if not (own_letter or any(before.endswith(word) for word in _QQ_WORDS)) or (
        before.endswith("qq") and latin(before[-3:-2])
    ):
        return []
    last = (
        run.groups[-1] if joined and len(run.groups) < 4 and len(set(run.gaps)) == 1 and run.gaps[0] in " -" else first
    )
    digits = sum(len(g.digits) for g in run.groups) if last is not first else len(first.digits)
    if (
        not 5 <= digits <= 11
        or first.digits[0] == "0"
        or _word(text, last.end)
        or text[last.end : last.end + 1] in _NOT_QQ
    ):
        return []
    return [("qq", first.start, last.end)]


def _plates(text: str, run: Run) -> list[Span]:
    """Province, letter, five or six letters and digits, perhaps with a dot after the letter."""
    at = run.groups[0].start
    low = max(0, at - 6)
    while at > low and (latin(text[at - 1]) or text[at - 1] in " .．·•・-－"):
        at -= 1
    start = at - 1
    if start < 0 or text[start] not in _PLATE_PROVINCES or not latin(text[at : at + 1]):
        return []
    to = at + 1
    while to < len(text) and text[to] in " .．·•・-－":
        to += 1
    dotted, tail = to > at + 1, ""
    while to < len(text) and len(tail) < 8 and (latin(text[to]) or text[to].isdecimal()):
        tail += latin(text[to]) or str(unicodedata.digit(text[to]))
        to += 1
    if len(tail) == 4 and text[to : to + 1] in ("学", "警", "港", "澳", "挂", "领"):
        tail, to = tail + "0", to + 1
    digits = sum(c.isdigit() for c in tail)
    plain = len(tail) == 5 and digits > 2
    energy = len(tail) == 6 and digits > 3 and (tail[0] in "abcdefghjk" or tail[-1] in "abcdefghjk")
    lower = text[at].islower()
    clear = (
        (dotted and not lower)
        or said(text, start, _PLATE_WORDS, 10) >= 0
        or (text[start] not in "新云青宁贵吉川藏" and not lower)
    )
    after = text[to : to + 8]
    clear = clear or any(word in after for word in ("车", "挡", "肇事"))
    return [("plate", start, to)] if (plain or energy) and clear and not set("io") & set(tail) else []


def _addresses(text: str, run: Run) -> list[Span]:
    """A road, estate or village and a number, with the district before or the building and room after."""
    first, last = run.groups[0], run.groups[-1]
    at = first.start
    while at and text[at - 1] in " \u3000":
        at -= 1
    if not text[max(0, at - 2) : at].endswith((*_ROADS, *_ESTATES)):
        return []
    start = at
    while start and at - start < 26 and ("一" <= text[start - 1] <= "鿿" or text[start - 1] in " \u3000"):
        start -= 1
    stretch = text[start:at]
    cut = max(stretch.rfind(word) + len(word) if word in stretch else 0 for word in _ADDRESS_WORDS)
    stretch = stretch[cut:]
    start += cut + len(stretch) - len(stretch.lstrip(" \u3000"))
    district = sum(c in _DISTRICTS for c in stretch[:-1]) and len(stretch) > 4
    to, doors = last.end, 0
    for _ in range(8):
        end = _door(text, to)
        if end == to:
            break
        to, doors = end, doors + 1
    estate = stretch.endswith(_ESTATES)
    rooms = any(word in text[last.end : to] for word in _ROOMS)
    numbered = doors or (len(run.groups) == 3 and estate)
    if not stretch.endswith(_NO_ROADS) and ((district and numbered) or (doors > 1 and rooms and not estate)):
        return [("address", start, to)]
    return []


def _door(text: str, at: int) -> int:
    """The end of what follows a house number: its word, then perhaps an estate's name and the next number."""
    to = at
    while text[to : to + 1] in (" ", "\u3000"):
        to += 1
    word = next((word for word in _DOORS if text.startswith(word, to)), "")
    if not word:
        return at
    end = to + len(word)
    if text[end : end + 1] in ("楼", "院"):
        end += 1
    ahead = end
    while (
        ahead < len(text)
        and ahead - end < 9
        and ("一" <= text[ahead] <= "鿿" or text[ahead] in " \u3000" or latin(text[ahead]))
    ):
        ahead += 1
    name = text[end:ahead].strip(" \u3000")
    if ahead < len(text) and text[ahead].isdecimal() and (not name or name.endswith((*_ESTATES, "座", "楼", "院"))):
        while ahead < len(text) and text[ahead].isdecimal():
            ahead += 1
        return ahead
    return end


# -- from other anchors
def _word(text: str, at: int) -> bool:
    """Whether a Latin letter or a digit stands here."""
    return at < len(text) and (bool(latin(text[at])) or text[at].isdecimal())


def _plain(c: str) -> str:
    return chr(ord(c) - 0xFEE0) if "！" <= c <= "～" else c


def _walk(text: str, at: int, step: int, extra: str) -> int:
    """The end of a token of letters, digits and extra signs that is walked from `at` in the direction of `step`."""
    low = at - 70
    while (
        0 <= at < len(text)
        and low < at < low + 140
        and (c := _plain(text[at])).isascii()
        and (c.isalnum() or c in extra)
    ):
        at += step
    return at


def _emails(text: str) -> Iterator[Span]:
    for at in (i for i, c in enumerate(text) if c in _AT):
        left, right = at - 1, at + 1
        if text[left : left + 1] == " " and text[right : right + 1] == " ":
            left, right = left - 1, right + 1
        start, end = _walk(text, left, -1, "._%+-") + 1, _walk(text, right, 1, ".-")
        local, domain = ("".join(map(_plain, part)) for part in (text[start : left + 1], text[right:end]))
        end -= len(domain) - len(domain.rstrip(".-"))
        start += len(local) - len(local.lstrip("._%+-"))
        labels = domain.rstrip(".-").lower().split(".")
        if start <= left and len(labels) > 1 and all(labels) and labels[-1] in _TOP_DOMAINS:
            yield "email", start, end


def _long_addresses(text: str) -> Iterator[Span]:
    """IPv6 addresses that cannot be a time or a C++ name: three groups or more."""
    at = 0
    while (at := text.find(":", at)) >= 0:
        start = end = at
        while start and (text[start - 1] in "0123456789abcdefABCDEF:"):
            start -= 1
        while end < len(text) and text[end] in "0123456789abcdefABCDEF:":
            end += 1
        token = text[start:end]
        groups = [g for g in token.split(":") if g]
        inside = _word(text, end) or bool(start and _word(text, start - 1) and text[:start][-2:].lower() != "ip")
        if len(groups) > 2 and max(map(len, groups)) > 2 and not inside and _is_ipv6(token):
            yield "ip", start, end
        at = max(end, at + 1)


def _is_ipv6(token: str) -> bool:
    try:
        ipaddress.IPv6Address(token)
    except ValueError:
        return False
    return True


def _accounts(text: str) -> Iterator[Span]:
    """A WeChat id after its word: a letter, then letters, digits, `_` and `-`, six to twenty in all."""
    for match in _WECHAT.finditer(text):
        key = match[0].lower()
        if key in ("wx", "vx", "wechat", "weixin") and match.start() and _word(text, match.start() - 1):
            continue
        at = match.end()
        if text[at : at + 3].lower() == "id_":
            at = match.start()
        while at < len(text) and at - match.end() < 8 and text[at] in _WECHAT_LINKS and not _starts_id(text, at):
            at += 1
        end = _walk(text, at, 1, "_-")
        token = "".join(map(_plain, text[at:end]))
        marked = any(c in "0123456789_" for c in token) or any(c in ":：是" for c in text[match.end() : at])
        if 6 <= len(token) <= 20 and token[0].isalpha() and marked and not token.lower().startswith(_NOT_WECHAT):
            yield "wechat", at, end


def _starts_id(text: str, at: int) -> bool:
    return bool(latin(text[at])) and _walk(text, at, 1, "_-") - at > 5


# -- names
@lru_cache(maxsize=8)
def _by_first(names: tuple[str, ...]) -> dict[str, list[str]]:
    firsts: dict[str, list[str]] = {}
    for name in names:
        firsts.setdefault(name[:1], []).append(name)
    return firsts


def _present(names: tuple[str, ...], text: str) -> list[str]:
    """Which of many names the text has: only those are tried that begin with one of its characters."""
    firsts = _by_first(names)
    return [name for first in firsts.keys() & set(text) for name in firsts[first] if name in text]


def _names(text: str, name: str) -> Iterator[Span]:
    at = -1
    while name and (at := text.find(name, at + 1)) >= 0:
        end = at + len(name)
        before = at and _word(text, at - 1) and _word(name, 0)
        if not before and not (_word(text, end) and _word(name, len(name) - 1)):
            yield "name", at, end


# -- result
def _bare(value: str) -> str:
    """The value without width, case, separators and invisible characters."""
    return "".join(c for c in unicodedata.normalize("NFKC", value).casefold() if c.isalnum() or c in "@._")


@lru_cache(maxsize=8)
def _allowed(allow: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(_bare, allow))


def _findings(messages: Sequence[str], text: str, spans: list[Span], allow: Sequence[str]) -> list[Finding]:
    """The spans as findings, one for each message that a span touches; the first of overlapping spans stays."""
    kept: list[Span] = []
    allowed = _allowed(tuple(allow)) if allow else frozenset()
    for kind, start, end in sorted(spans, key=_order):
        if _bare(text[start:end]) not in allowed and not (kept and start < kept[-1][2]):
            kept.append((kind, start, end))
    found, offset = [], 0
    for number, message in enumerate(messages):
        for kind, start, end in kept:
            low, high = max(0, start - offset), min(len(message), end - offset)
            if low < high:
                found.append(Finding(kind, number, low, high))
        offset += len(message) + 1
    return found


_order: Callable[[Span], tuple[int, int]] = lambda span: (span[1], -span[2])  # noqa: E731
