"""Exercises that write: descriptions from attribute lists and back, and small talk with a persona."""

from tasks.models.embedded.corpus import Dialogue
from tasks.models.embedded.exercise_tables import ATTRIBUTES, GOODS, JOBS, LIKES, MAKERS, NAMES
from tasks.models.embedded.spans import Spans
from tasks.models.embedded.wording import instruct, present

# (joint of key and value, joint of pairs)
ATTRIBUTE_FORMS = (
    ("#", "*"),
    ("#", "*"),
    ("：", "，"),
    ("=", ";"),
    (":", "\n"),
    ("-", " "),
    ("为", "、"),
    ("：", "；"),
)
OPENINGS = ("这款{v}", "这件{v}", "一款{v}", "今天推荐一款{v}", "这个{v}", "想要{v}的朋友看过来", "{v}上新")
CLOSINGS = ("", "", "", "，值得入手", "，性价比很高", "，喜欢就带走吧", "，日常必备", "，回头率很高")


def describe(spans: Spans) -> Dialogue:
    """A description that holds the attribute values in order, or the attributes of a description."""
    rng = spans.rng
    goods = spans.pick(list(GOODS))
    names = [n for n in GOODS[goods] if rng.random() < 0.6][:5] or list(GOODS[goods][:2])
    rng.shuffle(names)
    pairs = [(n, spans.pick(ATTRIBUTES[n][0]) if rng.random() < 0.85 else spans.word(2, 3)) for n in names]
    sentence = spans.pick(OPENINGS).format(v=goods)
    for index, (name, value) in enumerate(pairs):
        joint = "，" if index == 0 or rng.random() < 0.75 else "。"
        sentence += joint + spans.pick(ATTRIBUTES[name][1]).format(v=value)
    sentence += spans.pick(CLOSINGS) + "。"
    colon, comma = spans.pick(ATTRIBUTE_FORMS)
    attributes = comma.join(f"{n}{colon}{v}" for n, v in [("类型", goods), *pairs])
    if rng.random() < 0.65:
        instruction = instruct(
            spans,
            ("用", "根据", "照着", "看", "依据"),
            ("这些属性", "下面的参数", "商品信息", "所给的特点", "这份清单"),
            ("写一段介绍", "写几句广告", "描述商品", "说一段推荐的话", "编一条文案"),
        )
        message = attributes if rng.random() < 0.15 else present(spans, instruction, attributes, ending=False)
        return [("user", message), ("assistant", sentence)]
    instruction = instruct(
        spans,
        ("从介绍里", "把文案", "由这段话", "将描述"),
        ("提取属性", "还原成清单", "整理成参数", "写回属性"),
        (f"，用“{colon}”和“{comma}”连接".replace("\n", "换行"), f"，写成“名{colon}值{comma}名{colon}值”"),
    )
    return [("user", present(spans, instruction, sentence, ending=False)), ("assistant", attributes)]


def small_talk(spans: Spans) -> Dialogue:
    """Two to four turns with a persona; later turns ask about earlier ones."""
    rng = spans.rng
    name = spans.pick(NAMES) if rng.random() < 0.6 else spans.word(2, 3)
    job, maker = spans.pick(JOBS), spans.pick(MAKERS)
    user = spans.entity("人名") if rng.random() < 0.6 else spans.word(2, 3)
    like = spans.pick(LIKES) if rng.random() < 0.6 else spans.item(2, 5)
    place = spans.entity("地名")
    system = spans.pick(
        (
            f"你是{name}，一名{job}。",
            f"你叫{name}，由{maker}制作，职业是{job}。",
            f"角色：{job}{name}，来自{maker}。",
            f"从现在起你的名字是{name}，身份是{job}。",
        )
    )
    maker_known = maker in system
    pool: list[tuple[str, str, str]] = [
        (
            "greet",
            spans.pick(("你好", "您好", "在吗", "嗨", "早上好", "你好呀")),
            spans.pick((f"你好，我是{name}。", f"您好，我是{job}{name}，有什么可以帮您？")),
        ),
        (
            "name",
            spans.pick(("你是谁", "你叫什么名字", "怎么称呼你", "介绍一下自己", "你的名字？")),
            spans.pick((f"我是{name}，一名{job}。", f"我叫{name}。")),
        ),
        (
            "job",
            spans.pick(("你是做什么的", "你的工作是什么", "你能干什么", "你的身份是")),
            f"我是一名{job}。",
        ),
        (
            "tell",
            spans.pick((f"我叫{user}", f"我的名字是{user}", f"记住，我叫{user}")),
            spans.pick((f"你好，{user}。", f"好的，{user}。", f"很高兴认识你，{user}！")),
        ),
        (
            "like",
            spans.pick((f"我喜欢{like}", f"我平时爱{like}", f"我的爱好是{like}")),
            spans.pick((f"{like}很有意思。", f"原来你喜欢{like}。")),
        ),
        (
            "place",
            spans.pick((f"我住在{place}", f"我来自{place}", f"我在{place}工作")),
            spans.pick((f"{place}是个好地方。", f"我记住了，你在{place}。")),
        ),
        (
            "bye",
            spans.pick(("再见", "谢谢", "谢谢你", "拜拜", "不聊了")),
            spans.pick(("再见，祝你愉快！", "不客气，再见。", "不用谢。")),
        ),
    ]
    if maker_known:
        pool.append(
            (
                "maker",
                spans.pick(("谁做的你", "你是谁制作的", "谁开发了你", "你来自哪里")),
                f"我来自{maker}。",
            )
        )
    questions = {
        "tell": (spans.pick(("我叫什么", "我的名字是什么", "还记得我是谁吗")), f"你叫{user}。"),
        "like": (spans.pick(("我喜欢什么", "我的爱好是什么", "我刚才说爱干什么")), f"你喜欢{like}。"),
        "place": (spans.pick(("我住哪", "我来自哪里", "我在什么地方")), f"你在{place}。"),
    }
    picked = rng.sample(pool, rng.randint(1, 3))
    told = [topic for topic, _, _ in picked if topic in questions]
    turns = [(question, answer) for _, question, answer in picked]
    if told:
        turns.append(questions[spans.pick(told)])
    dialogue: Dialogue = [("system", system)]
    for question, answer in turns:
        dialogue += [
            ("user", question + spans.pick(("", "", "？" if question[-1] in "谁么吗" else "。"))),
            ("assistant", answer),
        ]
    return dialogue
