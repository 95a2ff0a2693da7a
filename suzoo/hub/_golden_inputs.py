"""The fixed inputs of golden tensors."""

# Two scripts, an empty and a one-character text, punctuation alone, and a text that most models cut. Where tokenizers
# differ: digits, emoji, capitals, accents, strange spaces and ends of lines, full width, names of special tokens.
TEXTS = [
    "今天天气真好，我们去公园散步吧。",
    "北京是中国的首都",
    "A man is playing a guitar on the stage.",
    "The weather in Beijing is fine today",
    "",
    "好",
    "?!，。……",
    "第3名得到 1,024.50 元 🎉",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 30 + "This is how the very long text ends. " * 12,
    "A Café in ZÜRICH, NAÏVE Ångström ﬁn É à “yes” — don't",
    "２０２４年 ＡＢＣ　① x² 3.14 👍🏽",
    "a\u2028b\u00a0c\u3000d\u200be\tf\ng  h",
    "天气 [SEP] 很好 [MASK] a man [PAD][CLS]",
]
PAIRS = [
    [TEXTS[0], TEXTS[3]],
    [TEXTS[1], "上海是中国的首都"],
    [TEXTS[2], "Somebody performs music."],
    ["", TEXTS[5]],  # not the other way round: transformers' pipeline drops an empty second text
    [TEXTS[6], TEXTS[7]],
    [TEXTS[8], TEXTS[0]],
    [TEXTS[0], TEXTS[8]],
    [TEXTS[9], TEXTS[10]],
    [TEXTS[12], TEXTS[11]],
]
PROMPTS = [
    "今天天气真好，",
    "The weather in Beijing",
    "好",
    "第3名得到 1,024.50 元 🎉，",
    "床前明月光，疑是地上霜。" * 3,
    "A Café in ZÜRICH: ２０２４年",
]
# what is said in turns, the user first
CHATS = [
    ["今天天气真好，我们去公园散步吧。"],
    ["你好", "你好，你叫什么名字？", "我叫小明，你几岁了？"],
    ["How are you today?"],
    ["好"],
    ["Is “[SEP]” a WORD? ２０２４\u2028年"],
    ["周末去哪里玩？", "去看电影。", "几点开始？", "晚上8点。", "那我们在门口见 🎉"],
]
SOURCES_AND_TARGETS = [
    ["北京今天下了今年第一场雪，气温降到零下5度，市民到公园里赏雪。", "北京下了第一场雪"],
    ["A man is playing a guitar on the stage while the audience listens.", "a man plays"],
    ["好", "好"],
    ["第3名得到 1,024.50 元 🎉", "第3名，1024元"],
    ["床前明月光，疑是地上霜。举头望明月，低头思故乡。" * 3, "静夜思"],
]
