"""Makes redaction.jsonl, the labelled set that the personal-data detectors are measured on.

Carrier sentences are written by hand (redaction_carriers.txt); this file makes the values for their slots from the
public numbering rules and not from any detector. Everybody in the set is invented. What a gold span covers: the value
from its first to its last character, without `+86`, brackets, the port of an address or the extension of a telephone
number; a value split over messages has one span a piece.

Command: `python tests/golden/make_redaction.py` (writes beside itself; the same bytes every time).

Source: GB 11643-1999 (check digit of identity numbers), GB/T 2260 (area codes), ISO/IEC 7812-1 annex B (Luhn),
GA 36-2018 (number plates), the numbering plan of the Ministry of Industry and Information Technology (mobile prefixes).
"""

from __future__ import annotations

import datetime
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
SLOT = re.compile(r"\{([a-z_:]+)\}")
BREAK, LINE = "¶", "⏎"

MOBILE = (
    "130 131 132 133 135 136 137 138 139 147 150 151 152 155 158 159 166 173 176 177 180 181 185 186 187 188 189 191 "
    "198 199"
)
AREAS = (
    "110101 110108 120101 130102 140105 150102 210102 220102 230102 310104 310115 320102 320106 330102 330106 "
    "340104 350203 360102 370202 410105 420106 430102 440106 440305 450103 460105 500103 510104 510107 520102 "
    "530102 540102 610103 620102 630102 640104 650102"
)
# issuer prefix and length: ICBC, CCB, ABC, BOC, PSBC, BOCOM, CIB, CMB, CMBC, SPDB, CGB, PAB, and two credit cards
CARDS = (
    ("622202", 19),
    ("621700", 19),
    ("622848", 19),
    ("621661", 19),
    ("621799", 19),
    ("622262", 19),
    ("622908", 18),
    ("621483", 16),
    ("622622", 16),
    ("622521", 16),
    ("622568", 19),
    ("623058", 19),
    ("436742", 16),
    ("518710", 16),
)
CITIES = {  # area code: digits of a number there
    "010": 8,
    "021": 8,
    "020": 8,
    "022": 8,
    "023": 8,
    "024": 8,
    "025": 8,
    "027": 8,
    "028": 8,
    "029": 8,
    "0571": 8,
    "0755": 8,
    "0512": 8,
    "0532": 8,
    "0371": 8,
    "0731": 8,
    "0311": 8,
    "0531": 8,
    "0411": 8,
    "0451": 8,
    "0591": 8,
    "0791": 8,
    "0851": 8,
    "0716": 7,
    "0817": 7,
    "0633": 7,
    "0854": 7,
}
GIVEN = [
    "晚秋",
    "亦凡",
    "若楠",
    "子墨",
    "书瑶",
    "景行",
    "思远",
    "念慈",
    "雨桐",
    "望舒",
    "知许",
    "清越",
    "怀瑾",
    "安澜",
    "一诺",
    "芷若",
    "嘉树",
    "云舒",
    "砚秋",
    "以宁",
]
NAMES = [
    *(s + g for s, g in zip("林周顾沈苏陆程许谢韩叶秦白方夏江孟邵温薛", GIVEN, strict=True)),
    "欧阳靖宇",
    "司徒婉清",
    "张伟力",
    "王秀珍",
    "李建国庆",
    "小鹿姐姐",
    "糖糖妈妈",
    "阿May",
    "Kevin Zhou",
    "Tom",
    "老码头火锅-小赵",
    "木木夕",
    "Lucy林",
    "三楼王姨",
    "大熊🐻",
]
PINYIN = [
    "linwanqiu",
    "zhouyifan",
    "gurn",
    "shenzm",
    "susy",
    "lujx",
    "chengsy",
    "xunianci",
    "xieyt",
    "hanws",
    "yezx",
    "qinqy",
    "baihj",
    "fanganlan",
    "xiayn",
    "jiangzr",
]
DOMAINS = (
    "163.com 126.com qq.com foxmail.com outlook.com gmail.com sina.com.cn yeah.net 139.com "
    "xingchen-tech.cn stu.yunshan.edu.cn"
)
PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
PLATE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
ZERO_WIDTH = ("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff")


