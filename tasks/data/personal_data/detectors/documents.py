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
_DOUBTFUL = re.compile(r"新[A-Za-z][0-9xX.]+\Z|.[ ]?[A-Za-z][0-9]{2}\.[0-9]")
_CAR = re.compile(r"车|牌照|号牌|违章|闯红灯|司机|加油")


def plates(text: str) -> Iterator[Match]:
    """Number plates: province, city letter, five or (electric cars) six more; at least three of them digits.

    What reads like a diagnosis code counts only beside a word like 车牌: letter, two digits, a full stop. So do bare
    digits after 新, which is an ordinary word more often than Xinjiang: 新D48600 is new, and a code. With the mark or
    gap of a plate after the letter (新A·12345), or another letter (新A8K666), it is a plate anywhere.
    """
    for match in _PLATE.finditer(text):
        tail = re.sub(r"[ .·\-]", "", match.group(1))
        if sum(c.isdigit() for c in tail) >= 3 and (not _DOUBTFUL.match(match.group()) or _says_car(text, match)):
            yield Match("plate", *match.span(), re.sub(r"[ .·\-]", "", match.group()).upper())


def _says_car(text: str, match: re.Match[str]) -> bool:
    return context.says(_CAR, text, match.start()) or _CAR.search(text, match.end(), match.end() + 6) is not None


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
_IP4 = re.compile(rf"(?:(?<![0-9_.\-])|(?<=[iI][pP][vV]4))({_OCTET}(?:\.{_OCTET}){{3}})(?![0-9A-Za-z_]|\.[0-9])")
_DOTTED = re.compile(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")
_LETTERS = re.compile(r"[A-Za-z]+\Z")
_IP6 = re.compile(
    r"(?:(?<![0-9A-Za-z:.])|(?<=(?<![A-Za-z])[iI][pP])|(?<=[iI][pP][vV]6)|(?<=[vV]6:)|(?<=[^0-9A-Fa-f:]:))"
    rf"(?P<address>(?:[0-9A-Fa-f]{{1,4}}|(?=::))(?::[0-9A-Fa-f]{{0,4}}){{1,7}}:(?:{_OCTET}(?:\.{_OCTET}){{3}}|[0-9A-Fa-f]{{0,4}}))"
    r"(?:%[A-Za-z0-9]{1,12})?(?![0-9A-Za-z:])"
)
# Source: IANA, IPv6 global unicast assignments (the regions' own blocks); RFC 4193, RFC 4291: local addresses
_IP6_BLOCK = re.compile(r"(?:200[1-3]|2[4-9ac][0-9a-f]{2}|fe[89ab][0-9a-f]|f[cd][0-9a-f]{2}):", re.IGNORECASE)
_VERSION_BEFORE = re.compile(
    r"(?:版本号?|[vV]|version|ver\.?|release|build|固件|第|表|图|章|节)[ :是为到]{0,3}\Z", re.IGNORECASE
)
_SECTION_AFTER = re.compile(r" ?(?:版|节|章|条|款|小节|[/\-][0-9]+\.)")
_HOST = re.compile(
    r"(?<![A-Za-z])ip|地址|服务器|主机|端口|网关|ping|dns|登录|登陆|访问|host|路由|连[接不上]|ssh|来自|内网|外网",
    re.IGNORECASE,
)


def ip_addresses(text: str) -> Iterator[Match]:
    """IPv4 addresses that are no version or section numbers; IPv6 addresses in every form of RFC 4291.

    An IPv6 address of fewer than three groups counts in blocks that are in use, or after a word like IP.
    """
    if _DOTTED.search(text):
        for match in _IP4.finditer(text):
            if _is_host(text, *match.span()):
                yield Match("ip", *match.span(), match.group())
    if _COLONS.search(text):
        for match in _IP6.finditer(text):
            if found := _ip6(text, match):
                yield found


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


def _ip6(text: str, match: re.Match[str]) -> Match | None:
    address = match.group("address")
    try:
        value = ipaddress.IPv6Address(address).compressed
    except ValueError:
        return None
    groups = sum(map(bool, address.split(":")))
    usual = groups >= 3 or "." in address or (groups == 2 and _IP6_BLOCK.match(address))
    if usual or (groups and context.says(_HOST, text, match.start())):
        return Match("ip", match.start(), match.end(), value)
    return None
