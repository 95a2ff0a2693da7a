"""Languages are told from scripts and words, and what cannot be told is not named."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from suzoo.data import read_pairs
from suzoo.data.fingerprints import describe
from suzoo.data.languages import languages_of


@dataclass
class Row:
    text: str
    score: float


@pytest.mark.parametrize(
    ("rows", "languages"),
    [
        (["今天天气真好", "股票跌了"], ["zh"]),
        (["今日はとても良い天気ですね", "東京都"], ["ja"]),
        (["오늘은 날씨가 정말 좋아요"], ["ko"]),
        (["The man and the dog are in the park"], ["en"]),
        (["Der Hund ist in dem Haus, und die Katze auch"], []),  # Latin letters, and no English
        (["Погода сегодня хорошая"], []),
        (["好的，我们明天在公园门口见面吧，早上八点钟", "the weather is fine and you are here"], ["en", "zh"]),
        ([["你好", "在吗"], {"text": "天气"}, Row("今天", 1.0)], ["zh"]),
        (["123 …", ""], []),
        ([], []),
    ],
)
def test_languages_of_texts(rows, languages):
    assert languages_of(rows) == languages


@pytest.mark.parametrize("language", ["zh", "en"])
def test_data_is_described_with_its_languages(language):
    rows = read_pairs(f"embedded:pairs_{language}", split="dev")
    assert describe(f"embedded:pairs_{language}", "dev", rows)["languages"] == [language]


def test_long_data_is_looked_at_here_and_there():
    class Rows(list):
        def __getitem__(self, i):
            looked.append(i)
            return "今天"

    looked: list[int] = []
    assert languages_of(Rows([None] * 100_000), max_rows=50) == ["zh"]
    assert len(looked) == 50 and max(looked) > 90_000
