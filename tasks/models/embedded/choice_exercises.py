"""Exercises that choose: one of listed options, same or different meaning, the closest term."""

from tasks.models.embedded.corpus import Dialogue
from tasks.models.embedded.exercise_tables import CATEGORIES, FILLERS, PARAPHRASES, TOPICS
from tasks.models.embedded.spans import Spans
from tasks.models.embedded.wording import ENDINGS, choose_prompt, instruct, options_line, present

PREFIXES = (
    "",
    "",
    "",
    "请问",
    "你好，",
    "我想问一下",
    "医生，",
    "老师，",
    "急，",
    "想知道",
    "麻烦问下",
    "大家说说",
)
SUFFIXES = ("", "", "", "？", "？", "呢", "啊", "，谢谢", "，急", "呢？")
NONE_OF_THEM = ("都不是", "其他", "以上都不对", "别的")


def _thing(spans: Spans) -> str:
    if spans.rng.random() < 0.6:
        return spans.entity(
            spans.pick(("病名", "不适", "药品", "化验", "手法", "零件", "食物", "工具", "机构", "节目", "植物"))
        )
    return spans.item(2, 6)


def _topic_question(spans: Spans, topic: str) -> str:
    return spans.pick(PREFIXES) + spans.pick(TOPICS[topic]).format(x=_thing(spans)) + spans.pick(SUFFIXES)


def choose(spans: Spans) -> Dialogue:
    """One of the listed options, decided by a rule, by the text, or by common sense."""
    roll = spans.rng.random()
    if roll < 0.22:
        return _choose_by_rule(spans)
    if roll < 0.45:
        return _choose_by_mention(spans)
    return _choose_by_topic(spans)


def _choose_by_rule(spans: Spans) -> Dialogue:
    rng = spans.rng
    count = rng.randint(2, 5)
    cues, labels = spans.items(count, 1, 4), spans.items(count, 1, 5)
    chosen = rng.randrange(count + 1)
    rule = spans.pick(
        ("出现{c}就选{l}", "提到{c}时答{l}", "有{c}的归为{l}", "看到{c}输出{l}", "{c}代表{l}", "遇到{c}说{l}")
    )
    rules = spans.pick(("；", "，", "\n", "。")).join(
        rule.format(c=c, l=label) for c, label in zip(cues, labels, strict=True)
    )
    otherwise = spans.pick(NONE_OF_THEM)
    rules += spans.pick(("；", "，", "。")) + spans.pick(("否则", "其余", "都没有就")) + f"选{otherwise}"
    before, after = spans.sentence(2, 12), spans.sentence(2, 12)
    text = before + (cues[chosen] if chosen < count else "") + after
    answer = labels[chosen] if chosen < count else otherwise
    if sum(cue in text for cue in cues) > (chosen < count):
        text, answer = cues[0], labels[0]
    instruction = instruct(
        spans,
        ("按规则", "根据约定", "依照说明", "照下面的规则", "按要求"),
        ("给文本归类", "判断", "选择", "给出标签", "作答"),
    )
    return [
        (
            "user",
            present(spans, instruction, rules + "\n" + spans.pick(("文本：", "句子：", "内容：")) + text),
        ),
        ("assistant", answer),
    ]


def _choose_by_mention(spans: Spans) -> Dialogue:
    rng = spans.rng
    count = rng.randint(2, 7)
    options = spans.items(count, 2, 6)
    answer = spans.pick(options)
    cue = answer
    if rng.random() < 0.35 and len(answer) > 2:
        start = rng.randrange(len(answer) - 1)
        cue = answer[start : start + rng.randint(2, len(answer) - start)]
    text = spans.sentence(2, 12) + cue + spans.sentence(2, 12)
    if sum(option in text for option in options) > 1:
        text = cue
    instruction = instruct(
        spans,
        ("从选项里选", "挑", "选", "指", "找", "给"),
        ("出", "出一个"),
        ("文中提到的", "和句子有关的", "句里说到的", "与内容相符的", "对得上的"),
        ("那一项", "选项", "一个", "词"),
    )
    return [("user", choose_prompt(spans, instruction, text, options)), ("assistant", answer)]


def _choose_by_topic(spans: Spans) -> Dialogue:
    rng = spans.rng
    by_topic = rng.random() < 0.7
    names = list(TOPICS if by_topic else CATEGORIES)
    rng.shuffle(names)
    options = names[: rng.randint(2, 10)]
    answer = subject = spans.pick(options)
    what: tuple[str, ...]
    none = spans.pick(NONE_OF_THEM)
    roll = rng.random()
    if roll < 0.12:
        answer, subject = none, names[-1]  # at most 10 of the names are options: the last one never is
    if roll < 0.30:
        options = [*options, none]
    if by_topic:
        text = _topic_question(spans, subject)
        what = (
            "问题问的是什么",
            "这句话想知道什么",
            "提问者关心哪方面",
            "用户的目的",
            "问的属于哪一种",
            "这条咨询的主题",
            "说话人想了解什么",
        )
    else:
        words = rng.sample(CATEGORIES[subject], rng.randint(1, 3))
        text = spans.pick(("，", "")).join(spans.word(1, 5) + word for word in words)
        text += spans.pick(("。", "，" + spans.pick(FILLERS)))
        what = ("内容属于哪类", "这是哪个栏目的", "文章的类别", "归到哪一组", "最合适的标签", "这段话的主题")
    instruction = instruct(spans, ("看看", "说说", "想一想", "选出", "判断", "回答", "指出", "分辨", "确认"), what)
    return [("user", choose_prompt(spans, instruction, text, options)), ("assistant", answer)]


