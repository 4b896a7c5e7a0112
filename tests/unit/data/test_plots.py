"""The pictures of a data set, without and with a font that can draw Chinese."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from fontTools.ttLib import TTFont
from matplotlib import font_manager, get_data_path
from matplotlib.text import Text
from report_cases import split, summary

from tasks.data.reporting import plots

PNG = b"\x89PNG\r\n\x1a\n"
CHINESE = "微调读入行训练集数每一步之后剩余保留清洗去重其他标签任务病编号对应的名称见"


@pytest.fixture(scope="module")
def font(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A font with some Chinese: matplotlib's own, whose Cyrillic glyphs are given to those characters too."""
    path = tmp_path_factory.mktemp("fonts") / "chinese.ttf"
    made = TTFont(font_manager.findfont("DejaVu Sans"))
    glyphs = [name for name in made.getGlyphOrder() if name.startswith("uni04")]
    characters = sorted(set(CHINESE))
    assert len(glyphs) > len(characters)
    for table in made["cmap"].tables:
        if table.isUnicode():
            table.cmap.update({ord(c): glyph for c, glyph in zip(characters, glyphs, strict=False)})
    made.save(path)
    return path


def last_resort() -> Path:
    """A font that draws one and the same sign for every Chinese character."""
    return Path(get_data_path()) / "fonts" / "ttf" / "LastResortHE-Regular.ttf"


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_pictures_are_drawn_where_there_is_something_to_show(tmp_path: Path) -> None:
    assert plots.draw(summary(), tmp_path, []) == ["funnel.png", "lengths.png"]
    assert plots.draw(summary(labels={"QIC": {"是": 3}}), tmp_path, []) == ["funnel.png", "lengths.png", "labels.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["funnel.png", "labels.png", "lengths.png"]
    assert all(p.read_bytes().startswith(PNG) for p in tmp_path.iterdir())


def test_same_account_gives_the_same_bytes_without_a_program_or_date_in_them(tmp_path: Path) -> None:
    content = summary(labels={"QIC": {"yes": 3, "no": 1}})
    (tmp_path / "again").mkdir()
    for name in plots.draw(content, tmp_path, []):
        first = (tmp_path / name).read_bytes()
        plots.draw(content, tmp_path / "again", [])
        assert (tmp_path / "again" / name).read_bytes() == first
        assert b"atplotlib" not in first and b"tEXt" not in first


def test_only_a_font_with_a_glyph_for_each_character_counts_as_chinese(font: Path, tmp_path: Path) -> None:
    latin = Path(font_manager.findfont("DejaVu Sans"))
    broken = tmp_path / "NotoSansCJK.ttc"
    broken.write_bytes(b"no font")
    assert plots.chinese_font([latin, last_resort(), broken]) is None
    assert plots.chinese_font([latin, last_resort(), broken, tmp_path / "gone.ttf", font]) == font


def test_names_without_a_glyph_become_their_number_in_the_report() -> None:
    words = plots.Words(None)
    figure = plots._labels(summary(labels={"分类": {"病": 3, "yes": 2, "否": 1}}), words)
    found = texts(figure)
    assert {"label 1", "yes", "label 3", "task 1 (6 training rows)", "names by number: report.md"} <= set(found)
    assert all(text.isascii() for text in found)


def test_with_a_chinese_font_titles_and_names_are_chinese(font: Path) -> None:
    words = plots.Words(font)
    funnel = texts(plots._funnel(summary(), words))
    assert "每一步之后剩余 (行)" in funnel and "去重后" in funnel and "without duplicates" not in funnel
    labels = texts(plots._labels(summary(labels={"QIC": {"病": 3, "龘": 1}}), words))
    assert {"病", "标签 2", "QIC (4 训练集行数)"} <= set(labels)  # the font has no 龘


def test_every_text_of_a_picture_uses_its_font(font: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing: a box
        content = summary(labels={"QIC": {"病": 3}})
        figure = plots._labels(content, words := plots.Words(font))
        plots._set_font(figure, words)
        figure.savefig(tmp_path / "labels.png")
    assert {text.get_fontproperties().get_file() for text in figure.findobj(Text) if text.get_text()} == {str(font)}


def test_dollars_line_breaks_and_long_names_are_drawn_as_text(tmp_path: Path) -> None:
    odd = {"$x^$": 5, "two\nlines\x00": 4, "": 3, "a" * 80: 2}
    plots.draw(summary(labels={"$\\frac$": odd}), tmp_path, [])  # an unfinished formula would raise
    found = texts(plots._labels(summary(labels={"t": odd}), plots.Words(None)))
    assert {"$x^$", "two lines", "(empty)", "a" * 23 + "…"} <= set(found)


def test_funnel_shows_what_is_left_and_what_each_step_took() -> None:
    found = texts(plots._funnel(summary(), plots.Words(None)))
    assert {"12,345 (100 %)", "12,300 (99.6 %)  −45", "12,000 (97.2 %)  −300", "12,000 (97.2 %)"} <= set(found)


def test_lengths_compare_splits_of_different_bins_by_shares_of_their_rows() -> None:
    train, test = split(10), split(4)
    train["histogram"]["reply"] = [[10, 5], [20, 5]]
    test["histogram"]["reply"] = [[5, 2], [10, 0], [15, 2]]
    content = summary(splits={"train": train, "validation": split(0), "test": test})
    reply = plots._lengths(content, plots.Words(None)).axes[1]
    heights = [list(patch.get_data().values) for patch in reply.patches]
    # per 10 characters: train 50 % and 50 %; test 50 % in five characters are 100 % per ten
    assert heights == [[50, 50], [100, 0, 100]]
    assert reply.get_ylabel() == "share of rows\nper 10 characters"


def test_one_very_long_row_leaves_room_for_the_others() -> None:
    train = split(10)
    train["histogram"]["prompt"] = [[10, 5], [20, 4], [90000, 1]]
    prompt = plots._lengths(summary(splits={"train": train}), plots.Words(None)).axes[0]
    assert prompt.get_xlim() == (0, 20)


def test_empty_account_can_be_drawn(tmp_path: Path) -> None:
    nothing = {"read": 0, "kept": 0, "dropped": {}}
    empty = {name: split(0) for name in ("train", "validation", "test")}
    content = summary(rows=nothing, steps=[], made=0, splits=empty, labels={"t": {}})
    assert plots.draw(content, tmp_path, []) == ["funnel.png"]


def test_no_picture_needs_pyplot(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    plots.draw(summary(), tmp_path, [])
    assert ("matplotlib.pyplot" in sys.modules) == before
