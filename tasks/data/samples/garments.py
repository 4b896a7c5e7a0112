"""Attributes of garments with an advertisement made of them, in AdvertiseGen's form."""

from __future__ import annotations

from random import Random

#: Garment -> its own keys, besides the ones that every garment has.
GARMENTS = {
    "上衣": ("衣领型", "衣袖型"),
    "裙": ("裙长", "裙款式"),
    "裤": ("裤长", "裤腰型"),
    "外套": ("衣领型", "衣门襟"),
}
COMMON = ("版型", "材质", "颜色", "风格", "图案")
VALUES = {
    "版型": "宽松 修身 直筒 收腰 显瘦",
    "材质": "纯棉 雪纺 牛仔布 羊毛 针织 亚麻 蕾丝 真丝",
    "颜色": "白色 黑色 红色 米色 藏青色 粉色 焦糖色 浅蓝色 墨绿色",
    "风格": "简约 复古 文艺 通勤 休闲 甜美 街头 清新",
    "图案": "条纹 格子 碎花 波点 刺绣 字母 纯色 印花",
    "衣领型": "圆领 翻领 V领 立领 方领 一字领",
    "衣袖型": "长袖 短袖 泡泡袖 喇叭袖 灯笼袖",
    "裙长": "短裙 半身裙 长裙",
    "裙款式": "百褶 不规则 开叉 系带",
    "裤长": "长裤 九分裤 七分裤",
    "裤腰型": "高腰 松紧腰 中腰",
    "衣门襟": "拉链 单排扣 双排扣 系带",
}
#: Key -> clauses; {v} is the value, {g} what the garment is called.
CLAUSES = {
    "版型": ("{v}的版型修饰身材", "{v}剪裁对各种身形都友好", "做成{v}的版型，穿着自在", "{v}的廓形十分利落"),
    "材质": ("选用{v}面料，触感舒适", "{v}材质亲肤透气", "采用{v}制作，质感出众", "{v}的手感令人喜爱"),
    "颜色": ("{v}清爽耐看", "经典的{v}很好搭配", "以{v}为主色，衬得肤色明亮", "{v}的配色大方得体"),
    "风格": ("整体透出{v}的气息", "走的是{v}路线", "{v}风格让人眼前一亮", "{v}感十足"),
    "图案": ("{v}图案增添了几分趣味", "点缀{v}，细节精致", "{v}设计避免了单调", "{v}元素丰富了层次"),
    "衣领型": ("{v}拉长颈部线条", "{v}设计衬托脸型", "搭配{v}更显气质"),
    "衣袖型": ("{v}遮住手臂赘肉", "{v}轻盈灵动", "{v}的设计活动方便"),
    "裙长": ("{v}的长度露出纤细小腿", "{v}走动时摇曳生姿", "{v}的样式显高"),
    "裙款式": ("{v}裙摆富有动感", "{v}设计别出心裁", "{v}的款式有女人味"),
    "裤长": ("{v}拉长腿部比例", "{v}露出脚踝显得清爽", "{v}的长度适合多数人"),
    "裤腰型": ("{v}提高腰线", "{v}穿脱方便", "{v}设计收住小腹"),
    "衣门襟": ("{v}门襟简洁干练", "{v}设计穿脱方便", "{v}门襟便于叠穿"),
}
OPENINGS = {
    "上衣": ("这款上衣", "一件百搭的上衣", "这件上衣"),
    "裙": ("这条裙子", "一款优雅的裙子", "这款裙子"),
    "裤": ("这条裤子", "一款舒适的裤子", "这款裤子"),
    "外套": ("这件外套", "一款实穿的外套", "这款外套"),
}


def rows(rng: Random, count: int, replies: int = 1) -> list[dict[str, str]]:
    """Rows with distinct contents; with ``replies`` above 1, every fifth content has that many summaries."""
    written: set[str] = set()
    result = []
    while len(written) < count:
        garment = rng.choice(list(GARMENTS))
        keys = rng.sample(COMMON, rng.randint(2, 3)) + rng.sample(GARMENTS[garment], 1)
        chosen = {key: rng.choice(VALUES[key].split()) for key in keys}
        content = "*".join(f"{key}#{value}" for key, value in {"类型": garment, **chosen}.items())
        if content in written:
            continue
        written.add(content)
        summaries: set[str] = set()
        while len(summaries) < (replies if len(written) % 5 == 0 else 1):
            summary = _summary(rng, garment, chosen)
            if summary not in summaries:
                result.append({"content": content, "summary": summary})
            summaries.add(summary)
    return result


def _summary(rng: Random, garment: str, chosen: dict[str, str]) -> str:
    clauses = [rng.choice(CLAUSES[key]).format(v=value) for key, value in chosen.items()]
    return rng.choice(OPENINGS[garment]) + "，".join(clauses) + "。"