ANSWERS = (
    ("是", "否"),
    ("是", "不是"),
    ("相同", "不同"),
    ("一样", "不一样"),
    ("一致", "不一致"),
    ("对", "错"),
    ("能", "不能"),
    ("同义", "不同义"),
    ("是同一个意思", "不是同一个意思"),
    ("等价", "不等价"),
    ("匹配", "不匹配"),
    ("有", "没有"),
    ("是的", "不是的"),
)


def same_meaning(spans: Spans) -> Dialogue:
    """Whether two sentences mean the same: paraphrases against a changed thing or a changed question."""
    rng = spans.rng
    group = spans.pick(PARAPHRASES)
    first, second = rng.sample(group, 2)
    thing = other = _thing(spans)
    same = rng.random() < 0.5
    if not same:
        if rng.random() < 0.5:
            while other == thing:
                other = _thing(spans)
        else:
            while (another := spans.pick(PARAPHRASES)) is group:
                pass
            second = spans.pick(another)
    if same and rng.random() < 0.1:
        second = first
    a = spans.pick(PREFIXES) + first.format(x=thing) + spans.pick(SUFFIXES)
    b = spans.pick(PREFIXES) + second.format(x=other) + spans.pick(SUFFIXES)
    yes, no = spans.pick(ANSWERS)
    pair = spans.pick(
        (
            "甲：{a}\n乙：{b}",
            "“{a}”与“{b}”",
            "1、{a}\n2、{b}",
            "{a}\n{b}",
            "前一句：{a}\n后一句：{b}",
            "「{a}」「{b}」",
            "左：{a}；右：{b}",
            "《{a}》和《{b}》",
        )
    ).format(a=a, b=b)
    instruction = instruct(
        spans,
        ("比较", "看", "对照", "读完", "判定", "评一评"),
        ("两句", "这两个问题", "两条提问", "两个说法", "这一对句子"),
        ("问的是不是一回事", "说的是否一件事", "含义有无差别", "要问的内容同不同", "能不能算同一问"),
    )
    if rng.random() < 0.5:
        text = choose_prompt(spans, instruction, pair, (yes, no) if rng.random() < 0.7 else (no, yes))
    else:
        text = present(spans, instruction + f"，回答{yes}或{no}", pair)
    return [("user", text), ("assistant", yes if same else no)]


def _altered(spans: Spans, term: str) -> str:
    """Another way to write a term: a character dropped, doubled, swapped or replaced, a word added."""
    rng = spans.rng
    place = rng.randrange(len(term))
    roll = rng.random()
    if roll < 0.25:
        return term[:place] + term[place + 1 :] or term
    if roll < 0.45:
        return term[:place] + spans.pick(spans.common) + term[place:]
    if roll < 0.60:
        return term[:place] + spans.pick(spans.common) + term[place + 1 :]
    if roll < 0.75:
        return spans.pick(("左侧", "慢性", "急性", "轻度", "老年", "术后", "疑似", "新型", "双侧", "复发性")) + term
    if roll < 0.85 and len(term) > 3:
        cut = rng.randint(1, len(term) - 1)
        return term[cut:] + term[:cut]
    return term + spans.pick(("？", "待查", "后", "（一）", "伴不适", "可能", "2级"))


def closest_term(spans: Spans) -> Dialogue:
    """The candidate closest to a written term, or the two closest to a double one."""
    rng = spans.rng
    kinds = ("病名", "病名", "药品", "手法", "机构", "零件", "书名", "学科", "化验")
    terms: list[str] = []
    while len(terms) < rng.randint(3, 8):
        term = spans.entity(spans.pick(kinds)) if rng.random() < 0.7 else spans.item(3, 8)
        if len(term) > 2 and not any(term in other or other in term for other in terms):
            terms.append(term)
    chosen = rng.sample(terms, 2 if rng.random() < 0.2 and len(terms) > 3 else 1)
    written = spans.pick(("，", "+", "伴", "；", "、")).join(_altered(spans, term) for term in chosen)
    answers = [term for term in terms if term in chosen]
    separator = spans.pick(("，", "、", "\n"))
    instruction = instruct(
        spans,
        ("给这个写法", "为下面的名称", "替这条记录", "把原词", "将此说法"),
        ("找到", "配上", "对应到", "换成", "归到"),
        ("规范名称", "最接近的词", "正式写法", "标准叫法", "最像的一项"),
    )
    if len(answers) > 1 or rng.random() < 0.15:
        instruction += "，可以有多个，用" + {"，": "逗号", "、": "顿号", "\n": "换行"}[separator] + "分开"
    if rng.random() < 0.3:
        line = options_line(spans, terms)
        end = spans.pick(ENDINGS)
        text = f"{line}\n{instruction}：{written}" + ("\n" + end if end else "")
    else:
        text = choose_prompt(spans, instruction, written, terms)
    return [("user", text), ("assistant", separator.join(answers))]