class Maker:
    """Values for the slots, from one seeded generator; the n-th use of a kind takes the n-th of its forms."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.used: dict[str, int] = {}
        self.notes: list[str] = []

    # -- small parts -------------------------------------------------------------------------------------------------
    def digits(self, count: int, first: str = "0123456789") -> str:
        return self.random.choice(first) + "".join(self.random.choice("0123456789") for _ in range(count - 1))

    def pick(self, *options: str) -> str:
        return self.random.choice(options)

    def split_at(self, value: str, *sizes: int) -> list[str]:
        """The value cut into parts of these sizes; the last part takes what is left."""
        parts, at = [], 0
        for size in sizes:
            parts.append(value[at : at + size])
            at += size
        return [p for p in (*parts, value[at:]) if p]

    def turn(self, kind: str, forms: dict[str, Callable[[str], str]], value: str) -> str:
        """The value in the next surface form of its kind."""
        count = self.used.get(kind, 0)
        self.used[kind] = count + 1
        name = list(forms)[count % len(forms)]
        self.notes.append(f"{kind}: {name}")
        return forms[name](value)

    # -- surface forms of a number -----------------------------------------------------------------------------------
    def number_forms(self, *sizes: int) -> dict[str, Callable[[str], str]]:
        def grouped(separator: str) -> Callable[[str], str]:
            return lambda value: separator.join(self.split_at(value, *sizes))

        def broken(separator: str) -> Callable[[str], str]:
            def cut(value: str) -> str:
                at = self.random.randint(4, len(value) - 4)
                return value[:at] + separator + value[at:]

            return cut

        def mixed(value: str) -> str:
            return "".join(wide(c) if self.random.random() < 0.5 else c for c in value)

        def hidden(value: str) -> str:
            return self.pick(*ZERO_WIDTH).join(self.split_at(value, *sizes))

        return {
            "plain": str,
            "groups by spaces": grouped(" "),
            "full width": wide,
            "plain again": str,
            "groups by hyphens": grouped("-"),
            "half and full width mixed": mixed,
            "zero-width characters": hidden,
            "split over messages": broken(BREAK),
            "split over lines": broken("\n"),
            "groups by full-width spaces": grouped("\u3000"),
            "groups by dots": grouped("."),
            "every digit spaced": " ".join,
            "groups by no-break spaces": grouped("\xa0"),
            "groups by full-width hyphens": grouped("－"),
            "full width in groups": lambda v: wide(grouped(" ")(v)),
            "zero-width everywhere": lambda v: "\u200b".join(v),
            "groups by dashes": grouped("–"),
        }

    # -- personal data -----------------------------------------------------------------------------------------------
    def mobile(self) -> str:
        value = self.pick(*MOBILE.split()) + self.digits(8)
        forms = self.number_forms(3, 4)
        forms["+86"] = lambda v: f"+86«{v}»"
        forms["+86 and spaces"] = lambda v: f"+86 «{v[:3]} {v[3:7]} {v[7:]}»"
        forms["0086"] = lambda v: f"0086-«{v}»"
        forms["circled digits"] = lambda v: "".join("⓪①②③④⑤⑥⑦⑧⑨"[int(c)] for c in v)
        return self.turn("mobile", forms, value)

    def landline(self) -> str:
        area = self.pick(*CITIES)
        value = area + "-" + self.digits(CITIES[area], first="25678")
        forms: dict[str, Callable[[str], str]] = {
            "hyphen": str,
            "plain": lambda v: v.replace("-", ""),
            "brackets": lambda v: "(«" + v.replace("-", ")") + "»",
            "full-width brackets": lambda v: "（«" + v.replace("-", "）") + "»",
            "full width": wide,
            "space": lambda v: v.replace("-", " "),
            "hyphens": lambda v: v[:-4] + "-" + v[-4:],
            "extension": lambda v: f"«{v}»-8012",
            "full-width hyphen": lambda v: v.replace("-", "－"),
            "hyphen and space": lambda v: v[:-4] + " " + v[-4:],
            "+86": lambda v: "+86-«" + v[1:] + "»",
        }
        return self.turn("landline", forms, value)

    def identity(self, check: bool = True) -> str:
        born = datetime.date(1938, 1, 1) + datetime.timedelta(days=self.random.randrange(30000))
        body = f"{self.pick(*AREAS.split())}{born:%Y%m%d}{self.digits(3)}"
        digit = identity_check(body)
        if not check:
            digit = self.pick(*(c for c in "0123456789X" if c != digit))
        return body + digit

    def id_card(self) -> str:
        value = self.identity()
        lower = self.random.random() < 0.5
        forms = self.number_forms(6, 8)
        forms["6-4-4-4"] = lambda v: " ".join(self.split_at(v, 6, 4, 4))
        forms["3-3-4-4-4"] = lambda v: " ".join(self.split_at(v, 3, 3, 4, 4))
        while self.used.get("id_card", 0) % 3 == 0 and value[-1] != "X":
            value = self.identity()
        return self.turn("id_card", forms, value.lower() if lower else value)

    def card(self, check: bool = True) -> str:
        prefix, length = self.random.choice(CARDS)
        body = prefix + self.digits(length - len(prefix) - 1)
        digit = luhn_check(body)
        return body + (digit if check else self.pick(*(c for c in "0123456789" if c != digit)))

    def bank_card(self) -> str:
        forms = self.number_forms(4, 4, 4, 4)
        forms["6 and the rest"] = lambda v: v[:6] + " " + v[6:]
        forms["4-4-4-rest"] = lambda v: " ".join(self.split_at(v, 4, 4, 4))
        return self.turn("bank_card", forms, self.card())

    def email(self) -> str:
        local = self.pick(*PINYIN) + self.pick("", "1987", "_work", ".law", "520", "-doc", "88")
        if self.random.random() < 0.2:
            local = self.digits(9, first="123456789")
        forms: dict[str, Callable[[str], str]] = {
            "plain": str,
            "full-width @": lambda v: v.replace("@", "＠"),
            "upper case": str.upper,
            "full width": wide,
            "plus tag": lambda v: v.replace("@", "+ct@"),
            "spaces round @": lambda v: v.replace("@", " @ "),
            "plain again": str,
            "full-width dot": lambda v: v.replace(".", "．"),
            "small @": lambda v: v.replace("@", "﹫"),
        }
        return self.turn("email", forms, f"{local}@{self.pick(*DOMAINS.split())}")

    def qq(self) -> str:
        value = self.digits(self.random.randint(6, 10), first="23456789")
        forms: dict[str, Callable[[str], str]] = {
            "plain": str,
            "plain again": str,
            "full width": wide,
            "groups by spaces": lambda v: f"{v[:3]} {v[3:6]} {v[6:]}".strip(),
            "groups by hyphens": lambda v: f"{v[:3]}-{v[3:]}",
            "zero-width characters": lambda v: f"{v[:2]}\u200b{v[2:]}",
        }
        return self.turn("qq", forms, value)

    def wechat(self) -> str:
        forms: dict[str, Callable[[str], str]] = {
            "name and digits": lambda v: v + self.digits(4),
            "wxid": lambda v: "wxid_" + self.digits(6) + v[:4] + "22",
            "underscore": lambda v: f"{v[:4]}_{self.digits(3)}",
            "capitals": lambda v: v.title() + "-" + self.digits(3),
            "full width": lambda v: wide(v + self.digits(3)),
            "letters only": lambda v: v + "xyz",
        }
        return self.turn("wechat", forms, self.pick(*PINYIN))

    def plate(self) -> str:
        head = self.pick(*PROVINCES) + self.pick(*"ABCDEFG")
        tail = "".join(self.random.choice("0123456789") for _ in range(5))
        if self.random.random() < 0.5:
            tail = self.pick(*PLATE_LETTERS) + tail[1:]
        energy = self.pick("D", "F") + self.digits(5)
        forms: dict[str, Callable[[str], str]] = {
            "plain": lambda v: v,
            "middle dot": lambda v: f"{v[:2]}·{v[2:]}",
            "new energy": lambda v: v[:2] + energy,
            "dot": lambda v: f"{v[:2]}.{v[2:]}",
            "space": lambda v: f"{v[:2]} {v[2:]}",
            "lower case": str.lower,
            "full width": wide,
            "new energy with a dot": lambda v: f"{v[:2]}·{energy}",
            "bullet": lambda v: f"{v[:2]}•{v[2:]}",
            "hyphen": lambda v: f"{v[:2]}-{v[2:]}",
            "trainer": lambda v: v[:-1] + "学",
        }
        return self.turn("plate", forms, head + tail)

    def passport(self) -> str:
        value = self.pick("E", "G", "E" + self.pick(*"ABCDEFGHJK"))
        value += self.digits(9 - len(value))
        forms: dict[str, Callable[[str], str]] = {
            "plain": str,
            "lower case": str.lower,
            "full width": wide,
            "space": lambda v: f"{v[:-4]} {v[-4:]}",
            "plain again": str,
            "letter apart": lambda v: f"{v[0]} {v[1:]}" if v[1].isdigit() else f"{v[:2]} {v[2:]}",
        }
        return self.turn("passport", forms, value)

    def ip(self) -> str:
        octets = [str(self.random.randint(low, 254)) for low in (11, 0, 0, 1)]
        value = ".".join(self.random.choice((octets, ["192", "168", *octets[2:]], ["10", *octets[1:]])))
        groups = [f"{self.random.randrange(1, 65536):x}" for _ in range(8)]
        forms: dict[str, Callable[[str], str]] = {
            "v4": str,
            "v4 again": str,
            "full width": wide,
            "port": lambda v: f"«{v}»:8080",
            "full-width dots": lambda v: v.replace(".", "．"),
            "v6": lambda _: ":".join(["2409", "8a", *groups[2:]]),
            "v6 shortened": lambda _: f"fe80::{groups[4]}:{groups[5]}:{groups[6]}:{groups[7]}",
            "netmask": lambda v: f"«{v}»/24",
        }
        return self.turn("ip", forms, value)

    def address(self) -> str:
        city = self.pick(
            "浙江省杭州市西湖区",
            "上海市徐汇区",
            "北京市朝阳区",
            "广东省深圳市南山区",
            "成都市武侯区",
            "湖北省武汉市江汉区",
            "南京市鼓楼区",
        )
        road = self.pick("云栖北路", "望江街", "银杏大道", "竹溪中路", "听雨巷", "学林二路", "星河东街")
        estate = self.pick("梧桐花园", "碧水湾小区", "锦绣家园", "阳光公寓", "翠竹苑")
        n, b, u, r = (self.random.randint(*span) for span in ((2, 980), (1, 28), (1, 4), (1, 18)))
        room = f"{r}0{u}"
        forms: dict[str, Callable[[str], str]] = {
            "road, building, room": lambda c: f"{c}{road}{n}号{b}幢{u}单元{room}室",
            "estate": lambda c: f"{c}{road}{n}号{estate}{b}栋{room}",
            "city to door": lambda c: f"{c}{road}{n}号",
            "lane": lambda _: f"上海市静安区{road}{n}弄{b}号{room}室",
            "hyphens": lambda c: f"{c}{estate}{b}-{u}-{room}",
            "no city": lambda _: f"{road}{n}号{estate}{b}栋{u}单元{room}",
            "village": lambda _: f"河南省周口市清河县柳林镇石桥村{b}组{n}号",
            "spaces": lambda c: f"{c} {road} {n} 号 {b} 号楼 {room} 室",
            "full width": lambda c: wide(f"{c}{road}{n}号{b}栋{room}室"),
            "hutong": lambda _: f"北京市东城区槐花胡同{b}号院{u}号楼{room}",
            "tower": lambda c: f"{c}{road}{n}号星辰大厦A座{room}",
        }
        return self.turn("address", forms, city)

    def name(self) -> str:
        value = NAMES[self.used.get("name", 0) % len(NAMES)]
        self.used["name"] = self.used.get("name", 0) + 1
        self.notes.append("name: " + ("nickname" if value in NAMES[25:] else "full name"))
        return value

    # -- what only looks like it -------------------------------------------------------------------------------------
    def other(self, what: str) -> str:
        """A value that is no personal data. Nothing is filtered: chance may make a check digit valid, as it does."""
        d, date = self.digits, datetime.date(2018, 1, 1) + datetime.timedelta(days=self.random.randrange(2100))
        number = self.random.randint
        makers: dict[str, Callable[[], str]] = {
            "bad_id": lambda: self.disguise(self.identity(check=False)),
            "bad_card": lambda: self.disguise(self.card(check=False)),
            "order": lambda: self.pick(
                f"{date:%Y%m%d}{number(0, 23):02}{d(9)}",
                d(19, "123"),
                f"{date:%Y%m%d}2200{d(16)}",
                d(12, "2"),
                f"XD{d(14)}",
            ),
            "tracking": lambda: self.pick(
                f"SF{d(13)}", f"YT{d(13)}", "7" + d(13), f"JD{d(12)}", "9" + d(12), f"{d(12, '34')}"
            ),
            "record": lambda: self.pick(
                d(7, "123"), d(8, "1234"), f"M{d(9)}", d(10, "3456789"), f"{date:%Y%m%d}{d(4)}"
            ),
            "invoice": lambda: d(12, "01"),
            "code": lambda: self.pick(d(4), d(6), f"{number(1, 9)}-{number(1, 9)}-{d(4)}"),
            "dose": lambda: self.pick(
                f"{number(1, 20) * 25}mg",
                "0.5g",
                f"{number(1, 9)}.{number(1, 9)}ml",
                f"{number(1, 5)}片",
                f"{number(1, 40)}0万U",
            ),
            "lab": lambda: f"{number(0, 30)}.{number(0, 99)}",
            "big_lab": lambda: str(number(30, 420)),
            "pressure": lambda: f"{number(90, 190)}/{number(50, 110)}",
            "copies": lambda: self.pick(
                f"{number(1, 9)}.{d(2)}×10^{number(3, 8)}", f"{number(1000, 999999)}", f"{d(9, '1234')}"
            ),
            "size": lambda: (
                f"{number(1, 9)}.{number(0, 9)}cm×{number(1, 9)}.{number(0, 9)}cm×{number(1, 9)}.{number(0, 9)}cm"
            ),
            "icd": lambda: f"{self.pick(*'ABCDEFGIJKMNRSZ')}{d(2)}.{d(3)}",
            "drg": lambda: f"{self.pick(*'BEFGKR')}{self.pick(*'RSTUZ')}{d(1)}5",
            "approval": lambda: f"{self.pick('H', 'Z', 'S', 'J')}{date:%Y}{d(4)}",
            "trial": lambda: self.pick(
                f"NCT0{d(7)}", f"ChiCTR{date:%y}000{d(5)}", f"CTR{date:%Y}{d(4)}", f"ChiCTR-IPR-{d(8, '1')}"
            ),
            "pmid": lambda: d(8, "23"),
            "doi": lambda: f"10.{d(4, '13')}/j.cnki.{d(4)}-{d(4)}.{date:%Y}.{number(1, 12):02}.{d(3)}",
            "isbn": lambda: self.pick(f"978-7-{d(3)}-{d(5)}-{d(1)}", f"9787{d(9)}", f"978 7 {d(3)} {d(5)} {d(1)}"),
            "icp": lambda: d(8, "1"),
            "small": lambda: str(number(1, 30)),
            "uscc": lambda: f"91{self.pick(*AREAS.split())}MA{d(1)}K{d(4)}X{self.pick('A', 'B', 'R')}",
            "device": lambda: f"{date:%Y}{d(7, '3')}",
            "model": lambda: self.pick(
                f"KFR-35GW/{d(4)}", f"GT-{d(5)}", f"E{d(4)}-{d(4)}", f"TP{d(6)}A", f"SM-G{d(4)}"
            ),
            "version": lambda: self.pick(
                "3.11.4", "2.0.1.10", "v1.12.3.4", "10.0.19045.3570", "5.4.0-150", "118.0.5993.88"
            ),
            "rs": lambda: f"rs{d(8, '1')}",
            "batch": lambda: f"{self.pick('', 'A', 'LOT')}{date:%Y%m}{d(2)}",
            "hash": lambda: "".join(self.random.choice("0123456789abcdef") for _ in range(32)),
            "serial": lambda: f"C02{self.pick('X', 'Y')}{d(4)}JG5{self.pick('H', 'J')}",
            "ean": lambda: "69" + d(11),
            "mac": lambda: ":".join(f"{number(0, 255):02X}" for _ in range(6)),
            "nurse": lambda: date.strftime("%Y") + d(8),
            "date": lambda: self.pick(
                f"{date:%Y-%m-%d}", f"{date:%Y.%m.%d}", f"{date:%Y%m%d}", f"{date.year}年{date.month}月{date.day}日"
            ),
            "time": lambda: f"{number(0, 23):02}:{number(0, 59):02}",
            "timestamp": lambda: self.pick("1" + d(9, "67"), "1" + d(12, "67")),
            "price": lambda: f"{number(20, 9000)}.{d(2)}",
            "amount": lambda: self.pick(
                f"{number(1, 99)},{d(3)},{d(3)}", f"{d(9, '123')}", f"{number(1, 99)}亿", f"{d(10, '2')}.{d(2)}"
            ),
            "decimal": lambda: f"0.{d(number(4, 15))}",
            "longitude": lambda: f"1{number(0, 3)}{d(1)}.{d(8)}",
            "latitude": lambda: f"{number(20, 48)}.{d(8)}",
            "ratio": lambda: f"{number(1, 300)}/{number(301, 900)}",
            "hotline": lambda: self.pick(
                f"400-{d(3, '68')}-{d(4)}", f"400{d(7, '68')}", f"800-{d(3, '8')}-{d(4)}", f"400 {d(4, '68')} {d(3)}"
            ),
            "short": lambda: self.pick("12320", "12345", "95588", "10086", "12315", "110", "120", "95511", "12306"),
            "long": lambda: self.pick(d(5, "2345") + "13" + d(9), "13" + d(12), "8" + "138" + d(8), "138" + d(9)),
            "alnum_phone": lambda: self.pick(f"A138{d(8)}B", f"X15{d(9)}", f"HZ{d(3)}186{d(8)}K"),
            "phone_decimal": lambda: f"{number(0, 9)}.13{d(9)}",
            "sample": lambda: f"S{d(4)}-{d(3)}",
            "masked": lambda: f"{self.pick('138', '159', '186')}****{d(4)}",
        }
        return makers[what]()

    def disguise(self, value: str) -> str:
        """A number in one of a few surface forms, so that the form gives nothing away."""
        return self.pick(value, value, wide(value), " ".join(self.split_at(value, 4, 4, 4, 4)))


def wide(text: str) -> str:
    """The text with its ASCII letters, digits and signs in full width."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def identity_check(body: str) -> str:
    """The 18th character of an identity number: weights 2**(17 - i) mod 11, remainder looked up."""
    total = sum(int(digit) * (2 ** (17 - i) % 11) for i, digit in enumerate(body))
    return "10X98765432"[total % 11]


