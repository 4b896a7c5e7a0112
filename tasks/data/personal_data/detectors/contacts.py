"""Landlines, e-mail addresses, QQ and WeChat accounts.

A QQ number or a WeChat id looks like any other number or word: only the words before (or just after) it tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from tasks.data.personal_data.detectors import context
from tasks.data.personal_data.detectors.folding import BOUNDARY, Match

# --- landlines -------------------------------------------------------------------------------------------------------

_AREA = r"(?:10|2[0-9]|[3-9][0-9]{2})"
_EXTENSION = r"(?:[ ,]{0,2}(?:转|分机号?|ext\.?)[ :]{0,2}[0-9]{1,6}|-[0-9]{1,5}(?![0-9-]))?"
_LANDLINE = re.compile(
    rf"(?<![0-9])(?:\(?\+?(?:00)?86\)?[ -]{{0,2}}\(?0?|\(?0){_AREA}\)?[ \-~_/.·]{{0,3}}"
    rf"[2-8](?:[0-9]{{6,7}}|[0-9]{{2,3}}[ -][0-9]{{4}}|[0-9](?: ?[0-9]){{5,6}})(?![0-9]){_EXTENSION}",
    re.IGNORECASE,
)
_LOCAL = re.compile(
    r"(?:电话|座机|固话|宅电|传真|家里的?号码|办公室号码)(?:号码?|是|为|:|,|我|家|的| ){0,6}"
    rf"([2-8](?:[0-9]{{6,7}}|[0-9]{{2,3}}[ -][0-9]{{4}}))(?![0-9-]){_EXTENSION}",
    re.IGNORECASE,
)
_ABROAD = re.compile(r"(?<![0-9A-Za-z])\(?(?:\+|00)(?:852|853|886)\)?[ -]{0,2}[0-9]{4}[ -]?[0-9]{4,5}(?![0-9])")
_SEVEN_DIGITS = re.compile(r"[0-9](?:[^0-9]{0,3}[0-9]){6}")
_NOT_DIGIT = re.compile(r"[^0-9]")


def landlines(text: str) -> Iterator[Match]:
    """Landline numbers with an area code, and without one after a word like 座机."""
    if not _SEVEN_DIGITS.search(text):
        return
    for match in _LANDLINE.finditer(text):
        start, end = match.span()
        called = context.says(context.PHONE, text, start)
        if not context.is_other(text, start, end) and (called or not context.is_glued(text, start, end)):
            yield Match("landline", start, end, _national(match.group()))
    for match in _LOCAL.finditer(text):
        yield Match("landline", match.start(1), match.end(), _NOT_DIGIT.sub("", match.group()))
    for match in _ABROAD.finditer(text):
        yield Match("mobile", *match.span(), _NOT_DIGIT.sub("", match.group()).removeprefix("00"))


def _national(number: str) -> str:
    digits = _NOT_DIGIT.sub("", number).removeprefix("00")
    digits = digits.removeprefix("86") if digits.startswith("86") else digits
    return "0" + digits.lstrip("0")


# --- e-mail ----------------------------------------------------------------------------------------------------------

_PROVIDERS = (
    r"(?:vip\.)?(?:qq|163|126|139|189|sina|sohu|gmail|hotmail|outlook|yeah|foxmail|icloud|aliyun|yahoo|live|msn"
    r"|tom|21cn)"
)
_LOCAL_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._%+\-]{0,62}[A-Za-z0-9_\-])? ?\Z|[A-Za-z0-9] ?\Z")
_DOMAIN = re.compile(
    r"[ \uffff]?([A-Za-z0-9\-]{1,63}(?: ?[.。·] ?[A-Za-z0-9\-]{1,63}){0,5}[.。·][A-Za-z]{2,12})(?![A-Za-z0-9])"
)
_ENDING = re.compile(r"[cCnN](?:(?<=[cC])(?:[oO][mM]|[nN])|(?<=[nN])[eE][tT])")
_DOT = r" ?(?:[.。·]|dot|点|\[dot\]|\(dot\)|\[\.\]) ?"
_OBFUSCATED = re.compile(
    r"(?P<at> ?(?:\[at\]|\(at\)|\{at\}|艾特|\(a\)|\[@\]|\(@\)|#|☆|★|\*| at |圈a|圈A) ?)"
    rf"(?P<domain>{_PROVIDERS}{_DOT}(?:com|cn|net)(?:{_DOT}cn)?)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_DOTS = re.compile(r" ?(?:\[dot\]|\(dot\)|\[\.\]|[.。·]|dot|点) ?", re.IGNORECASE)
_WINDOW = 66


def emails(text: str) -> Iterator[Match]:
    """E-mail addresses, also with a spoken or masked @ before the large providers' domains."""
    position = text.find("@")
    while position >= 0:
        domain = _DOMAIN.match(text, position + 1, position + 260)
        if domain and (found := _email(text, position, domain.end(1), domain.group(1).replace(" ", ""))):
            yield found
        position = text.find("@", position + 1)
    for match in _OBFUSCATED.finditer(text) if _ENDING.search(text) else ():
        spoken = match.group("at").strip().lower() == "at"
        if spoken and not re.search(r"dot|点", match.group("domain"), re.IGNORECASE):
            name = re.search(r"[A-Za-z0-9_.\-]+\Z", text[max(0, match.start() - _WINDOW) : match.start()])
            if not name or not re.search(r"[0-9_]", name.group()):
                continue
        if found := _email(text, match.start(), match.end(), match.group("domain")):
            yield found


