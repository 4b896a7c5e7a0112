"""Number plates, passports and travel permits, IP addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from tasks.data.personal_data.detectors import context
from tasks.data.personal_data.detectors.folding import Match

# --- plates ----------------------------------------------------------------------------------------------------------

#: Source: GA 36-2018, the one-character names of the provinces
PROVINCE = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_PLATE = re.compile(
    rf"[{PROVINCE}][ ·\-]?[A-HJ-NP-Za-hj-np-z] ?[·.\-]? ?"
    r"((?:[A-HJ-NP-Za-hj-np-z0-9][ .·\-]?){4}(?:[A-HJ-NP-Za-hj-np-z0-9][ ]?[A-HJ-NP-Za-hj-np-z0-9](?![A-Za-z0-9])"
    r"|[A-HJ-NP-Za-hj-np-z0-9学警港澳挂领试超])(?![A-Za-z0-9]))"
)


def plates(text: str) -> Iterator[Match]:
    """Number plates: province, city letter, five or (electric cars) six more; at least three of them digits."""
    for match in _PLATE.finditer(text):
        tail = re.sub(r"[ .·\-]", "", match.group(1))
        if sum(c.isdigit() for c in tail) >= 3:
            yield Match("plate", *match.span(), re.sub(r"[ .·\-]", "", match.group()).upper())


# --- passports -------------------------------------------------------------------------------------------------------

_TRAVEL = re.compile(r"护照|通行证|回乡证|台胞证|台湾居民|港澳|签证|旅行证|passport", re.IGNORECASE)
# Source: National Immigration Administration: E + 8 digits, from 2017 on E + letter (no I, O) + 7 digits
_STRICT = re.compile(r"(?<![A-Za-z0-9_\-.])(?:E[0-9]|E[A-HJ-NP-Z])[0-9]{7}(?![A-Za-z0-9]|\.[0-9])", re.IGNORECASE)
_LETTER_NUMBER = re.compile(r"[A-Za-z证][^0-9]{0,4}[0-9](?:[ \-]?[0-9]){6}")
_SPACED = re.compile(
    r"(?<![A-Za-z0-9_])[A-Za-z]{1,2}[ \-]?[0-9](?:[ \-]?[0-9]){6,9}(?![A-Za-z0-9])"
    r"|(?<=台胞证)[^0-9A-Za-z]{0,4}[0-9]{8}(?![0-9])"
)


def passports(text: str) -> Iterator[Match]:
    """Passports and permits: the present Chinese form anywhere, other forms after a word like 护照."""
    if not _LETTER_NUMBER.search(text):
        return
    for match in _STRICT.finditer(text):
        if not context.is_other(text, *match.span()):
            yield Match("passport", *match.span(), match.group().upper())
    if _TRAVEL.search(text):
        for match in _SPACED.finditer(text):
            after = _TRAVEL.search(text, match.end(), match.end() + 10)
            if (after or context.says(_TRAVEL, text, match.start())) and not context.is_other(text, *match.span()):
                yield Match("passport", *match.span(), re.sub(r"[ \-]", "", match.group()).upper())


# --- IP addresses ----------------------------------------------------------------------------------------------------

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IP4 = re.compile(rf"(?<![0-9_.\-])({_OCTET}(?:\.{_OCTET}){{3}})(?![0-9A-Za-z_]|\.[0-9])")
_DOTTED = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_LETTERS = re.compile(r"[A-Za-z]+\Z")
_IP6 = re.compile(r"(?<![0-9A-Za-z:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![0-9A-Za-z:])")
_VERSION_BEFORE = re.compile(
    r"(?:版本号?|[vV]|version|ver\.?|release|build|固件|第|表|图|章|节)[ :是为到]{0,3}\Z", re.IGNORECASE
)
_SECTION_AFTER = re.compile(r" ?(?:版|节|章|条|款|小节|[/\-][0-9]+\.)")
_HOST = re.compile(
    r"(?<![A-Za-z])ip|地址|服务器|主机|端口|网关|ping|dns|登录|登陆|访问|host|路由|连[接不上]|ssh|来自|内网|外网",
    re.IGNORECASE,
)


def ip_addresses(text: str) -> Iterator[Match]:
    """IPv4 addresses that are no version or section numbers; IPv6 addresses of at least three groups."""
    if _DOTTED.search(text):
        for match in _IP4.finditer(text):
            if _is_host(text, *match.span()):
                yield Match("ip", *match.span(), match.group())
    if _COLONS.search(text):
        for match in _IP6.finditer(text):
            if len([g for g in match.group().split(":") if g]) >= 3 and _is_ip6(match.group()):
                yield Match("ip", *match.span(), ipaddress.IPv6Address(match.group()).compressed)


def _is_host(text: str, start: int, end: int) -> bool:
    """Whether four numbers are an address rather than a version, a section or a list of values."""
    named = context.says(_HOST, text, start)
    letters = _LETTERS.search(text, max(0, start - 8), start)
    if letters and letters.group().lower() not in ("ip", "ipv"):
        return False
    if _VERSION_BEFORE.search(text, max(0, start - 12), start) and not named:
        return False
    if _SECTION_AFTER.match(text, end):
        return False
    return named or re.search(r"[0-9]{3}|[6-9][0-9]|\A10\.", text[start:end]) is not None


def _is_ip6(value: str) -> bool:
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return True
