"""What happens to a model folder at the end of a run: golden tensors, card, verified doors, push."""

from __future__ import annotations

from pathlib import Path

from suzoo.hub.card import write_card
from suzoo.hub.check import check_folder
from suzoo.hub.golden import write_golden
from suzoo.hub.push import push


def publish(model, tokenizer, folder: str | Path, push_to: str | None = None) -> None:
    """Finish the saved folder of a run, print what opens it, and push it where asked.

    Args:
        model: the model in memory that `folder` was saved from; the golden outputs are its answers.
        tokenizer: its tokenizer.
        folder: holds the saved model and tokenizer, run.json and metrics.json.
        push_to: Hub repository (owner/name); None leaves the folder where it is.

    Raises:
        ValueError: a promised door does not open or answers differently, or the push is refused.
    """
    write_golden(model, tokenizer, folder)
    write_card(folder, model.config, tokenizer)
    # code that this run was allowed to run may be run again
    trust = any(type(part).__module__.startswith("transformers_modules") for part in model.modules())
    if push_to is None:
        check_folder(folder, trust_remote_code=trust, just_written=True)
        print(f"verified: {folder}")
    else:
        print(f"verified and pushed: {push(folder, push_to, trust_remote_code=trust, just_written=True)}")
