"""The members of the zoo in one table: from what, on what, by which command, how long, scored on what.

`suzoo zoo build NAME` reads it; docs/zoo.md says what came out. No torch here, so that `suzoo zoo list` is quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class Source:
    """A file which the user has got where `repository` says."""

    file: str
    sha256: str
    repository: str
    licence: str
    highest: float = 1.0
    """Pairs: the label of texts that say the same."""
    kind: Literal["pairs", "classes", "sources and targets", "texts", "dialogues"] = "pairs"
    columns: tuple[str, ...] = ("text1=text1", "text2=text2", "score=label")
    """As --columns of the training scripts takes them."""
    holds: str = "pairs with the columns text1, text2 and label"
    """What the file has, for a user who lacks it."""


_BY_SHAWROAD = "github.com/shawroad/CoSENT_Pytorch"
# training part and test part of one set
_LCSTS = partial(
    Source,
    repository="github.com/CLUEbenchmark/CLGE",
    licence="research only (HIT-SZ)",
    kind="sources and targets",
    columns=("source=text", "target=title"),
    holds="LCSTS with the columns title and text",
)
_LCCC = partial(
    Source,
    repository="github.com/thu-coai/CDial-GPT",
    licence="MIT",
    kind="dialogues",
    columns=(),
    holds="LCCC's toy part, a field turns",
)
_WITH_TURNS = partial(Source, kind="dialogues", columns=(), holds="dialogues, a field turns")
_CSL = partial(
    Source,
    licence="Apache-2.0 (CSL)",
    kind="texts",
    columns=("text=title",),
    holds="CSL with the columns title and abstract",
)
_OF_SIMCLUE = partial(Source, repository="github.com/CLUEbenchmark/SimCLUE", licence="no licence file, academic use")
_SICK = partial(
    Source,
    repository="github.com/brmson/dataset-sts",
    licence="CC BY-NC-SA 3.0",
    highest=5.0,
    columns=("text1=text1", "text2=text2", "score=relatedness"),
    holds="SICK with the columns text1, text2 and relatedness",
)
SOURCES = {
    "stsb": Source(
        "stsb_zh.train.tsv",
        "81e6ec55bb14c59756cc8a2c85ad6d8c7c5a52b5d828a888166bdbea6d32e302",
        _BY_SHAWROAD,
        "none stated; machine translation of STS-B, research use",
        highest=5.0,
    ),
    "atec": Source(
        "atec.train_partial.tsv",
        "529abfad3deb17f21d27587dfd37e0629c3ff9f1128ad04f07bd5f8f4d8cd671",
        "github.com/IceFlameWorm/NLP_Datasets",
        "Ant Financial competition data, no open licence",
    ),
    "simclue": _OF_SIMCLUE("simclue_pair.1w.tsv", "736cc52b357a3237a6334d9b53ac2994173e7f109132aa02864f12ff782629ea"),
    "simclue-texts": _OF_SIMCLUE(
        "simclue_rank.1w.tsv",
        "1aca3535ef209ee44733000d176b28e81225937cf7506305f2ec16255d7e9684",
        kind="texts",
        columns=(),
        holds="triples with the columns query, pos and neg",
    ),
    "tatoeba": Source(
        "tatoeba_en_zh.tsv",
        "a461b329852b56c0719856518a879c84873fa7374ca7c46614b33ca5dbdf9728",
        "github.com/YC-Coder-Chen/English-Chinese-Translator",
        "CC BY 2.0 FR (Tatoeba)",
        kind="texts",
        columns=("text=zh",),
        holds="sentences with the columns en and zh",
    ),
    "daily": Source(
        "xdailydialog_zh.train.jsonl",
        "4519de038b5baf5b1980ea88098c9e5b388253f34d840b551d2048e2b67255ce",
        "github.com/liuzeming01/XDailyDialog",
        "CC BY-NC-SA 4.0 (DailyDialog)",
        kind="dialogues",
        columns=(),
        holds="XDailyDialog's Chinese part, a field turns",
    ),
    "stsb-test": Source(
        "stsb_zh.dev.tsv",
        "9fd563e4d38e019a1c5adbfea0db3788a6dd49489d4fcee7ff08e7418414699a",
        _BY_SHAWROAD,
        "as STS-B zh",
        highest=5.0,
    ),
    "lcqmc-test": Source(
        "lcqmc.dev.tsv",
        "b4fa63e1f85cc1230a60b8ba11a697494e1599318bb1e67b28114bcdda48f1ce",
        _BY_SHAWROAD,
        "research only, by application (HIT-SZ)",
    ),
    "bq-test": Source(
        "bq.dev.tsv",
        "009e85affc34c032e04800fcee947e58989d7a3799b7bf301d7972f739dc9dcc",
        _BY_SHAWROAD,
        "research only, by application (HIT-SZ)",
    ),
    "pawsx-test": Source(
        "pawsx_zh.dev.tsv",
        "832f0ec202b5114fe1c1c4255f53e9acd2ea4bf5a75ea9acc9fa68e16223734f",
        _BY_SHAWROAD,
        "free for any use (Google)",
    ),
    "tnews": Source(
        "tnews_fewclue.jsonl",
        "5e131515e16d64313a2cd6f06c8555c2517c006d0328b7837f7aa6c931234f73",
        "github.com/CLUEbenchmark/FewCLUE",
        "no licence file, academic use",
        kind="classes",
        columns=(),
        holds="TNEWS: train_few_all, dev_few_all and test_public in one file, fields text and label",
    ),
    "essays": Source(
        "literature_essays.txt.gz",
        "c279087a5037e809f97bc057f16945b18cde9e31cf8fc4304caa03934d942c9e",
        "github.com/lancopku/Chinese-Literature-NER-RE-Dataset",
        "none stated, research use",
        kind="texts",
        columns=(),
        holds="the sentences, one a line",
    ),
    "abc": Source(
        "abc.txt.gz",
        "b8fe180b999598c9e1f7e17c280ad76c212adc175167799fa7a01b8b8af24cad",
        "github.com/nltk/nltk_data",
        "public domain, says its index",
        kind="texts",
        columns=(),
        holds="the sentences of the corpus abc, one a line",
    ),
    "climp-test": Source(
        "climp_zh.jsonl.gz",
        "202f7e757b80dbc6ed63f6e0b640344daf2afe4e8970d3ec4d07f910e935ad2a",
        "github.com/beileixiang/CLiMP",
        "none stated",
        kind="sources and targets",
        columns=("source=bad", "target=good"),
        holds="minimal pairs, fields good and bad",
    ),
    "lcsts": _LCSTS(
        "lcsts.train.tsv",
        "39f81c0af3040c7b516a85941b1e859b30a0e99d02dae58c11e0dbe2b586906d",
    ),
    "lcsts-test": _LCSTS(
        "lcsts.val.tsv",
        "a0abe72cf68ff77825a1c5a7eb0234864bd8397243d1305cc0daf2595ce55dca",
    ),
    "lccc": _LCCC(
        "lccc_toy.train.jsonl",
        "aa0dacc48a7f99e141c85b555264df1c36dbe95ab797f2a821bbd1fd21541285",
    ),
    "lccc-test": _LCCC(
        "lccc_toy.valid.jsonl",
        "1be3c3f651282c1f8196bbc0c165620fbce48f888fae834c6979c4f980a70260",
    ),
    "kdconv": _WITH_TURNS(
        "kdconv.dev.jsonl",
        "6512102d77803a9966516de4c3a809154690d6c42f668c2b571eaf94e536bdeb",
        "github.com/thu-coai/KdConv",
        "Apache-2.0",
    ),
    "crosswoz": _WITH_TURNS(
        "crosswoz.val.jsonl",
        "fd3258f31b0735b0cbecc2f54ce54382be201a5d9a4df3956382edd38db51b99",
        "github.com/thu-coai/CrossWOZ",
        "Apache-2.0",
    ),
    "chatterbot": _WITH_TURNS(
        "chatterbot_zh.jsonl",
        "1246db6caf23c055378db6030ca6551444d2a2334be2e587ae0d9f6f069b2530",
        "github.com/gunthercox/chatterbot-corpus",
        "BSD-3-Clause",
    ),
    "csl": _CSL(
        "csl_ydli.dev.tsv",
        "ba12f3111b8109b6d609fbb870f204c7eac151eb7bc2c97b3870bdda62326974",
        "github.com/ydli-ai/CSL",
    ),
    "csl-clge": _CSL(
        "csl_clge.val.tsv",
        "fef593a04740f3f5ea444027de5f32d2eea4dcff4f5cbe3fd29ea4ed9c0a2642",
        "github.com/CLUEbenchmark/CLGE",
    ),
    "stsb-en": Source(
        "stsb_en.train.tsv",
        "0be6fc07550083647587bec01611ce8162bc02be8f9d5c322e3d8f751e33a8f9",
        "github.com/shibing624/text2vec",
        "STS benchmark, mixed sources, research use",
        highest=5.0,
    ),
    "sick-en": _SICK(
        "sick.train.tsv",
        "d399a3714a3d3e6de61893b21308973792e933dcd789ebc263d450d827a237c1",
    ),
    "stsb-en-test": Source(
        "stsb_en.dev.tsv",
        "57941613a8567e5a7b3b7a7cc23f1b6650659a2f511ddbf8bb8f0351734cf77d",
        "github.com/shibing624/text2vec",
        "as STS-B",
        highest=5.0,
    ),
    "sick-en-test": _SICK(
        "sick.dev.tsv",
        "dac34a21ef86403404777ab968d7c0fe05660068e49f8e2a7af8002dd2c16d25",
    ),
}


class Part(NamedTuple):
    """Some rows of a source: the last `last`, all but the last `without_last`, of those each `every`th, of those the
    first `first`."""

    source: str
    last: int | None = None
    without_last: int = 0
    first: int | None = None
    every: int = 1

    def of(self, rows: Sequence[Any]) -> Sequence[Any]:
        rows = rows[-self.last :] if self.last else rows[: len(rows) - self.without_last]
        return rows[:: self.every][: self.first]


ATEC_TESTED = 4000  # rows at the end of the file, which has no dev part
TNEWS_TESTED = 2010  # test_public, at the end of the file
TESTS = {
    "STS-B zh": Part("stsb-test"),
    "LCQMC": Part("lcqmc-test", first=1500),
    "BQ": Part("bq-test", first=1500),
    "ATEC": Part("atec", last=ATEC_TESTED, first=1500),
    "PAWS-X zh": Part("pawsx-test", first=1500),
}


@dataclass(frozen=True)
class Member:
    about: str
    command: str
    """Arguments of `suzoo train`; {base} is what it starts from, {data} the folder of the prepared files, {first} what
    `first` has made."""
    minutes: int
    """On two quiet CPU cores, once what it is made from is there."""
    base: str
    """A name on the Hub, or `zoo:` and another member."""
    base_licence: str
    train: Mapping[str, Part]
    num_dev: Mapping[str, int]
    """Rows of each training source that choose the best weights, and are not trained on."""
    tests: Mapping[str, Part] = field(default_factory=lambda: dict(TESTS))
    texts: Sequence[Part] = ()
    """For distillation: texts.txt has the texts of these rows, each once, and none of a dev or test row."""
    task: Literal["encoder", "reranker", "classifier", "masked", "titles", "dialogues"] = "encoder"
    """How it is scored: `recipes.zoo_scores`."""
    first: str = ""
    """A training before that of `command`, if there are two; its folder is the member's with `-first` behind it."""

    @property
    def sources(self) -> dict[str, Source]:
        """By their names in `SOURCES`, each once."""
        parts = (*self.train.values(), *self.tests.values(), *self.texts)
        return {part.source: SOURCES[part.source] for part in parts}

    def used_for(self, source: str) -> str:
        """Training, test, or both."""
        uses = {"training": (*self.train.values(), *self.texts), "test": self.tests.values()}
        return " and ".join(use for use, parts in uses.items() if source in {part.source for part in parts})


