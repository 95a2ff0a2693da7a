"""Dialogues whose last answer needs an earlier turn: `embedded:dialogues_zh` and `embedded:dialogues_en`. Synthetic.

Two speakers tell each other facts about themselves, sometimes correct one, and chat a little. At the end the first
asks for some of the facts: of the first speaker or of the second, or one that was never told. The question alone says
neither the answer nor where it stands, and who said a thing is as important as what was said.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from suzoo.data.embedded._draw import below, generator, pick, shuffled

SIZES = {"train": 4000, "dev": 400}
TOPICS = ("name", "city", "food", "pet", "job", "color")


@dataclass(frozen=True, slots=True)
class Language:
    values: dict[str, tuple[str, ...]]
    tell: dict[str, tuple[str, ...]]
    """What a speaker says of himself."""
    and_you: tuple[str, ...]
    ask_mine: dict[str, tuple[str, ...]]
    """The first speaker asks for what he himself has told."""
    ask_yours: dict[str, tuple[str, ...]]
    answer_mine: dict[str, str]
    """The second speaker says what the first has told."""
    answer_yours: dict[str, str]
    unknown: str
    """The fact was never told."""
    correct: tuple[str, ...]
    noted: tuple[str, ...]
    chat: tuple[tuple[str, str], ...]


CHINESE = Language(
    values={
        "name": ("小明", "李华", "王芳", "张伟", "刘洋", "陈静", "赵磊", "周婷"),
        "city": ("北京", "上海", "广州", "成都", "杭州", "西安", "南京", "武汉"),
        "food": ("饺子", "面条", "火锅", "米饭", "包子", "烤鸭", "豆腐", "月饼"),
        "pet": ("猫", "狗", "兔子", "乌龟", "金鱼", "鹦鹉", "仓鼠", "鸽子"),
        "job": ("老师", "医生", "司机", "厨师", "律师", "记者", "护士", "画家"),
        "color": ("红色", "蓝色", "绿色", "黄色", "白色", "黑色", "紫色", "灰色"),
    },
    tell={
        "name": ("我叫{}。", "我的名字是{}。"),
        "city": ("我住在{}。", "我家在{}。"),
        "food": ("我最爱吃{}。", "我最喜欢的菜是{}。"),
        "pet": ("我养了一只{}。", "我家里有一只{}。"),
        "job": ("我是{}。", "我的工作是{}。"),
        "color": ("我喜欢{}。", "我最喜欢的颜色是{}。"),
    },
    and_you=("你呢？", "那你呢？"),
    ask_mine={
        "name": ("你还记得我叫什么吗？", "我的名字是什么？"),
        "city": ("你还记得我住在哪里吗？", "我家在哪里？"),
        "food": ("你还记得我爱吃什么吗？", "我最喜欢的菜是什么？"),
        "pet": ("你还记得我养了什么吗？", "我家里有什么动物？"),
        "job": ("你还记得我是做什么的吗？", "我的工作是什么？"),
        "color": ("你还记得我喜欢什么颜色吗？", "我最喜欢的颜色是什么？"),
    },
    ask_yours={
        "name": ("对了，你叫什么？", "你的名字是什么？"),
        "city": ("对了，你住在哪里？", "你家在哪里？"),
        "food": ("对了，你爱吃什么？", "你最喜欢的菜是什么？"),
        "pet": ("对了，你养了什么？", "你家里有什么动物？"),
        "job": ("对了，你是做什么的？", "你的工作是什么？"),
        "color": ("对了，你喜欢什么颜色？", "你最喜欢的颜色是什么？"),
    },
    answer_mine={
        "name": "你叫{}。", "city": "你住在{}。", "food": "你最爱吃{}。",
        "pet": "你养了一只{}。", "job": "你是{}。", "color": "你喜欢{}。",
    },
    answer_yours={
        "name": "我叫{}。", "city": "我住在{}。", "food": "我最爱吃{}。",
        "pet": "我养了一只{}。", "job": "我是{}。", "color": "我喜欢{}。",
    },
    unknown="这个你还没有告诉我。",
    correct=("等等，我说错了，", "不对，"),
    noted=("好的，我记住了。", "没关系，知道了。"),
    chat=(
        ("今天天气真好。", "是啊，适合出去走走。"),
        ("你会唱歌吗？", "会唱一点。"),
        ("你吃过饭了吗？", "刚吃完。"),
        ("最近忙不忙？", "还可以，不太忙。"),
        ("我有点累了。", "那就休息一会儿吧。"),
    ),
)  # fmt: skip
ENGLISH = Language(
    values={
        "name": ("Alice", "Bruno", "Carla", "David", "Elena", "Frank", "Grace", "Henry"),
        "city": ("Paris", "London", "Madrid", "Berlin", "Vienna", "Athens", "Dublin", "Prague"),
        "food": ("noodles", "soup", "pizza", "rice", "salad", "cheese", "pancakes", "curry"),
        "pet": ("cat", "dog", "rabbit", "turtle", "parrot", "hamster", "pony", "goose"),
        "job": ("teacher", "doctor", "driver", "cook", "lawyer", "reporter", "nurse", "painter"),
        "color": ("red", "blue", "green", "yellow", "white", "black", "purple", "gray"),
    },
    tell={
        "name": ("I am called {}.", "My name is {}."),
        "city": ("I live in {}.", "My home is in {}."),
        "food": ("I love to eat {}.", "My favorite dish is {}."),
        "pet": ("I keep a {}.", "There is a {} in my home."),
        "job": ("I work as a {}.", "My job is that of a {}."),
        "color": ("I like {} best.", "My favorite color is {}."),
    },
    and_you=("And you?", "What about you?"),
    ask_mine={
        "name": ("Do you remember what I am called?", "What is my name?"),
        "city": ("Do you remember where I live?", "Where is my home?"),
        "food": ("Do you remember what I love to eat?", "What is my favorite dish?"),
        "pet": ("Do you remember what animal I keep?", "What animal is in my home?"),
        "job": ("Do you remember what I work as?", "What is my job?"),
        "color": ("Do you remember what color I like?", "What is my favorite color?"),
    },
    ask_yours={
        "name": ("By the way, what are you called?", "What is your name?"),
        "city": ("By the way, where do you live?", "Where is your home?"),
        "food": ("By the way, what do you love to eat?", "What is your favorite dish?"),
        "pet": ("By the way, what animal do you keep?", "What animal is in your home?"),
        "job": ("By the way, what do you work as?", "What is your job?"),
        "color": ("By the way, what color do you like?", "What is your favorite color?"),
    },
    answer_mine={
        "name": "You are called {}.", "city": "You live in {}.", "food": "You love to eat {}.",
        "pet": "You keep a {}.", "job": "You work as a {}.", "color": "You like {} best.",
    },
    answer_yours={
        "name": "I am called {}.", "city": "I live in {}.", "food": "I love to eat {}.",
        "pet": "I keep a {}.", "job": "I work as a {}.", "color": "I like {} best.",
    },
    unknown="You have not told me that yet.",
    correct=("Wait, I was wrong. ", "No, that is not right. "),
    noted=("All right, I will remember.", "Fine, got it."),
    chat=(
        ("The weather is fine today.", "Yes, just right for a walk."),
        ("Can you sing?", "A little."),
        ("Did you have lunch?", "I just had it."),
        ("Are you busy these days?", "Not too busy."),
        ("I am a bit tired.", "Then have a rest."),
    ),
)  # fmt: skip
LANGUAGES = {"zh": CHINESE, "en": ENGLISH}


def _dialogue(rng: random.Random, language: Language, joiner: str) -> dict:
    topics = shuffled(rng, TOPICS)[: 2 + below(rng, 2)]
    turns: list[str] = []
    # what was told last, and in which turn: (topic, whose) -> (value, turn)
    told: dict[tuple[str, str], tuple[str, int]] = {}
    for topic in topics:
        mine, yours = shuffled(rng, language.values[topic])[:2]
        told[topic, "mine"], told[topic, "yours"] = (mine, len(turns)), (yours, len(turns) + 1)
        turns += [
            pick(rng, language.tell[topic]).format(mine) + joiner + pick(rng, language.and_you),
            pick(rng, language.tell[topic]).format(yours),
        ]
        if rng.random() < 0.25:
            value = pick(rng, [value for value in language.values[topic] if value not in (mine, yours)])
            told[topic, "mine"] = value, len(turns)
            turns += [
                pick(rng, language.correct) + pick(rng, language.tell[topic]).format(value),
                pick(rng, language.noted),
            ]
        if rng.random() < 0.3:
            turns += pick(rng, language.chat)
    asked = shuffled(rng, topics)[: 1 + below(rng, len(topics))]
    if rng.random() < 0.15:
        asked[-1] = pick(rng, [topic for topic in TOPICS if topic not in topics])
    evidence = -1
    for topic in asked:
        whose = pick(rng, ("mine", "mine", "yours"))
        if topic not in topics:
            evidence = -1
            turns += [pick(rng, language.ask_mine[topic]), language.unknown]
        elif whose == "mine":
            value, evidence = told[topic, "mine"]
            turns += [pick(rng, language.ask_mine[topic]), language.answer_mine[topic].format(value)]
        else:
            value, evidence = told[topic, "yours"]
            turns += [pick(rng, language.ask_yours[topic]), language.answer_yours[topic].format(value)]
    return {"turns": turns, "evidence": evidence}


def dialogues(language: str, split: str) -> list[dict]:
    """Rows with `turns` (6 to 22 of them) and `evidence`, the number of the turn (from 0) that the last one needs.

    `evidence` is -1 where the last turn says that the fact was never told. Train 4000 rows, dev 400.
    """
    rng = generator("dialogues", language, split)
    return [_dialogue(rng, LANGUAGES[language], "" if language == "zh" else " ") for _ in range(SIZES[split])]
