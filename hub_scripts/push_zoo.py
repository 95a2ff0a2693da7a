"""Verify the members of the zoo and push them with their cards: `suzoo script push_zoo FOLDER OWNER`.

FOLDER is where `suzoo zoo build` has put them. Each goes to OWNER/NAME, private unless --public: the data sets of most
allow research only, and whether that binds weights is for you to decide. Pushing again is harmless.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from suzoo.terminal import is_mistake, prog, script_parser, sentence, tell


def main(arguments: list[str] | None = None) -> int:
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path, help="as --output-dir of `suzoo zoo build`")
    parser.add_argument("owner", help="account or organisation on the Hub")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="members to push; default is all that are there")
    parser.add_argument("--public", action="store_true", help="make repositories that are created now public")
    options = parser.parse_args(arguments)
    try:
        return push_all(options)
    except Exception as error:
        return tell(error, parser.prog)


def push_all(options: argparse.Namespace) -> int:
    from suzoo.hub.push import push  # not for --help

    finished = {path.parent.name: path.parent for path in sorted(options.folder.glob("*/zoo.json"))}
    if not finished:
        raise ValueError(f"{options.folder} has no finished member: build one with `suzoo zoo build`")
    if unknown := set(options.only or ()) - finished.keys():
        raise ValueError(f"{options.folder} has no finished {', '.join(sorted(unknown))}: it has {', '.join(finished)}")
    failed = []
    for name, folder in finished.items():
        if options.only and name not in options.only:
            continue
        record = json.loads((folder / "zoo.json").read_text(encoding="utf-8"))
        for source in record["sources"]:
            print(f"{name}: {source['file']}, {source['licence']}", file=sys.stderr)
        try:
            print(push(folder, f"{options.owner}/{name}", private=not options.public, report=_to_stderr))
        except Exception as error:  # the others are pushed all the same
            if not is_mistake(error):
                raise
            failed.append(name)
            print(f"{name}: {sentence(error)}", file=sys.stderr)
    if failed:
        print(f"{prog() or 'push_zoo'}: not pushed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
