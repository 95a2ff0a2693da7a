"""Short news and their titles: `embedded:titles_zh` and `embedded:titles_en`. Synthetic.

A title says who does what where: the company named at first, the city of the event and not the company's home, and the
company's act, not that of the rival that the article also mentions. The article tells it in other words and in several
sentences, so neither its first sentence nor its first company and city make the title. Train and dev share the words
and no article template.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from suzoo.data.embedded._draw import below, generator, other, shuffled

SIZES = {"train": 4000, "dev": 400}


@dataclass(frozen=True, slots=True)
class Language:
    companies: tuple[str, ...]
    cities: tuple[str, ...]
    acts: tuple[tuple[str, str], ...]
    """The act in the article's words and in the title's."""
    backgrounds: tuple[str, ...]
    """Sentences about {rival} and its {rival_act}."""
    subjects: tuple[str, ...]
    """Sentences that name {company} and its {home}."""
    events: tuple[str, ...]
    """Sentences that tell {act} in {city} without naming the company."""
    closings: tuple[str, ...]
    title: str
    joiner: str


CHINESE = Language(
    companies=("星河公司", "海燕集团", "东风电子", "蓝天科技", "长城乳业", "金桥物流", "绿洲食品", "飞马汽车"),
    cities=("北京", "上海", "广州", "成都", "杭州", "西安", "南京", "武汉"),
    acts=(
        ("推出一款新型手机", "发布新手机"),
        ("兴建一座大型工厂", "建厂"),
        ("招收三百名员工", "招人"),
        ("关掉两家门店", "关店"),
        ("办起一所培训学校", "办学"),
        ("把产品的价格下调一成", "降价"),
        ("向灾区捐出一批物资", "捐款捐物"),
        ("组织一场马拉松比赛", "举办长跑"),
    ),
    backgrounds=(
        "近年来行业竞争激烈，{rival}去年曾{rival_act}。",
        "不久前，{rival}刚刚{rival_act}，引起了关注。",
        "同行{rival}也曾{rival_act}。",
        "此前有消息称{rival}打算{rival_act}。",
    ),
    subjects=(
        "{company}的总部设在{home}。",
        "总部位于{home}的{company}已有二十年历史。",
        "{company}由几位年轻人在{home}创立。",
        "从{home}起步的{company}一直发展很快。",
    ),
    events=(
        "昨天，该公司宣布将在{city}{act}。",
        "它的负责人表示，下个月会在{city}{act}。",
        "记者了解到，这家企业已经决定在{city}{act}。",
        "按照计划，这家企业年底前要在{city}{act}。",
    ),
    closings=("市民对此表示欢迎。", "专家认为影响有待观察。", "更多细节尚未公布。", "具体时间另行通知。"),
    title="{company}在{city}{short}",
    joiner="",
)
ENGLISH = Language(
    companies=("Starline", "Seabird", "Eastwind", "Bluesky", "Oakwood", "Goldgate", "Greenfield", "Pegasus"),
    cities=("Paris", "London", "Madrid", "Berlin", "Vienna", "Athens", "Dublin", "Prague"),
    acts=(
        ("bring a new phone to market", "launches phone"),
        ("put up a large factory", "builds plant"),
        ("take on three hundred workers", "hires staff"),
        ("shut two of its shops", "closes stores"),
        ("set up a training school", "opens academy"),
        ("make its products a tenth cheaper", "cuts prices"),
        ("give supplies to flood victims", "donates goods"),
        ("organize a marathon", "holds race"),
    ),
    backgrounds=(
        "Competition is fierce, and last year {rival} promised to {rival_act}.",
        "Not long ago {rival} was the first to {rival_act}.",
        "Its rival {rival} had also wanted to {rival_act}.",
        "There were rumors that {rival} would {rival_act}.",
    ),
    subjects=(
        "{company} has its headquarters in {home}.",
        "Based in {home}, {company} is twenty years old.",
        "{company} was founded by young people in {home}.",
        "Coming from {home}, {company} has grown fast.",
    ),
    events=(
        "Yesterday the firm said that it will {act} in {city}.",
        "Its head announced a plan to {act} in {city} next month.",
        "As we have learned, the company has decided to {act} in {city}.",
        "By the end of the year the company wants to {act} in {city}.",
    ),
    closings=("People welcomed the news.", "Experts will wait and see.", "No details were given.", "The date is open."),
    title="{company} {short} in {city}",
    joiner=" ",
)
LANGUAGES = {"zh": CHINESE, "en": ENGLISH}


def _article(rng: random.Random, language: Language, split: str) -> dict:
    company, home, act = (
        int(rng.random() * len(items)) for items in (language.companies, language.cities, language.acts)
    )
    rival = other(rng, company, len(language.companies))
    city = other(rng, home, len(language.cities))
    rival_act = other(rng, act, len(language.acts))
    background, subject, event = (below(rng, 4) for _ in range(3))
    # a template is these three together: one event sentence in four is kept from each of the others for dev
    while ((background + subject + event) % 4 == 3) != (split == "dev"):
        event = below(rng, 4)
    slots = {
        "company": language.companies[company],
        "home": language.cities[home],
        "city": language.cities[city],
        "act": language.acts[act][0],
        "short": language.acts[act][1],
        "rival": language.companies[rival],
        "rival_act": language.acts[rival_act][0],
    }
    sentences = [language.subjects[subject], language.events[event]]
    sentences.insert(0 if rng.random() < 0.5 else 2, language.backgrounds[background])
    closing = shuffled(rng, language.closings)[: 1 if rng.random() < 0.5 else 0]
    return {
        "source": language.joiner.join([*sentences, *closing]).format(**slots),
        "target": language.title.format(**slots),
    }


def titles(language: str, split: str) -> list[dict]:
    """Rows with `source`, the article, and `target`, its title. Train 4000 rows, dev 400."""
    rng = generator("titles", language, split)
    return [_article(rng, LANGUAGES[language], split) for _ in range(SIZES[split])]


def queries(language: str, split: str) -> list[dict]:
    """Titles that look for their articles: `query` and `positive`."""
    return [{"query": row["target"], "positive": row["source"]} for row in titles(language, split)]