def _email(text: str, at: int, end: int, domain: str) -> Match | None:
    begin = max(0, at - _WINDOW)
    name = _LOCAL_PART.search(text[begin:at])
    if not name:
        return None
    value = f"{name.group().strip()}@{_DOTS.sub('.', domain)}".casefold()
    return Match("email", begin + name.start(), end, value)


# --- QQ --------------------------------------------------------------------------------------------------------------

_NUMBER = r"(?:[1-9](?:[ \-]?[0-9]){4,10}(?![ \-]?[0-9])|[1-9][0-9]{2,3}\uffff[0-9]{2,7}(?![ \-]?[0-9]))"
_NOT_COUNTED = r"(?!\.[0-9]|[ ]?(?:年|月|日|元|块|级|岁|万|亿|个|钻|天|人|分钟|小时|好友|粉丝|%|版|mb|MB|kb|KB|ml|mg))"
#: Products of the same name, and words that make the number something else.
_NOT_PERSON = (
    r"(?!音乐|空间|飞车|浏览器|游戏|会员|红包|阅读|堂|炫舞|三国|支付|小程序|公众号|转账|运动|读书|步数|文档|表情)"
)
_QQ_WORD = (
    r"(?:(?<![A-Za-z])[Qq] ?[Qq]|[扣蔻抠]扣|扣[Qq]|球球|企鹅号?|🐧|[加我的]扣"
    r"|(?:加|我的?|你的?|他的?|她的?)[Qq](?![A-Za-z])|[Qq]号|[Qq]群)"
)
#: Words that stand between the account's kind and the account itself.
_FILL = (
    r"(?:号码?|帐号|账号|邮箱|联系|群|小号|大号|是|为|:|=|,|也是|还是|就是|都是|我的?|你的?|他的?|她的?|这个|加我?|用|搜索?"
    r"|一下|id|ID|吧|哈|呀|→|/|\(|\)|~|、|\.{1,3}| |-|\n|\"|“)"
)
#: Any other words up to the account, within one sentence.
_FAR = r"[^0-9A-Za-z。!?;\n\ufffc\uffff]{0,10}?"
_QQ = re.compile(
    rf"{_QQ_WORD}{_NOT_PERSON}(?:{_FILL}{{0,8}}?({_NUMBER})|{_FAR}([1-9][0-9]{{5,10}}(?![0-9]))){_NOT_COUNTED}"
)
_QQ_HINT = re.compile("[Qq扣蔻抠球企🐧]")
_FIVE_DIGITS = re.compile(r"[0-9](?:[ \-\uffff]?[0-9]){4}")
_QQ_LETTER = re.compile(rf"(?<![A-Za-z0-9\-])[Qq] ?:? ?([1-9][0-9]{{5,10}})(?![0-9A-Za-z]){_NOT_COUNTED}")
#: Between an account and the word that names its kind: 12345678 这是我的QQ, abc_123（微信）
_THIS_IS = (
    r"[ ,:\-(\[【<\n\uffff]{0,3}(?:这个?|那个?|就|加){0,2}(?:是|为)?(?:我|他|她|俺|本人|咱|人家)?家?(?:自己)?的?"
    r"[新大小]?"
)
#: The word names the account after it.
_NAMES_NEXT = r"(?!同号|邮箱|号?码?(?:还?是|为|:)? ?[A-Za-z0-9:])"
_QQ_AFTER = re.compile(
    rf"(?<![0-9A-Za-z.\-])([1-9][0-9]{{4,10}}){_THIS_IS}"
    rf"(?:(?<![A-Za-z])[Qq]{{2}}|扣扣|企鹅号?|[Qq]号){_NOT_PERSON}{_NAMES_NEXT}"
)
_QQ_ASKED = re.compile(rf"(?:(?<![A-Za-z])[Qq]{{2}}|扣扣|企鹅|[Qq]号){_NOT_PERSON}")
_SAID_FIRST = r"[ \n]*(?:(?:我的?|就|号码?)?是|嗯,?|好的?,?)?[ :]?"
_SAID_LAST = r"[ \n,.。!~哈啊呀哦的]{0,4}\Z"
_LONE_NUMBER = re.compile(rf"{_SAID_FIRST}([1-9][0-9]{{4,10}}){_SAID_LAST}")