def luhn_check(body: str) -> str:
    """The digit that makes body + digit pass the Luhn test."""
    total = 0
    for i, digit in enumerate(reversed(body)):
        doubled = int(digit) * (2 if i % 2 == 0 else 1)
        total += doubled // 10 + doubled % 10
    return str(-total % 10)


def carriers() -> Iterator[tuple[str, int, str, list[str]]]:
    """Section, repetitions, carrier and contact names, for every carrier of the text file."""
    section, times = "", 0
    for line in (HERE / "redaction_carriers.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            section, _, count = line[2:].rpartition(" x")
            times = int(count)
        elif line and not line.startswith("%"):
            text, _, names = line.partition(" @@ ")
            yield section, times, text.replace(LINE, "\n"), names.split(",") if names else []


def fill(maker: Maker, carrier: str, names: list[str]) -> tuple[list[str], list[dict[str, object]]]:
    """The messages of one case and its gold spans."""
    messages, gold = [""], []

    def write(text: str, kind: str = "") -> None:
        for i, piece in enumerate(text.split(BREAK)):
            if i:
                messages.append("")
            start = len(messages[-1])
            messages[-1] += piece
            if kind and piece:
                gold.append({"kind": kind, "message": len(messages) - 1, "start": start, "end": start + len(piece)})

    at = 0
    for slot in SLOT.finditer(carrier):
        write(carrier[at : slot.start()])
        at = slot.end()
        what = slot[1]
        if what.startswith("not:"):
            write(maker.other(what[4:]))
            continue
        value = getattr(maker, what)()
        if what == "name":
            names.append(value)
        before, mark, rest = value.rpartition("«")
        inside, _, after = rest.partition("»")
        write(before.replace("«", ""))
        write(inside, what)
        write(after if mark else "")
    write(carrier[at:])
    return messages, gold


def cases() -> Iterator[dict[str, object]]:
    maker, number = Maker(20240607), 0
    for section, times, carrier, given in carriers():
        for _ in range(times):
            maker.notes, names = [], list(given)
            messages, gold = fill(maker, carrier, names)
            number += 1
            note = "; ".join(dict.fromkeys(maker.notes)) or section.removeprefix("not:")
            yield {
                "id": f"c{number:04}",
                "messages": messages,
                "names": list(dict.fromkeys(names)),
                "gold": gold,
                "note": note,
            }


if __name__ == "__main__":
    lines = [json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases()]
    (HERE / "redaction.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
