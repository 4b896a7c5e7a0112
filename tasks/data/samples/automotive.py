"""Texts on faults of cars with the triples that they state, in the form of the public triple data set."""

from __future__ import annotations

from random import Random
from typing import Any

INSTRUCTION = (
    "抽取文本中关系为“部件故障”“性能故障”“组成”“检测工具”的三元组，写成头_关系_尾，一行一个，按出现的顺序。文本："
)
Pools = tuple[tuple[str, ...], tuple[str, ...]]


def _pools(words: str) -> Pools:
    """Words of train, a bar, words that train never uses."""
    seen, unseen = words.split("|")
    return tuple(seen.split()), tuple(unseen.split())


#: Relation -> clauses that state it.
CLAUSES = {
    "部件故障": (
        "{h}{t}",
        "检查发现{h}{t}",
        "{h}出现{t}",
        "拆检后见{h}{t}",
        "维修人员确认{h}{t}",
        "行驶中{h}{t}",
        "原因是{h}{t}",
    ),
    "性能故障": ("{h}{t}", "仪表显示{h}{t}", "车主感到{h}{t}", "试车时{h}{t}", "冷车时{h}{t}", "上坡时{h}{t}"),
    "检测工具": ("用{h}测量{t}", "使用{h}检测{t}", "借助{h}查看{t}", "{h}测得{t}", "拿{h}复查{t}", "以{h}检查{t}"),
    "组成": ("更换{t}的{h}", "检修{t}上的{h}", "查看{t}内部的{h}", "拆下{t}里的{h}", "{h}装在{t}上", "{t}由{h}等组成"),
}
#: (relation, heads, tails) that go together.
GROUPS: tuple[tuple[str, Pools, Pools], ...] = (
    (
        "部件故障",
        _pools("""
            点火线圈 蓄电池 发电机 起动机 车窗开关 雨刮电机 大灯 仪表盘 鼓风机 氧传感器 曲轴位置传感器 燃油泵
            | ABS泵 安全气囊 座椅加热垫 天窗电机 碳罐电磁阀 水温传感器 电子扇继电器"""),
        _pools("不工作 短路 断路 接触不良 烧毁 老化 失灵 进水 | 虚接 击穿 粘连 脱焊"),
    ),
    (
        "部件故障",
        _pools("""
            离合器片 变速箱 传动轴 减振器 转向机 球头 刹车片 刹车盘 轮毂轴承 正时皮带 发动机 涡轮增压器
            | 凸轮轴 活塞环 差速器 稳定杆 液力变矩器 平衡轴"""),
        _pools("异响 卡滞 断裂 松动 开裂 磨损严重 打滑 抖动 变形 | 弯曲 跳齿 错位 卡死 脱落"),
    ),
    (
        "部件故障",
        _pools("""
            水泵 节温器 喷油嘴 空气滤芯 进气管 气门室盖垫 排气管 散热器 刹车油管 空调压缩机
            | 三元催化器 油底壳 膨胀阀 真空助力器 中冷器"""),
        _pools("漏油 漏水 堵塞 积碳 渗油 锈蚀 破裂 | 穿孔 鼓包 泄压 起泡"),
    ),
    (
        "性能故障",
        _pools("机油压力 水温 油耗 怠速转速 充电电压 燃油压力 进气压力 排放值 | 气缸压力 胎压 尾气浓度 真空度"),
        _pools("过高 过低 偏高 偏低 不稳 忽高忽低 | 骤降 低于标准 居高不下 波动"),
    ),
    (
        "性能故障",
        _pools("加速 制动效果 转向 制冷效果 起动性能 动力 换挡 | 暖风效果 爬坡能力 隔音效果"),
        _pools("不足 变差 迟缓 不正常 乏力 | 下滑 减弱 时好时坏"),
    ),
    (
        "检测工具",
        _pools("万用表 示波器 钳形电流表 试灯 | 兆欧表 频谱仪"),
        _pools("电压 电阻 线路电流 信号波形 | 绝缘阻值 信号频率"),
    ),
    ("检测工具", _pools("油压表 缸压表 气压表 | 真空计 胎压计"), _pools("供油压力 缸压 管路压力 | 歧管真空 轮胎气压")),
    ("检测工具", _pools("游标卡尺 百分表 千分尺 | 塞尺 激光定位仪"), _pools("片厚 间隙 跳动量 磨损量 | 前束角 缸径")),
    ("检测工具", _pools("红外测温仪 测温枪 | 热像仪"), _pools("表面温度 轴承温度 出口温度 | 壳体温度 排气温度")),
    ("检测工具", _pools("故障诊断仪 解码器 | 编程器"), _pools("故障码 数据流 控制单元状态 | 软件版本 匹配参数")),
    (
        "组成",
        _pools("""
            滤网 密封圈 碳刷 轴承 卡扣 固定螺栓 插接器 叶轮 回位弹簧 膜片 阀芯 皮带轮 线束 护罩 垫片
            | 衬套 止推片 滚针 锁销 分电盖 喇叭片"""),
        _pools("""
            机油泵 节气门体 电子助力器 前悬架 后桥 冷凝器 配电盒 车门锁 油箱 方向柱 空调箱
            | 分动器 中央扶手 举升门 尾门 制动总泵"""),
    ),
)
OPENINGS = (
    "故障现象：",
    "",
    "",
    "一辆行驶{a}万公里的轿车，",
    "车主反映，",
    "维修记录：",
    "一辆{b}款越野车进厂，",
    "故障排除：",
    "某客户来电，",
    "冬季早晨，",
)
NOISE = (
    "客户要求当天取车",
    "此前在别处修过",
    "故障灯没有点亮",
    "该车没有发生过事故",
    "路况以市区为主",
    "更换后试车正常",
    "建议按时保养",
    "配件需要订货",
    "清除记录后再次试车",
)


