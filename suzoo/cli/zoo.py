"""`suzoo zoo`: the members of the zoo, and one command that makes one: prepare, train, verify, score."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from suzoo.cli._files import replacing
from suzoo.cli.train import scripts_on_path


def recipes(name: str = "zoo") -> Any:
    """The module `recipes.zoo` of the training scripts, which has the table, or another one of that folder."""
    scripts_on_path()
    return importlib.import_module(f"recipes.{name}")


def list_members(options: argparse.Namespace) -> int:
    for name, member in recipes().MEMBERS.items():
        print(f"{name}: {member.about}; about {member.minutes} minutes on two quiet cores, from {member.base}")
        for source in member.sources.values():
            print(f"    {source.file}  {source.repository} ({source.licence})")
    return 0


def build(options: argparse.Namespace) -> int:
    members = recipes().MEMBERS
    if options.name not in members:
        raise ValueError(f"the zoo has no {options.name}: it has {', '.join(members)}")
    chain = [options.name]  # what it is made from comes first
    while (base := members[chain[0]].base).startswith("zoo:"):
        chain.insert(0, base.removeprefix("zoo:"))
    if options.base and not Path(options.base).is_dir():
        raise ValueError(f"there is no folder {options.base}, which --base names")
    sources, out = Path(options.sources), Path(options.output_dir)
    missing = [name for name in chain if not is_finished(out / name)]
    notes = [note for name in missing for note in recipes("zoo_data").check_sources(members[name], sources)]
    for note in dict.fromkeys(notes):
        print(f"note: {note}", file=sys.stderr)
    minutes = sum(members[name].minutes for name in missing)
    print(f"to make: {', '.join(missing) or 'nothing'}, about {minutes} minutes on two quiet cores", file=sys.stderr)
    first = options.base or members[chain[0]].base
    for number, name in enumerate(chain):
        base = first if number == 0 else str(out / chain[number - 1])
        flags = shlex.split(options.flags) if name == options.name else []
        if name in missing and (status := make(name, base, sources, out, flags)):
            return status
    from suzoo.hub.check import check_folder

    check_folder(out / options.name)
    print(f"verified: {out / options.name}")
    return 0


def is_finished(folder: Path) -> bool:
    """Trained, verified when it was saved, and scored."""
    try:
        return "tests" in json.loads((folder / "zoo.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False


def make(name: str, base: str, sources: Path, out: Path, flags: list[str]) -> int:
    """Prepare, train and score one member; a run that was cut goes on. Returns the exit code of the training."""
    started, member, folder, data = time.time(), recipes().MEMBERS[name], out / name, out / f"{name}-data"
    zoo_data = recipes("zoo_data")
    zoo_data.prepare(member, sources, data)
    first = out / f"{name}-first"
    trainings = [(member.first, [], first)] if member.first else []
    for command, changed, place in [*trainings, (member.command, flags, folder)]:
        arguments = [argument.format(base=base, data=data, first=first) for argument in command.split()]
        print(f"{name}: {' '.join(arguments)}", file=sys.stderr)
        if status := train([*arguments, *changed, "--output-dir", str(place), "--resume"]):
            return status
    print(f"{name}: scoring", file=sys.stderr)
    files = zoo_data.test_files(member, data)
    scores = recipes("zoo_scores").scores(member.task, folder, files)
    record = {
        "member": name,
        "base": member.base,
        "base_licence": member.base_licence,
        "sources": [
            {
                "file": source.file,
                "used_for": member.used_for(key),
                "sha256": source.sha256,
                "repository": source.repository,
                "licence": source.licence,
            }
            for key, source in member.sources.items()
        ],
        "minutes": round((time.time() - started) / 60, 1),
        "tests": scores,
    }
    put_into_card(folder, record, zoo_data.described(member, files))
    write_json(folder / "zoo.json", record)
    for test, numbers in scores.items():
        print(f"{test:<12} {', '.join(f'{metric} {number:.4f}' for metric, number in numbers.items())}")
    return 0


def train(arguments: list[str]) -> int:
    """The exit code of `suzoo train` with these arguments, in a process of its own as every training."""
    return subprocess.run([sys.executable, "-m", "suzoo", "train", *arguments], check=False).returncode


def put_into_card(folder: Path, record: dict[str, Any], tests: dict[str, dict[str, Any]]) -> None:
    """The tests beside the dev scores in metrics.json, what the member is made of in run.json, and so both in the card.

    Args:
        tests: of each what run.json says of data.
    """
    from transformers import AutoConfig

    from suzoo.hub.card import write_card
    from suzoo.models._tokenizer_files import load_tokenizer

    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    write_json(folder / "metrics.json", metrics | record["tests"])
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    base = {} if record["base"].startswith("zoo:") else {"base_model": record["base"]}
    write_json(folder / "run.json", run | base | {"sources": record["sources"], "data": run["data"] | tests})
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    write_card(folder, config, load_tokenizer(str(folder)))


def write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def add_commands(command) -> None:
    parser = command("zoo", list_members, "Small trained models, each by one command: suzoo zoo build NAME.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    sub = actions.add_parser("list", help="the members, how long each takes, what data it wants", allow_abbrev=False)
    sub.set_defaults(function=list_members)
    sub = actions.add_parser(
        "build",
        help="prepare, train, verify and score a member; again after an interruption: it goes on",
        allow_abbrev=False,
    )
    sub.add_argument("name", help="a member, as `suzoo zoo list` names them")
    sub.add_argument("--sources", required=True, metavar="FOLDER", help="with the files that `suzoo zoo list` names")
    sub.add_argument("--base", metavar="FOLDER", help="of the model to start from, instead of its name on the Hub")
    sub.add_argument("--output-dir", default="out/zoo", help="folder of the members (default: out/zoo)")
    sub.add_argument(
        "--flags", default="", help='of the training, behind the member\'s own: --flags="--precision bf16"'
    )
    sub.set_defaults(function=build)
