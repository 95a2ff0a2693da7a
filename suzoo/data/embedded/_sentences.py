"""Sentences, `embedded:text_zh` and `embedded:text_en`, and some with typos, `embedded:typos_zh`. Synthetic.

The sentences are those of the embedded pairs. A typo puts a character of the same or a like sound or shape into a
word, so that the rest of the word and the sentence tell what is meant. Names and numbers are left alone, because any
of them could stand there.
"""

from __future__ import annotations

import random

from suzoo.data.embedded import _pairs
from suzoo.data.embedded._draw import generator, pick, shuffled

SIZES = {"train": 6000, "dev": 500}
# word -> its misspellings, all of the same length
MISSPELLINGS = {
    "昨天": ("做天", "坐天"), "昨日": ("作日", "做日"), "今早": ("今找", "金早"),
    "清晨": ("清辰", "青晨"), "上周": ("上州", "尚周"), "上星期": ("上星其", "上新期"),
    "前年": ("钱年", "浅年"), "月底": ("月低", "月抵"), "月末": ("月莫", "越末"),
    "国庆": ("国清", "果庆"), "学校": ("学笑", "学较"), "校园": ("校圆", "笑园"),
    "家中": ("家钟", "加中"), "屋里": ("屋理", "物里"), "饭店": ("饭点", "反店"),
    "餐馆": ("餐管", "参馆"), "公司": ("公私", "工司"), "单位": ("单为", "丹位"),
    "商场": ("商厂", "伤场"), "大楼": ("大搂", "大娄"), "车站": ("车占", "车战"),
    "候车厅": ("后车厅", "候车听"), "图书": ("图输", "途书"), "自行车": ("自形车", "字行车"),
    "雨伞": ("雨散", "语伞"), "遮阳伞": ("遮杨伞", "者阳伞"), "电影票": ("电影漂", "电映票"),
    "观影券": ("观影卷", "关影券"), "毛衣": ("毛依", "毛医"), "针织衫": ("针知衫", "真织衫"),
    "钢笔": ("刚笔", "钢比"), "墨水笔": ("墨水比", "默水笔"), "杯子": ("杯字", "悲子"),
    "茶缸": ("茶刚", "查缸"), "相机": ("像机", "相几"), "摄影机": ("摄影几", "射影机"),
    "送给": ("松给", "宋给"), "赠给": ("增给", "曾给"), "借给": ("界给", "介给"),
    "租给": ("组给", "祖给"), "还给": ("环给", "孩给"), "收到": ("收道", "手到"),
    "表扬": ("表杨", "表样"), "夸奖": ("夸讲", "跨奖"), "批评": ("批平", "披评"),
    "责备": ("责被", "则备"), "帮助": ("帮住", "邦助"), "协助": ("协住", "鞋助"),
    "欺骗": ("欺片", "期骗"), "愚弄": ("鱼弄", "遇弄"), "邀请": ("邀青", "腰请"),
    "约请": ("约清", "月请"), "采访": ("采防", "彩访"), "访问": ("防问", "访文"),
    "受到": ("受道", "瘦到"), "没有": ("没又", "莫有"), "并未": ("并味", "病未"),
    "那里": ("那理", "哪里"), "跑得快": ("跑得块", "炮得快"), "跑得慢": ("跑得曼", "炮得慢"),
    "来得早": ("来得找", "莱得早"), "来得晚": ("来得碗", "莱得晚"), "唱得好": ("场得好", "唱得号"),
    "听说": ("厅说", "听硕"), "大家": ("大加", "打家"), "当时": ("当是", "当实"),
    "时间": ("时见", "事间"), "地点": ("地店", "第点"),
}  # fmt: skip


def sentences(language: str, split: str) -> list[dict]:
    """Rows with `text`, no two alike. Train 6000 rows, dev 500."""
    return [{"text": text} for text in _sentences(generator("text", language, split), language, split)]


def typos(split: str) -> list[dict]:
    """Rows with `source`, a sentence with up to two typos, and `target`, the same without; a fifth has none.

    Both have the same length. Train 6000 rows, dev 500.
    """
    rng = generator("typos", split)
    return [{"source": _misspell(rng, text), "target": text} for text in _sentences(rng, "zh", split)]


def confusions() -> dict[str, list[str]]:
    """For every character that `typos_zh` writes wrongly, the characters that were meant."""
    meant: dict[str, dict[str, None]] = {}
    for word, misspellings in MISSPELLINGS.items():
        for misspelling in misspellings:
            for wrong, right in zip(misspelling, word, strict=True):
                if wrong != right:
                    meant.setdefault(wrong, {})[right] = None
    return {wrong: list(right) for wrong, right in meant.items()}


def _sentences(rng: random.Random, language: str, split: str) -> list[str]:
    words = _pairs.LANGUAGES[language]
    found: dict[str, None] = {}  # a set that keeps the order
    while len(found) < SIZES[split]:
        event = _pairs.draw_event(rng, words)
        found[_pairs.tell(words, event, _pairs.draw_telling(rng, words, event.frame, split))] = None
    return list(found)


def _misspell(rng: random.Random, text: str) -> str:
    words = shuffled(rng, [word for word in MISSPELLINGS if word in text])
    count = 0 if rng.random() < 0.2 else 1 + (rng.random() < 0.4)
    for word in words[:count]:
        text = text.replace(word, pick(rng, MISSPELLINGS[word]), 1)
    return text