def qq_numbers(text: str, messages: list[tuple[int, int]]) -> Iterator[Match]:
    """QQ numbers after (or just before) a word that names QQ, or alone in the message after such a word."""
    if not (_QQ_HINT.search(text) and _FIVE_DIGITS.search(text)):
        return
    for pattern in (_QQ, _QQ_LETTER, _QQ_AFTER):
        for match in pattern.finditer(text):
            start, end = match.span(match.lastindex or 0)
            far = match.lastindex == 2 and context.is_other(text, start, end)
            if not far and not _TAIL.search(text, max(0, start - 2), start):
                yield Match("qq", start, end, re.sub(r"[ \-\uffff]", "", text[start:end]))
    yield from _answers("qq", text, messages, _QQ_ASKED, _LONE_NUMBER)


_TAIL = re.compile(r"[0-9][.\-]\Z")

# --- WeChat ----------------------------------------------------------------------------------------------------------

_WECHAT_WORD = (
    r"(?:微 ?信|威信|薇信|徽信|微芯|wei信|微x|[微薇威v]❤|微星号|卫星号|绿泡泡|(?<![A-Za-z])v ?信"
    r"|(?<![A-Za-z])(?:we ?chat|wei ?xin|vx|wx|w\.x|v\.x|v(?= ?:))"
    r"|(?:加|\+|➕)(?:个|我|一下)?的? ?(?:[vw](?![A-Za-z])|[薇微威]))"
)
_WECHAT_HINT = re.compile(
    r"[信微薇威卫绿vVwW加+➕](?:(?<=信)|(?<=[微薇威])[❤芯星x]|(?<=卫)星|(?<=绿)泡|(?<=[vV])[xX❤.: ]|(?<=[wW])[xXeE.]"
    r"|(?<=[加+➕])[个我一的 vVwW薇微威])"
)
_ID = r"[A-Za-z][A-Za-z0-9_\-]{5,19}(?![A-Za-z0-9_@])"
_DISTINCT_ID = r"(?=[A-Za-z\-]*[0-9_])" + _ID
_WECHAT = re.compile(
    rf"{_WECHAT_WORD}{_NOT_PERSON}(?:{_FILL}{{0,8}}?({_ID}|{_NUMBER}{_NOT_COUNTED})|{_FAR}({_DISTINCT_ID}))",
    re.IGNORECASE,
)
_WECHAT_AFTER = re.compile(
    rf"(?<![A-Za-z0-9_@.\-])(?:([A-Za-z][A-Za-z0-9_\-]{{5,19}})(?=[ ,]?这?个?就?(?:是|为))|({_DISTINCT_ID})){_THIS_IS}"
    rf"(?:微信|薇信|威信|(?<![A-Za-z])(?:v信|vx|wx)){_NOT_PERSON}{_NAMES_NEXT}(?!群|里|上|发|聊)",
    re.IGNORECASE,
)
_WXID = re.compile(r"(?<![A-Za-z0-9])wxid_[a-z0-9]{6,24}(?![A-Za-z0-9_])", re.IGNORECASE)
_WECHAT_ASKED = re.compile(rf"(?:微信|威信|薇信|(?<![A-Za-z])(?:v信|vx|wx)){_NOT_PERSON}(?!群)", re.IGNORECASE)
_ID_ASKED = re.compile(r"(?:微信号|微信多少|(?<![A-Za-z])(?:v信|vx|wx))[^A-Za-z0-9]{0,8}\Z", re.IGNORECASE)
_LONE_WORD = re.compile(rf"{_SAID_FIRST}([A-Za-z]{{6,20}}){_SAID_LAST}")
_LONE_ID = re.compile(rf"{_SAID_FIRST}({_DISTINCT_ID}){_SAID_LAST}")
_BRANDS = (
    "wechat weixin android iphone windows official payment wechatpay system mobile version miniprogram number please "
    "account hello thanks"
)
_WORDS = frozenset(_BRANDS.split())


