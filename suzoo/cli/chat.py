"""`suzoo chat`: a conversation in the terminal, or with what is piped in."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from suzoo.chinese import local
from suzoo.cli._files import replacing
from suzoo.cli._models import (
    add_model_options,
    add_self_terminating_option,
    load_tokenizer,
    loading,
    on_device,
    positive,
    set_self_terminating,
    source,
)

HELP = (
    "/reset forgets the conversation, /save FILE writes it, /load FILE continues one, "
    "/set top_p 0.9 changes the sampling (top_k, top_p, temperature), /quit ends"
)
SAMPLING = {"top_k": int, "top_p": float, "temperature": float}


def chat(options: argparse.Namespace) -> int:
    history = Path(options.history) if options.history else None
    if history is not None and not history.parent.is_dir():
        raise ValueError(f"there is no folder {history.parent} to write {history.name} to")
    session = _session(options)
    if history is not None and history.exists():
        session.load(history)
    interactive = sys.stdin.isatty()
    if interactive:
        print(local(f"Say something; {HELP}."), file=sys.stderr)
    try:
        for line in _lines(interactive):
            if line.startswith("/"):
                if line == "/quit":
                    break
                _obey(session, options, line, interactive)
            elif line:
                _reply(session, line, interactive)
    finally:
        if history is not None:
            _save(session, history)
    return 0


def _session(options: argparse.Namespace):
    if (options.backward is None) != (options.candidates == 1):
        raise ValueError("--backward and --candidates (2 or more) go together: one chooses among the others")
    model, tokenizer = load(options)
    check_layout(options.model, model, options.layout)

    import torch

    from suzoo.decoding import ChatSession, MMIReranker

    reranker = None
    if options.backward is not None:
        named = {**vars(options), "model": options.backward, "revision": None}
        backward, backward_tokenizer = load(argparse.Namespace(**named))
        reranker = MMIReranker(backward, backward_tokenizer, layout=getattr(backward.config, "layout", options.layout))
    set_self_terminating(model, options.self_terminating)
    if options.seed is not None:
        torch.manual_seed(options.seed)
    return ChatSession(
        model,
        tokenizer,
        layout=options.layout,
        max_tokens=options.max_tokens,
        max_new_tokens=options.max_new_tokens,
        **_sampling(options),
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        reranker=reranker,
        num_candidates=options.candidates,
    )


def _sampling(options: argparse.Namespace) -> dict:
    values = {name: getattr(options, name) for name in SAMPLING}
    return {"do_sample": not options.greedy, "consistent": options.consistent, **values}


def load(options: argparse.Namespace):
    """(model, tokenizer) of a causal language model, ready on its device."""
    with loading(options.model):
        from transformers import AutoConfig, AutoModelForCausalLM

        import suzoo.models  # noqa: F401  the auto classes know our models by it

        config = AutoConfig.from_pretrained(options.model, **source(options))
        if config.model_type == "unilm":
            raise ValueError("it writes a target for a source and does not chat: use `suzoo summarize`")
        if not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or []):
            raise ValueError("it is not a causal language model, so it cannot chat")
        tokenizer = load_tokenizer(config, options)
        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype, **source(options))
        return on_device(model, options), tokenizer


def check_layout(name: str, model, given: str | None) -> None:
    """
    Raises:
        ValueError: neither the model nor the user says how dialogues are laid out.
    """
    if given is None and getattr(model.config, "layout", None) is None:
        raise ValueError(f"{name} does not say how its dialogues were laid out: give --layout")


def _lines(interactive: bool) -> Iterator[str]:
    """What the user says, until the end of the input; a terminal gets a prompt and line editing."""
    if interactive:
        with contextlib.suppress(ImportError):  # not on every system; input() works without it
            import readline  # noqa: F401
    while True:
        try:
            yield input("> " if interactive else "").strip()
        except EOFError:
            return


def _reply(session, text: str, interactive: bool) -> None:
    """Print the reply while it is made. In a terminal, Ctrl-C stops it and a mistake does not end the conversation."""
    from transformers import TextStreamer

    streamer = TextStreamer(session.tokenizer, skip_prompt=True, skip_special_tokens=True)
    try:
        session.reply(text, streamer=streamer)
    except KeyboardInterrupt:
        if not interactive:
            raise
        print("\n" + local("(stopped; this turn is forgotten)"), file=sys.stderr)
    except ValueError as error:
        if not interactive:
            raise
        print(local(str(error)), file=sys.stderr)


def _obey(session, options: argparse.Namespace, line: str, interactive: bool) -> None:
    command, _, name = line.partition(" ")
    try:
        if command == "/reset" and not name:
            session.reset()
        elif command == "/save" and name:
            path = Path(name.strip())
            _save(session, path)
            print(local(f"saved {len(session.turns)} turns to {path.absolute()}"), file=sys.stderr)
        elif command == "/load" and name:
            session.load(name.strip())
        elif command == "/set" and name:
            _set(session, options, name)
        else:
            raise ValueError(HELP)
    except (ValueError, OSError) as error:
        if not interactive:
            raise
        print(local(str(error)), file=sys.stderr)


def _set(session, options: argparse.Namespace, text: str) -> None:
    """`text`: a name of SAMPLING and its value, from the next reply on."""
    name, _, value = text.strip().replace("=", " ").partition(" ")
    if name not in SAMPLING:
        raise ValueError(f"{name} cannot be set here: {', '.join(SAMPLING)} can, as in /set top_p 0.9")
    if options.greedy:
        raise ValueError("--greedy does not sample: start without it")
    try:
        number = SAMPLING[name](value)
    except ValueError as error:
        raise ValueError(f"/set {name} takes a number, not {value!r}") from error
    changed = argparse.Namespace(**{**vars(options), name: number})
    session.set_sampling(**_sampling(changed))
    setattr(options, name, getattr(changed, name))


def _save(session, path: Path) -> None:
    with replacing(path) as temporary:
        session.save(temporary)


def add_commands(command) -> None:
    sub = command("chat", chat, "Talk with a dialogue model; piped input is answered line by line.")
    add_model_options(sub)
    sub.add_argument("--history", metavar="FILE", help="json: continue this conversation, and save it at the end")
    sub.add_argument("--layout", choices=["blog", "cdial", "dialogpt"], help="default: what the model was trained on")
    sub.add_argument("--max-tokens", type=positive, help="history and reply together (default: what the model takes)")
    sub.add_argument("--max-new-tokens", type=positive, default=32, help="longest reply (default: 32)")
    sub.add_argument("--greedy", action="store_true", help="the likeliest token each time, no sampling")
    sub.add_argument("--top-k", type=positive, default=5, help="sample from so many tokens (default: 5)")
    sub.add_argument("--top-p", type=float, default=1.0, help="and from this share of the probability (default: 1)")
    sub.add_argument("--temperature", type=float, default=1.0, help="below 1 is more predictable (default: 1)")
    sub.add_argument("--consistent", action="store_true", help="top-k and top-p always keep the end of the reply")
    add_self_terminating_option(sub)
    sub.add_argument("--backward", metavar="MODEL", help="trained with --reverse: chooses among candidates (MMI)")
    sub.add_argument("--candidates", type=positive, default=1, help="replies sampled for --backward, such as 10")
    sub.add_argument("--no-repeat-ngram-size", type=int, default=4, help="no n-gram twice in a reply; 0 is off")
    sub.add_argument("--seed", type=int, help="for the same replies again")