_PAIRS = {"stsb": Part("stsb"), "atec": Part("atec", without_last=ATEC_TESTED), "simclue": Part("simclue")}
_DEV = {"stsb": 250, "atec": 125, "simclue": 125}
_OF_PAIRS = "--data {data}/stsb.tsv {data}/atec.tsv {data}/simclue.tsv --data-weights 4 3 3 --dev {data}/dev.tsv"
_GENTLY = "--save-every 40 --lr 4e-5 --schedule linear --warmup 0.1"
_SMALL = f"cosent finetune --model {{base}} {_OF_PAIRS} --max-steps 160 --evaluate-every 80 {_GENTLY}"
_MINI = "distill mini --teacher {base} --data {data}/texts.txt --dev {data}/dev.tsv --save-every 100"
_RERANKER = f"cross_encoder finetune --model {{base}} {_OF_PAIRS} --batch-size 32 --max-length 64 --max-steps 200"
_RERANKER += " --evaluate-every 100 --save-every 50 --lr 5e-5 --schedule linear --warmup 0.1"
_NEWS = "classifier finetune --model {base} --data {data}/tnews.jsonl --dev {data}/dev.jsonl --monitor accuracy"
_NEWS += " --epochs 6 --batch-size 32 --max-length 40 --lr 3e-4"
_OF_ESSAYS = "--model {base} --data {data}/essays.txt --dev {data}/dev.txt --max-length 64 --lr 1e-3 --save-every 25"
_OF_ABC = "--model {base} --data {data}/abc.txt --dev {data}/dev.txt --max-length 64 --micro-batch-tokens 2048"
_OF_ABC += " --lr 3e-4 --save-every 50"
_TITLES = "unilm finetune --model {base} --data {data}/lcsts.jsonl --dev {data}/dev.jsonl --max-length 128"
_TITLES += " --max-steps 400 --evaluate-every 200 --lr 5e-4 --schedule linear --warmup 0.1 --save-every 25"
_TITLES += " --max-scored 100"
_DIALOGUES = "dialogpt scratch --model {base} --data {data}/lccc.jsonl --dev {data}/dev.jsonl --max-length 64"
_DIALOGUES += " --epochs 2 --lr 5e-4 --save-every 25 --max-scored 50"
_ENGLISH = "cosent finetune --model {base} --data {data}/stsb.tsv {data}/sick.tsv --dev {data}/dev.tsv --batch-size 64"
_ENGLISH += f" --max-steps 300 --evaluate-every 75 {_GENTLY}"
_TEXTS = (
    Part("stsb"),
    Part("atec", without_last=ATEC_TESTED, first=5000),
    Part("simclue"),
    Part("simclue-texts"),
    Part("tatoeba"),
    Part("daily", first=4000),
    Part("lccc"),
)
# whose licences permit that others get what was derived from them
_OPEN_TEXTS = tuple(map(Part, ("lccc", "kdconv", "crosswoz", "chatterbot", "tatoeba", "csl", "csl-clge")))
# a masked model and the T-TA from it
_MASKED_ZH = partial(
    Member,
    task="masked",
    base_licence="MIT",
    train={"essays": Part("essays", without_last=1000)},
    num_dev={"essays": 200},
    tests={"essays": Part("essays", last=1000, first=200), "CLiMP": Part("climp-test", every=15)},
)
_MASKED_EN = partial(
    Member,
    task="masked",
    base_licence="Apache-2.0",
    train={"abc": Part("abc", without_last=1000)},
    num_dev={"abc": 200},
    tests={"abc": Part("abc", last=1000, first=200)},
)
MEMBERS = {
    "cosent-zh-small": Member(
        about="Chinese sentence encoder, 12 layers of 384: multilingual-e5-small trained with CoSENT",
        command=_SMALL,
        minutes=4,
        base="intfloat/multilingual-e5-small",
        base_licence="MIT",
        train=_PAIRS,
        num_dev=_DEV,
    ),
    "cosent-zh-mini": Member(
        about="Chinese sentence encoder, 4 layers of 256, 9,500 tokens: distilled from cosent-zh-small",
        first=_MINI,
        command=f"{_MINI} --model {{first}} --relation-scale 100 --lr 5e-4 --epochs 2",
        minutes=65,
        base="zoo:cosent-zh-small",
        base_licence="MIT",
        train=_PAIRS,
        num_dev=_DEV,
        texts=_TEXTS,
    ),
    "cosent-zh-mini-open": Member(
        about="Chinese sentence encoder, 4 layers of 256, of open data alone: distilled from multilingual-e5-small",
        # the last weights: a dev set of open data that could choose others is not there
        command="distill mini --teacher {base} --data {data}/texts.txt --dev embedded:pairs_zh --evaluate-every 100000"
        " --save-every 100 --relation-scale 100 --epochs 5 --license mit",
        minutes=25,
        base="intfloat/multilingual-e5-small",
        base_licence="MIT",
        train={},
        num_dev={},
        texts=_OPEN_TEXTS,
    ),
    "gru-zh": Member(
        about="Chinese sentence encoder without attention, a GRU of 128 from each end: distilled from the open mini",
        # the last weights: ranks of pairs from three sets with scores of their own choose badly
        command=f"{_MINI} --encoder bigru --num-layers 1 --relation-scale 100 --lr 2e-3 --epochs 4"
        " --evaluate-every 100000",
        minutes=20,
        base="zoo:cosent-zh-mini-open",
        base_licence="MIT",
        train=_PAIRS,
        num_dev=_DEV,
        texts=_TEXTS,
    ),
    "reranker-zh-small": Member(
        about="Chinese cross-encoder, 12 layers of 384: cosent-zh-small trained on with CoSENT",
        task="reranker",
        command=_RERANKER,
        minutes=8,
        base="zoo:cosent-zh-small",
        base_licence="MIT",
        train=_PAIRS,
        num_dev=_DEV,
    ),
    "classifier-zh-news": Member(
        about="Chinese news titles in 15 classes, 4 layers of 256: cosent-zh-mini trained on",
        task="classifier",
        command=_NEWS,
        minutes=1,
        base="zoo:cosent-zh-mini",
        base_licence="MIT",
        train={"tnews": Part("tnews", without_last=TNEWS_TESTED)},
        num_dev={"tnews": 250},
        tests={"TNEWS": Part("tnews", last=TNEWS_TESTED)},
    ),
    "mlm-zh-mini": _MASKED_ZH(
        about="Chinese masked language model, 4 layers of 256: cosent-zh-mini with a tied head",
        command=f"tta mlm {_OF_ESSAYS} --max-steps 300 --evaluate-every 150",
        minutes=15,
        base="zoo:cosent-zh-mini",
    ),
    "tta-zh-mini": _MASKED_ZH(
        about="Chinese T-TA, 4 layers of 256, every token in one pass: mlm-zh-mini trained on",
        command=f"tta scratch {_OF_ESSAYS} --max-steps 200 --evaluate-every 100",
        minutes=6,
        base="zoo:mlm-zh-mini",
    ),
    "unilm-zh-title": Member(
        about="writes titles of Chinese news, 4 layers of 256: mlm-zh-mini trained on",
        task="titles",
        command=_TITLES,
        minutes=12,
        base="zoo:mlm-zh-mini",
        base_licence="MIT",
        train={"lcsts": Part("lcsts")},
        num_dev={"lcsts": 200},
        tests={"LCSTS": Part("lcsts-test", first=500)},
    ),
    "dialogpt-zh": Member(
        about="answers in Chinese chats, 4 layers of 256: mlm-zh-mini trained on",
        task="dialogues",
        command=_DIALOGUES,
        minutes=8,
        base="zoo:mlm-zh-mini",
        base_licence="MIT",
        train={"lccc": Part("lccc")},
        num_dev={"lccc": 200},
        tests={"LCCC": Part("lccc-test", first=500)},
    ),
    "cosent-en-small": Member(
        about="English sentence encoder, 6 layers of 384: all-MiniLM-L6-v2 trained with CoSENT",
        command=_ENGLISH,
        minutes=8,
        base="sentence-transformers/all-MiniLM-L6-v2",
        base_licence="Apache-2.0",
        train={"stsb": Part("stsb-en"), "sick": Part("sick-en")},
        num_dev={"stsb": 250, "sick": 250},
        tests={"STS-B": Part("stsb-en-test"), "SICK": Part("sick-en-test")},
    ),
    "mlm-en-small": _MASKED_EN(
        about="English masked language model, 6 layers of 384: all-MiniLM-L6-v2 with a tied head",
        command=f"tta mlm {_OF_ABC} --max-steps 300 --evaluate-every 150",
        minutes=12,
        base="sentence-transformers/all-MiniLM-L6-v2",
    ),
    "tta-en-small": _MASKED_EN(
        about="English T-TA, 6 layers of 384, every token in one pass: mlm-en-small trained on",
        command=f"tta scratch {_OF_ABC} --max-steps 200 --evaluate-every 100",
        minutes=14,
        base="zoo:mlm-en-small",
    ),
}