def wechat_ids(text: str, messages: list[tuple[int, int]]) -> Iterator[Match]:
    """WeChat ids after (or just before) a word that names WeChat, in the answer to it, and wxid_... anywhere."""
    if not _WECHAT_HINT.search(text):
        return
    for match in _WXID.finditer(text):
        yield Match("wechat", *match.span(), match.group().lower())
    for pattern in (_WECHAT, _WECHAT_AFTER):
        for match in pattern.finditer(text):
            start, end = match.span(match.lastindex or 0)
            value = text[start:end].lower()
            far = match.lastindex == 2 and context.is_other(text, start, end)
            if value not in _WORDS and not far and not _is_prose(text, start, end):
                yield Match("wechat", start, end, re.sub(r"[ \uffff]", "", value))
    for alone in (_LONE_ID, _LONE_NUMBER):
        yield from _answers("wechat", text, messages, _WECHAT_ASKED, alone)
    yield from _answers("wechat", text, messages, _ID_ASKED, _LONE_WORD)


def _is_prose(text: str, start: int, end: int) -> bool:
    """An English word in a sentence about WeChat: letters only, another word after it."""
    return text[start:end].isalpha() and re.match(r" [A-Za-z]", text[end : end + 2]) is not None


_LONGEST_ANSWER = 40


def _answers(
    kind: str, text: str, messages: list[tuple[int, int]], asked: re.Pattern[str], alone: re.Pattern[str]
) -> Iterator[Match]:
    """A message that holds nothing but an account, right after one that speaks of such accounts."""
    for (start, end), (begin, stop) in pairwise(messages):
        if stop - begin <= _LONGEST_ANSWER and asked.search(text, max(start, end - 30), end):
            match = alone.match(text, begin, stop)
            if match and BOUNDARY not in match.group():
                yield Match(kind, *match.span(1), match.group(1).lower())
