"""English words and sentence frames of `embedded:pairs_en`; `_pairs` says how they are combined."""

from __future__ import annotations

# each inner tuple holds words for one thing
NAMES = (
    *(("Alice",), ("Bruno",), ("Carla",), ("David",), ("Elena",), ("Frank",)),
    *(("Grace",), ("Henry",), ("Irene",), ("Jacob",), ("Karen",), ("Lucas",)),
)
TIMES = (
    ("yesterday", "the day before today"),
    ("this morning", "at sunrise today"),
    ("last week", "seven days ago"),
    ("on Sunday", "at the weekend"),
    ("in July", "in midsummer"),
    ("at noon", "at twelve o'clock"),
)
PLACES = (
    ("at school", "in the classroom"),
    ("at home", "inside the house"),
    ("in the restaurant", "over at the diner"),
    ("in the office", "at the workplace"),
    ("in the shop", "at the store"),
    ("at the station", "on the platform"),
)
NUMBERS = (
    *(("two", "2"), ("three", "3"), ("four", "4"), ("five", "5")),
    *(("six", "6"), ("seven", "7"), ("eight", "8"), ("nine", "9")),
)
OBJECTS = (
    ("{n} books", "{n} volumes"),
    ("{n} bikes", "{n} bicycles"),
    ("{n} coats", "{n} jackets"),
    ("{n} tickets", "{n} passes"),
    ("{n} cups", "{n} mugs"),
    ("{n} pictures", "{n} photographs"),
    ("{n} toys", "{n} playthings"),
    ("{n} couches", "{n} sofas"),
)
NEGATIONS = ("did not", "never did")


def _compared(more: str, less: str, alike: str, alike_little: str) -> dict[str, tuple[str]]:
    return {"more": (more,), "less": (less,), "as": (alike,), "as_little": (alike_little,)}


# per verb: its forms, each with the words to choose from; the words of one position belong together
SENSES = {
    "transfer": (
        {
            "gave": ("gave", "handed"),
            "give": ("give", "hand"),
            "given": ("given", "handed"),
            "got": ("received", "obtained"),
            "get": ("receive", "obtain"),
        },
        {
            "gave": ("lent", "loaned"),
            "give": ("lend", "loan"),
            "given": ("lent", "loaned"),
            "got": ("borrowed", "leased"),
            "get": ("borrow", "lease"),
        },
        {
            "gave": ("sold", "auctioned"),
            "give": ("sell", "auction"),
            "given": ("sold", "auctioned"),
            "got": ("bought", "purchased"),
            "get": ("buy", "purchase"),
        },
        {
            "gave": ("returned", "restored"),
            "give": ("return", "restore"),
            "given": ("returned", "restored"),
            "got": ("reclaimed", "recovered"),
            "get": ("reclaim", "recover"),
        },
    ),
    "contact": (
        {"did": ("praised", "applauded"), "do": ("praise", "applaud")},
        {"did": ("scolded", "criticized"), "do": ("scold", "criticize")},
        {"did": ("helped", "assisted"), "do": ("help", "assist")},
        {"did": ("fooled", "deceived"), "do": ("fool", "deceive")},
        {"did": ("phoned", "called"), "do": ("phone", "call")},
        {"did": ("questioned", "interviewed"), "do": ("question", "interview")},
    ),
    "compare": (
        {"did": ("ran",), "do": ("run",), **_compared("faster", "slower", "fast", "slow")},
        {"did": ("came",), "do": ("come",), **_compared("earlier", "later", "early", "late")},
        {"did": ("ate",), "do": ("eat",), **_compared("more", "less", "much", "little")},
        {"did": ("sang",), "do": ("sing",), **_compared("better", "worse", "well", "badly")},
    ),
}
# per frame: (subject, what is said of it, the same denied); a comparison is denied by exchanging its two sides
CLAUSES = {
    "transfer": (
        ("{a}", "{gave} {things} to {b}", "{no} {give} {things} to {b}"),
        ("{b}", "{got} {things} from {a}", "{no} {get} {things} from {a}"),
        ("{things}", "were {given} to {b} by {a}", "were not {given} to {b} by {a}"),
        ("{a}", "was the one who {gave} {things} to {b}", "was not the one who {gave} {things} to {b}"),
    ),
    "contact": (
        ("{a}", "{did} {b}", "{no} {do} {b}"),
        ("{b}", "was {did} by {a}", "was not {did} by {a}"),
        ("{a}", "was the one who {did} {b}", "was not the one who {did} {b}"),
        ("{b}", "was the one {a} {did}", "was not the one {a} {did}"),
    ),
    "compare": (
        ("{a}", "{did} {more} than {b}", None),
        ("{b}", "{did} {less} than {a}", None),
        ("{b}", "did not {do} as {as} as {a}", None),
        ("{a}", "did not {do} as {as_little} as {b}", None),
    ),
}
ARRANGEMENTS = (
    "{time} {subject} {said} {place}.",
    "{subject} {said} {place} {time}.",
    "{place}, {subject} {said} {time}.",
    "{time} {place}, {subject} {said}.",
    "it was {time} that {subject} {said} {place}.",
    "it was {place} that {subject} {said} {time}.",
    "{subject} {said}, this was {time} {place}.",
    "{place} {time}, {subject} {said}.",
)
OPENERS = ("", "I heard that ", "we all know that ", "they say that ")


def finish(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
