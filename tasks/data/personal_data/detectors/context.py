"""What the words around a number say about it: a phone, an account, or an order that is nobody's data."""

from __future__ import annotations

import re

_WINDOW = 18
_CLAUSE = re.compile(r"[,;。!?\n\uffff]")
_PHONE = (
    r"电话|手机|号码|联系|致电|来电|拨打|打给|打我|呼我|短信|热线|座机|固话|传真|tel|phone|mobile|whatsapp|[打拨]\Z"
)
_ACCOUNT = r"银行|卡号|账号|帐号|账户|帐户|户头|打款|转账|汇款|工行|农行|建行|中行|招行|储蓄|信用卡|借记卡|bank|card"
_IDENTITY = r"身份证|证件|身份号|id ?card|公民身份"
_CHAT = r"微信|威信|薇信|扣扣|\b(?:qq|vx|wx|wechat)|护照|通行证|passport"
_OTHER = (
    r"订单|单号|运单|快递(?!员|小哥|师傅|柜|点|电话)|物流|流水|票号|工号|学号|病历号|病案号|住院号|门诊号|就诊号|检查号|条码|条形码|"
    r"编号|编码|序号|追踪|货号|型号|案号|文号|批号|国药准字|注册证|备案|交易号|凭证|申请号|专利|卷号|标本|样本|受理|"
    r"样品|批次|档案|保单|考号|准考证|车架|(?:单|次|案|品|告|方|册|架|库|件|期)号|发票|会员号|积分|验证码|取件码|兑换码|序列号|设备号|基因|登记号|合同号|"
    r"pmid|doi|isbn|issn|nct|sku|imei|order|invoice|tracking|version|serial|batch"
)
#: Says nothing beside a word like 微信 or passport.
_WEAK = re.compile(r"(?<![a-z])(?:id|no|sn)(?![a-z])", re.IGNORECASE)
PHONE, ACCOUNT, IDENTITY, OTHER = (re.compile(p, re.IGNORECASE) for p in (_PHONE, _ACCOUNT, _IDENTITY, _OTHER))
_PERSONAL = re.compile("|".join((_PHONE, _ACCOUNT, _IDENTITY, _CHAT)), re.IGNORECASE)
_SAID_AFTER = re.compile(
    r"[ )]{0,2}\(?(?:这|那)?(?:是|为)?(?:我|你|您|这个|那个)?的?(?:订单|单号|运单|快递单|流水|编号)"
)

_LETTERS_BEFORE = re.compile(r"[A-Za-z_]+\Z")
_LETTERS_AFTER = re.compile(r"[ ]?([A-Za-z]+)([0-9_]?)")
_MAY_PRECEDE = frozenset({"tel", "phone", "mobile", "mob", "call", "t", "m", "p", "v", "vx", "wx", "weixin", "qq", "q"})
_UNIT_WORDS = "iu u ml mg g kg l dl cm mm m bp kb mb gb copies cfu ng ug pg mol hz v w kj cal rmb cny"
_UNITS = frozenset(_UNIT_WORDS.split())
_AMOUNT_AFTER = re.compile(r"[ ]?(?:(?:\.[0-9]+)?[ ]?(?:元|块钱|%|‰|亿|万元|美元|个|次|℃|拷贝)|\.[0-9]{1,2}(?![0-9]))")
_LIST_NUMBER = re.compile(r"(?:\A|[\s;,。:\uffff])[1-9][0-9]?\.\Z")
_LINK = re.compile(r"(?:://|www\.|\.(?:com|cn|net|org|html?)[/?])[!-~]*\Z", re.IGNORECASE)


def clause_before(text: str, start: int) -> str:
    """The words just before a position, back to a comma, a sentence's end or a line's start."""
    return _CLAUSE.split(text[max(0, start - _WINDOW) : start])[-1]


def says(words: re.Pattern[str], text: str, start: int) -> bool:
    """Whether one of ``words`` stands shortly before the position."""
    return words.search(text, max(0, start - _WINDOW), start) is not None


def is_other(text: str, start: int, end: int) -> bool:
    """Whether the words around a number call it an order, a serial or a reference rather than somebody's."""
    before = clause_before(text, start)
    other = max((m.end() for m in OTHER.finditer(before)), default=-1)
    personal = max((m.end() for m in _PERSONAL.finditer(before)), default=-1)
    if personal < 0 and _WEAK.search(before):
        return True
    return other > personal or (personal < 0 and _SAID_AFTER.match(text, end) is not None)


def is_glued(text: str, start: int, end: int) -> bool:
    """Whether a run of digits is part of something larger: a decimal, an amount, an identifier, a link."""
    before = text[max(0, start - 12) : start]
    letters = _LETTERS_BEFORE.search(before)
    if letters and letters.group().lower() not in _MAY_PRECEDE:
        return True
    if re.search(r"[0-9]\.\Z", before) and not _LIST_NUMBER.search(before):
        return True
    if _AMOUNT_AFTER.match(text, end):
        return True
    after = _LETTERS_AFTER.match(text, end)
    if after and text[end] != " " and (after.group(2) or after.group(1).lower() in _UNITS):
        return True
    if after and after.group(1).lower() in _UNITS - {"m", "v", "w", "u", "g", "l"}:
        return True
    return _LINK.search(text[max(0, start - 120) : start]) is not None
