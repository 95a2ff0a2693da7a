"""Requests to an assistant and what they ask for: `embedded:classes_zh`. Synthetic.

The ten classes are five pairs, a frequent class and a rarer neighbour: of each, one sentence in four is one that the
neighbour says too. There plain cross-entropy answers the frequent class, which is right nearly always and never finds
the rare one. Train is long-tailed, dev has as many rows of every class; they share the words and no sentence.
"""

from __future__ import annotations

import random
import re

from suzoo.data.embedded._draw import below, generator, pick, shuffled

DEV_ROWS = 24  # of every class
SLOTS = {
    "day": ("今天", "明天", "后天", "周一", "周三", "周五", "周末", "下周二"),
    "time": ("早上六点", "早上七点半", "上午九点", "中午十二点", "下午三点", "傍晚六点", "晚上八点", "晚上十点"),
    "city": ("北京", "上海", "广州", "成都", "杭州", "西安", "南京", "武汉", "长沙", "青岛"),
    "singer": ("小雨", "阿青", "老陈", "云朵", "海风", "大鹏", "晓月", "南山"),
    "food": ("川菜", "火锅", "饺子", "烤鱼", "米线", "寿司", "披萨", "粤菜", "拉面", "包子"),
    "task": ("开会", "交电费", "接孩子", "取快递", "买药", "给妈妈打电话", "还书", "浇花"),
}
# class: rows in train, what only it says, what it shares with its neighbour
PAIRS = (
    (
        {
            "天气": (640, ("{day}{city}会下雨吗", "{city}{day}最高多少度", "查一下{city}{day}的天气预报")),
            "空气": (16, ("{city}{day}的空气好不好", "{day}{city}有没有雾霾", "查一下{city}{day}的空气质量")),
        },
        ("{day}在{city}适合出门吗", "{city}{day}外面怎么样"),
    ),
    (
        {
            "火车": (400, ("买一张{day}去{city}的火车票", "{day}到{city}的高铁还有座吗", "查{day}开往{city}的列车")),
            "飞机": (24, ("订一张{day}飞{city}的机票", "{day}去{city}的航班几点起飞", "查{day}飞往{city}的航班")),
        },
        ("{day}怎么去{city}最快", "帮我安排{day}去{city}的行程"),
    ),
    (
        {
            "音乐": (256, ("放一首{singer}的歌", "{time}给我放{singer}的新专辑", "我{day}想听{singer}唱歌")),
            "电台": (36, ("打开{city}的广播", "{time}我想听{city}电台", "调到{city}交通台")),
        },
        ("{day}{time}放点好听的", "{time}来点声音陪我"),
    ),
    (
        {
            "闹钟": (160, ("{day}{time}叫我起床", "定一个{day}{time}的闹钟", "把{day}的闹钟改到{time}")),
            "日程": (56, ("{day}{time}提醒我{task}", "记一下{day}{time}要{task}", "把{day}{task}写进日程")),
        },
        ("{day}{time}喊我一声", "{day}别让我忘了{time}的事"),
    ),
    (
        {
            "餐厅": (100, ("在{city}找一家{food}馆子", "订{day}{time}吃{food}的位子", "{city}哪家{food}做得好")),
            "外卖": (80, ("{time}点一份{food}送到家", "{time}送一份{food}过来", "叫一份{food}外卖，{time}吃")),
        },
        ("{time}想吃{food}了", "{day}{time}吃{food}怎么样"),
    ),
)


def _sentence(rng: random.Random, templates: tuple[str, ...], split: str) -> str:
    template = pick(rng, templates)
    while True:
        drawn = {name: below(rng, len(SLOTS[name])) for name in re.findall(r"{(\w+)}", template)}
        if (sum(drawn.values()) % 4 == 3) == (split == "dev"):
            return template.format(**{name: SLOTS[name][index] for name, index in drawn.items()})


def classes(split: str) -> list[dict]:
    """Rows with `text` and `label`. Train 1768 rows, 640 of the most frequent class and 16 of the rarest; dev 240."""
    rng = generator("classes", "zh", split)
    rows = []
    for pair, shared in PAIRS:
        for label, (num_rows, own) in pair.items():
            for _ in range(num_rows if split == "train" else DEV_ROWS):
                templates = shared if rng.random() < 0.25 else own
                rows.append({"text": _sentence(rng, templates, split), "label": label})
    return shuffled(rng, rows)