class Writer:
    """Composes rows of one split; ``pool`` 0 are the words that train uses, 1 the words that it never uses."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.pool = rng, 0
        self.known = ""
        self.written: set[str] = set()

    def rows(self, count: int, halves: bool = False) -> list[dict[str, Any]]:
        """Rows; with ``halves``, every second one is of the second pool. Each 60th states no triple."""
        rows = []
        for index in range(count):
            self.pool = int(halves and index % 2 == 0)
            triples: list[str] = []
            text = ""
            while not text or text in self.written:
                text, triples = self._text(empty=index % 60 == 59)
            self.written.add(text)
            output = "\n".join(triples)
            mark = bool(self.pool)
            rows.append({"instruction": INSTRUCTION, "input": text, "output": output, "unseen_entities": mark})
        self.rng.shuffle(rows)
        return rows

    def only_words_of(self, rows: list[dict[str, Any]]) -> None:
        """From now on the first pool is what these rows really use."""
        self.known = "\n".join(row["input"] for row in rows)

    def _text(self, empty: bool) -> tuple[str, list[str]]:
        clauses: list[str] = []
        triples: list[str] = []
        used: set[str] = set()
        while not empty and len(triples) < 3 and (not triples or self.rng.random() < 0.55):
            wanted = self.rng.choice(("部件故障", "部件故障", "性能故障", "检测工具", "组成"))
            relation, heads, tails = self.rng.choice([group for group in GROUPS if group[0] == wanted])
            head, tail = self._word(heads), self._word(tails)
            if used & {head, tail}:
                continue
            used |= {head, tail}
            clauses.append(self.rng.choice(CLAUSES[relation]).format(h=head, t=tail))
            triples.append(f"{head}_{relation}_{tail}")
        for remark in self.rng.sample(NOISE, 2 if empty else self.rng.choice((0, 1, 1, 2))):
            clauses.insert(self.rng.randint(0, len(clauses)), remark)
        opening = self.rng.choice(OPENINGS).format(a=self.rng.randint(2, 25), b=self.rng.randint(2008, 2023))
        return opening + "，".join(clauses) + "。", triples

    def _word(self, pools: Pools) -> str:
        words = pools[self.pool]
        return self.rng.choice([w for w in words if self.pool or not self.known or w in self.known])


def splits(rng: Random) -> dict[str, list[dict[str, Any]]]:
    """Rows of train, dev and test; no text occurs twice, also not across splits."""
    writer = Writer(rng)
    train = writer.rows(420)
    writer.only_words_of(train)
    return {"train": train, "dev": writer.rows(60), "test": writer.rows(80, halves=True)}
