"""Example texts of model cards, in the language of the model."""

from __future__ import annotations

from typing import NamedTuple


class Examples(NamedTuple):
    """Texts without quotation marks, because they stand in Python code.

    Attributes:
        text, similar, other: the second says what the first says, the third something else.
        masked: {mask} stands for the mask token.
        typo, corrected: of the same number of characters.
        greeting, question: the first turns of a dialogue.
        article, short: sources of a summary.
    """

    text: str
    similar: str
    other: str
    masked: str
    typo: str
    corrected: str
    greeting: str
    question: str
    article: str
    short: str


EXAMPLES = {
    "zh": Examples(
        text="今天天气真好",
        similar="天气不错",
        other="股票跌了",
        masked="今天天{mask}真好，我们去公园散步吧。",
        typo="今天天器真好",
        corrected="今天天气真好",
        greeting="你好",
        question="你是谁？",
        article="北京今天下了今年第一场雪，气温降到零下5度，市民到公园里赏雪。",
        short="他今天没有来。",
    ),
    "en": Examples(
        text="The weather is lovely today",
        similar="It is a beautiful day",
        other="The stock market fell",
        masked="A man is playing a {mask} on the stage.",
        typo="He likes to reed in the park",
        corrected="He likes to read in the park",
        greeting="Hello, how are you?",
        question="What did you do today?",
        article="The first snow of the year fell on the city today, and many people went to the park to see it.",
        short="He did not come today.",
    ),
    "ja": Examples(
        text="今日はとても良い天気です",
        similar="天気がいいですね",
        other="株価が下がりました",
        masked="今日はとても良い{mask}です。",
        typo="今日はとても良い点気です",
        corrected="今日はとても良い天気です",
        greeting="こんにちは",
        question="お名前は何ですか？",
        article="今日、東京で今年初めての雪が降り、多くの人が公園へ雪を見に出かけた。",
        short="彼は今日来なかった。",
    ),
    "ko": Examples(
        text="오늘은 날씨가 정말 좋아요",
        similar="날씨가 참 좋네요",
        other="주가가 떨어졌습니다",
        masked="오늘은 {mask}가 정말 좋아요.",
        typo="오늘은 날시가 정말 좋아요",
        corrected="오늘은 날씨가 정말 좋아요",
        greeting="안녕하세요",
        question="이름이 뭐예요?",
        article="오늘 서울에 올해 첫눈이 내려 많은 시민이 공원으로 눈 구경을 나왔다.",
        short="그는 오늘 오지 않았다.",
    ),
}


def examples_in(languages: list[str]) -> Examples:
    """Those of the first language that has some, else the English ones."""
    return next((EXAMPLES[language] for language in languages if language in EXAMPLES), EXAMPLES["en"])
