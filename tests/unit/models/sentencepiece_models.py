"""Small SentencePiece models and texts to compare tokenizers on, made with a fixed seed; nothing of them is stored."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece

#: What the small models are trained on: Chinese, English, code, the control tokens' characters.
SENTENCES = (
    "发动机的水温过高，需要检查水泵和风扇是否正常工作。",
    "患者三天前出现发热、咳嗽，体温最高三十九度，无胸痛。",
    "请问高血压的病人可以吃什么水果？多吃苹果和香蕉！",
    "这件连衣裙采用了简约的设计，穿着舒适，上身显瘦。",
    "北京、上海、广州和深圳是中国的一线城市；人口很多。",
    "今天晚上我睡不着，应该怎么办呢：听音乐还是看书？",
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
    "Answer the following questions as best as you can: which tools do you have?",
    "I've been told that they're there; you don't know what we'll do.",
    "def main(argument=None): return print(argument, 'hello world')",
    "for i in range(0, 128): total += values[i] * weights[i] - 3.14159",
    '<html><body class="a">text & more</body></html> </s> <s> <unk> [PAD] <|user|> sop',
    "0 1 2 3 4 5 6 7 8 9 10 2024-11-22 13:45 100% #1 @home ~ ^ ` \\ | { } _ $ €",
    "Füße, naïve café, señor, ångström, Москва и Киев, Αθήνα, ひらがな カタカナ 漢字",
)
_ODD = (
    *("🤗", "👨‍👩‍👧‍👦", "👍🏽", "🇨🇳", "①", "½", "ﬁ", "Ａ１", "ｶﾞ", "e\u0301", "a\u0323\u0302", "한", "한글", "اللّٰه"),
    *(
        "\u3000",
        "\u00a0",
        "\u200b",
        "\u200d",
        "\ufeff",
        "▁",
        "\t",
        "\n",
        "\r\n",
        "\n\n\n",
        " ",
        "  ",
        "     ",
        "\x00",
        "\x07",
    ),
    *("</s>", "<s>", "<unk>", "<0x0A>", "<0xE4>", "<n>", "<|tab|>", "<|blank_2|>", "sop", "soprano", "[gMASK]", "eop"),
    *(
        "<|user|>",
        "<|assistant|>",
        "<|im_end|>",
        "<eop>",
        "<sop>",
        "<|endoftext|>",
        "[PAD]",
        "[Round 1]",
        "、、",
        "....",
    ),
)


def train(vocabulary: int = 700, sentences: Sequence[str] = SENTENCES, **options: Any) -> bytes:
    """A model's file. Every character of the sentences becomes a piece, in as many as ``vocabulary`` allows."""
    written = io.BytesIO()
    rng = random.Random(7)
    # whole and cut sentences, so that pieces of many lengths pay
    lines = [s[rng.randrange(len(s) // 2) :] for s in sentences for _ in range(60)]
    settings = {
        "model_type": "bpe",
        "character_coverage": 1.0,
        "hard_vocab_limit": False,
        "num_threads": 1,
        "minloglevel": 2,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, vocab_size=vocabulary, **settings
    )
    return written.getvalue()


def folder(path: Path, model: bytes, **files: dict[str, Any]) -> Path:
    """A hub folder with tokenizer.model and JSON files, named without their ending."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.model").write_bytes(model)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def texts(count: int, pieces: Sequence[str] = (), lines: Sequence[str] = (), seed: int = 11) -> list[str]:
    """Texts of pieces, code-like runs, odd characters, any characters and real lines, mixed."""
    rng = random.Random(seed)
    words = [w for s in SENTENCES for w in (s.split(" ") if " " in s else [s[i : i + 3] for i in range(0, len(s), 3)])]
    pieces = [piece.replace("▁", " ") for piece in pieces] or words
    ranges = ((0x20, 0x7F), (0x80, 0x24F), (0x300, 0x36F), (0x400, 0x9FF), (0x4E00, 0x9FFF), (0xFF00, 0xFFEF))

    def some(choices: Sequence[str], most: int) -> str:
        return "".join(rng.choice(choices) for _ in range(rng.randint(1, most)))

    def character() -> str:
        first, last = rng.choice((*ranges, (0x1F300, 0x1FAFF)))
        return chr(rng.randint(first, last))

    makers = (
        lambda: some(pieces, 16),
        lambda: " ".join(rng.choice(words) for _ in range(rng.randint(1, 12))),
        lambda: some([*_ODD, *words], 10),
        lambda: some(["if", "x", "==", "(", ")", "    ", "\n", "\t", "y1", ": ", "#", "的", "12"], 24),
        lambda: "".join(character() for _ in range(rng.randint(1, 16))),
        lambda: rng.choice(lines)[:300] if lines else some(SENTENCES, 2),
    )
    return [*_ODD, "", *(rng.choice(makers)() for _ in range(count - len(_ODD) - 1))]


def real_lines(shared: Path) -> list[str]:
    """Some lines of every kind of the reference data."""
    lines: list[str] = []
    for file in sorted((shared / "data").rglob("*.json"))[::4]:
        with file.open(encoding="utf-8", errors="ignore") as opened:
            lines += [line.strip() for _, line in zip(range(40), opened, strict=False)]
    return [line for line in lines if line]
