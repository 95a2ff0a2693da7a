"""Chinese words and sentence frames of `embedded:pairs_zh`; `_pairs` says how they are combined."""

from __future__ import annotations

# each inner tuple holds words for one thing
NAMES = (
    *(("小明",), ("李华",), ("王芳",), ("张伟",), ("刘洋",), ("陈静",)),
    *(("赵磊",), ("周婷",), ("吴刚",), ("孙丽",), ("郑强",), ("何雪",)),
)
TIMES = (
    ("昨天", "昨日"),
    ("今早", "今天清晨"),
    ("上周", "上星期"),
    ("前年", "两年前"),
    ("月底", "月末"),
    ("国庆", "十月一日"),
)
PLACES = (
    ("学校", "校园"),
    ("家中", "屋里"),
    ("饭店", "餐馆"),
    ("公司", "单位"),
    ("商场", "百货大楼"),
    ("车站", "候车厅"),
)
NUMBERS = (("两", "2"), ("三", "3"), ("四", "4"), ("五", "5"), ("六", "6"), ("七", "7"), ("八", "8"), ("九", "9"))
# {n} is the number: every noun brings its measure word
OBJECTS = (
    ("{n}本书", "{n}册图书"),
    ("{n}辆自行车", "{n}部单车"),
    ("{n}把雨伞", "{n}顶遮阳伞"),
    ("{n}张电影票", "{n}张观影券"),
    ("{n}件毛衣", "{n}件针织衫"),
    ("{n}支钢笔", "{n}支墨水笔"),
    ("{n}只杯子", "{n}个茶缸"),
    ("{n}台相机", "{n}部摄影机"),
)
NEGATIONS = ("没有", "并未")
# per verb: its forms, each with the words to choose from
SENSES = {
    "transfer": (
        {"give": ("送给", "赠给"), "get": ("收到", "得到")},
        {"give": ("借给", "租给"), "get": ("借来", "租来")},
        {"give": ("卖给", "售给"), "get": ("买到", "购得")},
        {"give": ("还给", "退给"), "get": ("要回", "取回")},
    ),
    "contact": (
        {"verb": ("表扬", "夸奖")},
        {"verb": ("批评", "责备")},
        {"verb": ("帮助", "协助")},
        {"verb": ("欺骗", "愚弄")},
        {"verb": ("邀请", "约请")},
        {"verb": ("采访", "访问")},
    ),
    "compare": (
        {"more": ("跑得快",), "less": ("跑得慢",)},
        {"more": ("来得早",), "less": ("来得晚",)},
        {"more": ("吃得多",), "less": ("吃得少",)},
        {"more": ("唱得好",), "less": ("唱得差",)},
    ),
}
# per frame: (subject, what is said of it, the same denied); a comparison is denied by exchanging its two sides
CLAUSES = {
    "transfer": (
        ("{a}", "{give}了{b}{things}", "{no}{give}{b}{things}"),
        ("{a}", "把{things}{give}了{b}", "{no}把{things}{give}{b}"),
        ("{b}", "从{a}那里{get}了{things}", "{no}从{a}那里{get}{things}"),
        ("{things}", "被{a}{give}了{b}", "{no}被{a}{give}{b}"),
    ),
    "contact": (
        ("{a}", "{verb}了{b}", "{no}{verb}{b}"),
        ("{a}", "对{b}进行了{verb}", "{no}对{b}进行{verb}"),
        ("{b}", "被{a}{verb}了", "{no}被{a}{verb}"),
        ("{b}", "受到了{a}的{verb}", "{no}受到{a}的{verb}"),
    ),
    "compare": (
        ("{a}", "比{b}{more}", None),
        ("{b}", "比{a}{less}", None),
        ("{b}", "没有{a}{more}", None),
        ("{a}", "没有{b}{less}", None),
    ),
}
ARRANGEMENTS = (
    "{time}{subject}在{place}{said}。",
    "{subject}{time}在{place}{said}。",
    "在{place}，{subject}{time}{said}。",
    "{time}在{place}，{subject}{said}。",
    "{subject}在{place}{said}，那是{time}的事。",
    "{subject}{said}，时间是{time}，地点是{place}。",
    "{time}，{subject}{said}，当时他们在{place}。",
    "在{place}{subject}{said}，那是{time}的事。",
)
OPENERS = ("", "听说", "我记得", "大家都知道")


def finish(sentence: str) -> str:
    return sentence
