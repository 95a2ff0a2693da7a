"""The members of the zoo in one table: from what, on what, by which command, how long, scored on what.

`suzoo zoo build NAME` reads it; docs/zoo.md says what came out. No torch here, so that `suzoo zoo list` is quick.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from suzoo.data import Pair


@dataclass(frozen=True)
class Source:
    """A file of sentence pairs, columns text1, text2 and label, which the user has got where `repository` says."""

    file: str
    sha256: str
    repository: str
    licence: str
    highest: float = 1.0
    """The label of texts that say the same."""


_BY_SHAWROAD = "github.com/shawroad/CoSENT_Pytorch"
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
    "simclue": Source(
        "simclue_pair.1w.tsv",
        "736cc52b357a3237a6334d9b53ac2994173e7f109132aa02864f12ff782629ea",
        "github.com/CLUEbenchmark/SimCLUE",
        "no licence file, academic use",
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
}


class Part(NamedTuple):
    """Some rows of a source: the last `last`, all but the last `without_last`, of those the first `first`."""

    source: str
    last: int | None = None
    without_last: int = 0
    first: int | None = None

    def of(self, rows: Sequence[Pair]) -> Sequence[Pair]:
        rows = rows[-self.last :] if self.last else rows[: len(rows) - self.without_last]
        return rows[: self.first]


ATEC_TESTED = 4000  # rows at the end of the file, which has no dev part
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
    command: tuple[str, ...]
    """Arguments of `suzoo train`; {base} is what it starts from, {data} the folder of the prepared files."""
    minutes: int
    """On two quiet CPU cores, once what it is made from is there."""
    base: str
    """A name on the Hub, or `zoo:` and another member."""
    base_licence: str
    train: Mapping[str, Part]
    num_dev: Mapping[str, int]
    """Rows of each training source that choose the best weights, and are not trained on."""
    tests: Mapping[str, Part] = field(default_factory=lambda: dict(TESTS))
    texts: Mapping[str, int | None] = field(default_factory=dict)
    """For distillation: whose texts, and of how many pairs at most, go into texts.txt."""

    @property
    def sources(self) -> list[Source]:
        names = dict.fromkeys(part.source for part in (*self.train.values(), *self.tests.values()))
        return [SOURCES[name] for name in names]


_PAIRS = {"stsb": Part("stsb"), "atec": Part("atec", without_last=ATEC_TESTED), "simclue": Part("simclue")}
_DEV = {"stsb": 250, "atec": 125, "simclue": 125}
_SMALL = "cosent finetune --model {base} --data {data}/stsb.tsv {data}/atec.tsv {data}/simclue.tsv --data-weights 4 3 3"
_SMALL += " --dev {data}/dev.tsv --max-steps 160 --evaluate-every 80 --save-every 40 --lr 4e-5 --schedule linear"
_MINI = "distill mini --teacher {base} --data {data}/texts.txt --dev {data}/dev.tsv --save-every 500"
MEMBERS = {
    "cosent-zh-small": Member(
        about="Chinese sentence encoder, 12 layers of 384: multilingual-e5-small trained with CoSENT",
        command=(*_SMALL.split(), "--warmup", "0.1"),
        minutes=4,
        base="intfloat/multilingual-e5-small",
        base_licence="MIT",
        train=_PAIRS,
        num_dev=_DEV,
    ),
    "cosent-zh-mini": Member(
        about="Chinese sentence encoder, 4 layers of 256, 9,500 tokens: distilled from cosent-zh-small",
        command=tuple(_MINI.split()),
        minutes=20,
        base="zoo:cosent-zh-small",
        base_licence="MIT",
        train=_PAIRS,
        num_dev=_DEV,
        texts={"stsb": None, "atec": 5000, "simclue": None},
    ),
}


def check_sources(member: Member, folder: Path) -> list[str]:
    """What a user should know of the files in `folder` before the build.

    Raises:
        ValueError: a file is missing; says which, and where it comes from.
    """
    notes = []
    for source in member.sources:
        path = folder / source.file
        if not path.is_file():
            raise ValueError(
                f"{path} is missing: pairs with the columns text1, text2 and label from {source.repository} "
                f"(licence: {source.licence})"
            )
        if hashlib.sha256(path.read_bytes()).hexdigest() != source.sha256:
            notes.append(f"{path} is not the file that the scores in docs/zoo.md are of")
    return notes


def prepare(member: Member, sources: Path, out: Path) -> None:
    """Write the training files, dev.tsv, a file per test, and texts.txt where the member wants one, into `out`.

    Grades are from 0 to 1. A training row with a text of a test is left out.
    """
    from suzoo.data import Pair, read_pairs

    rows = {
        name: read_pairs(str(sources / SOURCES[name].file), columns=("text1=text1", "text2=text2", "score=label"))
        for name in dict.fromkeys(part.source for part in (*member.train.values(), *member.tests.values()))
    }
    out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for name, part in member.tests.items():
        # all of the source's test rows count as seen, also those that are not scored
        whole = part._replace(first=None).of(rows[part.source])
        seen |= {text for row in whole for text in (row.text1, row.text2)}
        _write(out / f"test {name}.tsv", part.of(rows[part.source]), SOURCES[part.source].highest)
    dev, texts = [], []
    draw = random.Random(0)
    for name, part in member.train.items():
        highest = SOURCES[part.source].highest
        kept = [row for row in part.of(rows[part.source]) if row.text1 not in seen and row.text2 not in seen]
        draw.shuffle(kept)
        held, kept = kept[: member.num_dev[name]], kept[member.num_dev[name] :]
        dev += [Pair(row.text1, row.text2, row.label / highest) for row in held]
        _write(out / f"{name}.tsv", kept, highest)
        if name in member.texts:
            texts += [text for row in kept[: member.texts[name]] for text in (row.text1, row.text2)]
    _write(out / "dev.tsv", dev, 1.0)
    if texts:
        (out / "texts.txt").write_text("".join(f"{text}\n" for text in dict.fromkeys(texts)), encoding="utf-8")


def _write(path: Path, rows: Iterable[Pair], highest: float) -> None:
    lines = [f"{row.text1}\t{row.text2}\t{row.label / highest:g}\n" for row in rows]
    path.write_text("text1\ttext2\tscore\n" + "".join(lines), encoding="utf-8")
