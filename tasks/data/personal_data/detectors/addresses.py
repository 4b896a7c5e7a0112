"""Street addresses: a road, village or estate with a number, with what stands before and after it.

The anchor is a suffix like 路 or 小区 right before a number and its unit. From there the span grows left over
district, city and province, and right over building, unit and room. A town's name alone is no address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.data.personal_data.detectors.folding import Match

_HAN = "\u3400-\u9fff"
_NUMERAL = "一二三四五六七八九十百零〇"
_NUMBER = (
    rf"(?:第?(?:[甲乙丙丁]?[0-9]{{1,5}}(?:[\-之][0-9]{{1,4}}){{0,2}}[A-Za-z甲乙丙丁]?|[{_NUMERAL}]{{1,5}}|[A-Za-z][0-9]{{0,3}}"
    r"|[甲乙丙丁]))"
)
_UNIT = r"(?:号楼|号院|号门|号|弄|支弄|巷|栋|幢|座|单元|组|队|社|室|#|楼|户)"
_NOT_NUMBERED = (
    r"(?!线|床|机|球|字|电池|染色体|病房|手术|诊室|窗口|台|公交|公路|地铁|出口|桌|同学|方|药|码|技师|早|晚|上午|下午|中午|凌晨"
    r"|左右|之前|以前|开始)"
)
_ANCHOR = re.compile(
    r"(?P<suffix>[路街道巷弄同里村庄屯区园寓厦场苑庭城府湾轩邸居院舍镇乡家段条组])"
    r"(?:[东西南北中][段区苑门]?|[一二三四五六1-9ABCD]期|[\-()])?[ ,]?"
    rf"(?P<number>{_NUMBER}) ?(?P<unit>{_UNIT}){_NOT_NUMBERED}"
)
#: A road's number without 号, an estate's 3-2-501
_BARE = re.compile(
    r"(?P<suffix>[路街巷弄区园寓苑村庭城])[东西南北]? ?(?P<number>[0-9]{1,4}(?:-[0-9]{1,4}){0,3})"
    r"(?![0-9年月日元米路线站分个次岁号.%:]|公里|多)"
)
#: Building, unit and room after a name of any kind.
_HOME = re.compile(
    rf"(?<=[{_HAN}])(?P<suffix>) ?(?P<number>{_NUMBER}) ?(?P<unit>栋|幢|号楼|座)[ ,]?"
    rf"(?:{_NUMBER} ?(?:单元|门)[ ,]?[0-9]{{0,4}}|[0-9]{{3,4}}(?:室|房|(?![0-9.年元%])))"
)
_BUILDINGS = re.compile("[栋幢楼座]")
_SUFFIX = re.compile(
    r"(?P<road>大?道|公路|路|大街|街|巷|胡同|弄|[东西南北中一二三四五六七]段|条)\Z"
    r"|(?P<estate>小区|社区|园区|工业区|花园|家园|佳园|嘉园|公寓|大厦|广场|宿舍|家属院|大院|小院|新村|新城|[一二三四五六七八九]区)\Z"
    r"|(?P<short>苑|庭|轩|邸|居|里|湾|府|园|城|组)\Z|(?P<village>村|庄|屯|镇|乡|街道)\Z"
)
_BUILDING = frozenset({"栋", "幢", "座", "号楼", "单元", "号院", "弄", "#"})
_DETAIL = (
    rf"(?:[ ,\-]?附?{_NUMBER} ?(?:号楼|号院|号门|号|栋|幢|座|单元|层|楼|室|房|户|门|院|区|期|#|组|支弄|弄)(?!线|床)"
    r"|[ \-]?[0-9]{3,4}(?![0-9.年月日元%:\-])|-[0-9]{1,4}(?![0-9.]))"
)
_DETAILS = re.compile(rf"{_DETAIL}{{1,6}}")
_LATER_BUILDING = re.compile(
    rf"[ ,]?[{_HAN}A-Za-z0-9·]{{0,14}}?{_NUMBER} ?(?:号楼|栋|幢|座|单元|室|层|#)(?:{_DETAIL}{{0,5}})"
)
_RUN = re.compile(rf"[{_HAN}A-Za-z0-9 ·\-]{{0,45}}\Z")
_PROVINCE = re.compile(
    "(?:中国)?(?:北京|天津|上海|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川"
    "|贵州|云南|陕西|甘肃|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门)(?:省|市|(?:壮族|回族|维吾尔)?自治区|特别行政区)?"
)
_DISTRICT = re.compile(rf"[{_HAN}]{{1,8}}?(?:自治州|自治县|地区|新区|开发区|高新区|街道|市|县|区|旗|镇|乡|州)")
_LEAD_IN = re.compile(
    r"住在|家住|家在|住址|地址|收货|现住|户籍|位于|坐落|寄[到往给]?|送[到往给]?|搬[到去]|放[到在]?|快递到?|[我你他她](?:们|家)?在?"
    r"|住|在|到|去|是|址|于|的|叫|请|了|给|就|过来|找|公司|单位|学校"
)
#: What stands before 路 (道, 街) when it is no road of a town.
_ORDINARY = re.compile(
    r"(?:\A[上一马走公铁出让探问修退后大第逛跑车半]|[线道思网电回通套尿迷带条气管味频渠胆肠阴食知难轨隧赛吸化行这那哪])\Z"
)
_ROAD_NAME = re.compile(r"[东西南北中一二三]{0,2}")
_NAMED = re.compile(rf"[{_HAN}A-Za-z]")
_NO_HOME = re.compile(r"(?:医院|门诊|住院部?|病区|病房|大学|学院|中心|科)\Z")
_SAYS_ADDRESS = re.compile(r"住|地址|收货|寄|送|快递|家在|位于|门牌|定位")


def find(text: str) -> Iterator[Match]:
    """Street addresses in a folded text."""
    for pattern in (_ANCHOR, _BARE, _HOME) if _BUILDINGS.search(text) else (_ANCHOR, _BARE):
        for anchor in pattern.finditer(text):
            if found := _from_anchor(text, anchor, anchor.groupdict().get("unit", "")):
                yield found


def _from_anchor(text: str, anchor: re.Match[str], unit: str) -> Match | None:
    head = anchor.end("suffix")
    run = _RUN.search(text, max(0, head - 45), head)
    left = run.group() if run else ""
    suffix = _SUFFIX.search(left) if anchor.group("suffix") else _AT_END.search(left)
    if not suffix:
        return None
    start = _start(left, suffix.start())
    begin = head - len(left) + start
    name = left[start : suffix.start()].strip()
    placed = _DISTRICT.search(name) is not None or _PROVINCE.search(name) is not None
    told = placed or _SAYS_ADDRESS.search(text, max(0, begin - 12), head) is not None
    if not unit and suffix.lastgroup != "road" and anchor.group("number").count("-") < 1:
        return None
    if not _NAMED.search(name) or not _is_place(suffix.lastgroup, suffix.group(), name, unit, told=told):
        return None
    end = _end(text, anchor.end())
    return Match("address", begin, end, re.sub(r"[ ,·]", "", text[begin:end]).casefold())


_AT_END = re.compile(r"\Z")


def _is_place(kind: str | None, suffix: str, name: str, unit: str, *, told: bool) -> bool:
    """Whether a name, its suffix and the unit after the number belong together.

    Args:
        unit: 号, 栋 and the like; empty for a number alone.
        told: the words before speak of an address, or name a town or district.
    """
    if kind is None:
        return len(name) >= 2 and not _NO_HOME.search(name)
    if kind == "road":
        ordinary = suffix in ("路", "道", "条") and _ORDINARY.search(name) is not None
        if not unit or suffix in ("道", "条") or ordinary:
            return told and not (ordinary and len(name) <= 2)
        return told or len(name) >= 2
    if kind == "village":
        return (told or len(name) >= 2) and (unit in _BUILDING or unit in ("号", "组", "队", "社", "户"))
    return not unit or unit in _BUILDING or (kind == "estate" and unit == "室") or (unit == "号" and told)


def _start(left: str, suffix: int) -> int:
    """Where the address begins in the run of characters up to its road or estate."""
    base = 0
    for lead in _LEAD_IN.finditer(left, 0, suffix):
        # 在 within a name is rarer than 住在 before it, but some of a name must remain
        if lead.end() < suffix:
            base = lead.end()
    provinces = list(_PROVINCE.finditer(left, 0, suffix))
    # a road may be called after a province (香港中路, 北京路): its town stands before that
    if (
        provinces
        and _ROAD_NAME.fullmatch(left, provinces[0].end(), suffix)
        and _DISTRICT.search(left, base, provinces[0].start())
    ):
        provinces = []
    if provinces and not re.search(r"[我你他她]|住|地址", left[provinces[0].start() : suffix]):
        return provinces[0].start()
    rest = left[base:suffix]
    if _DISTRICT.search(rest):
        return base + len(rest) - len(rest.lstrip())
    start = max(base, suffix - 8)
    space = left.rfind(" ", start, suffix)
    return space + 1 if 0 <= space < suffix - 1 else start


def _end(text: str, end: int) -> int:
    for pattern in (_DETAILS, _LATER_BUILDING, _DETAILS):
        if more := pattern.match(text, end, end + 60):
            end = more.end()
    return end
