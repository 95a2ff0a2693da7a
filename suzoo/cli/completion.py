"""`suzoo completion`: a script for bash or zsh that completes commands and options, made from the parser itself."""

from __future__ import annotations

import argparse

SCRIPT = """\
_suzoo() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words
  case ${{COMP_WORDS[1]}} in
{cases}
    *) words="{commands}" ;;
  esac
  [[ $COMP_CWORD -eq 1 ]] && words="{commands}"
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _suzoo suzoo
"""


def completion_script(commands: dict[str, argparse.ArgumentParser], shell: str) -> str:
    """Of each command its options and the values of its choices; file names otherwise."""

    def words(parser: argparse.ArgumentParser) -> str:
        found = [option for action in parser._actions for option in action.option_strings]
        found += [str(choice) for action in parser._actions for choice in action.choices or ()]
        return " ".join(found)

    cases = "\n".join(f'    {name}) words="{words(parser)}" ;;' for name, parser in commands.items())
    script = SCRIPT.format(cases=cases, commands=" ".join(commands))
    return "autoload -U +X bashcompinit && bashcompinit\n" + script if shell == "zsh" else script


def completion(options: argparse.Namespace) -> int:
    print(completion_script(options.commands, options.shell), end="")
    return 0


def add_commands(command) -> None:
    help = "Print a completion script: put `source <(suzoo completion bash)` into ~/.bashrc (zsh: ~/.zshrc)."
    sub = command("completion", completion, help)
    sub.add_argument("shell", choices=["bash", "zsh"])
