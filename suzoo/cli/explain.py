"""`suzoo explain`: the tokens that made a model say what it said."""

from __future__ import annotations

import argparse
import sys

from suzoo.chinese import local
from suzoo.cli._files import check_output, replacing
from suzoo.cli._models import add_model_options, load_tokenizer, loading, on_device, positive, source


def explain(options: argparse.Namespace) -> int:
    paths = [check_output(name, (".html", ".png"), options.overwrite) for name in options.output]
    if any(path.suffix == ".png" for path in paths):
        from suzoo.analysis.render import font_for

        font_for(options.text + (options.pair or ""))  # before the work
    model, tokenizer = load(options)
    from suzoo.analysis import explain as explain_text
    from suzoo.analysis.render import save_png, to_html, to_terminal

    explanation = explain_text(
        model,
        tokenizer,
        options.text,
        options.pair,
        target=options.target,
        position=options.position,
        probability=options.probability,
        baseline=options.baseline,
        num_steps=options.steps,
    )
    print(to_terminal(explanation) if sys.stdout.isatty() or options.color else explanation)
    for path in paths:
        with replacing(path) as temporary:
            if path.suffix == ".png":
                save_png(explanation, temporary)
            else:
                temporary.write_text(to_html(explanation), encoding="utf-8")
        print(local(f"written to {path}"), file=sys.stderr)
    return 0


def load(options: argparse.Namespace):
    """(model, tokenizer) by what the model was saved from; a folder without a head is a sentence encoder."""
    with loading(options.model):
        import transformers

        from suzoo.models import CoSENTModel

        heads = {
            "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
            "ForCausalLM": transformers.AutoModelForCausalLM,
            "LMHeadModel": transformers.AutoModelForCausalLM,
            "ForMaskedLM": transformers.AutoModelForMaskedLM,
        }
        config = transformers.AutoConfig.from_pretrained(options.model, **source(options))
        name = (config.architectures or [""])[0]
        model_class = next((heads[end] for end in heads if name.endswith(end)), CoSENTModel)
        tokenizer = load_tokenizer(config, options)
        model = model_class.from_pretrained(options.model, dtype=options.dtype, **source(options))
        return on_device(model, options), tokenizer


def add_commands(command) -> None:
    sub = command("explain", explain, "Colour the tokens that made a model say what it said (integrated gradients).")
    add_model_options(sub)
    sub.set_defaults(dtype="float32")
    sub.add_argument("text", help="what the model reads")
    sub.add_argument("--pair", metavar="TEXT", help="the second text, of sentence encoders and of pair classifiers")
    sub.add_argument("--target", help="class, or next or masked token (default: the likeliest; the one that is there)")
    sub.add_argument("--position", type=int, help="of a masked language model: token of the text, the first is 0")
    sub.add_argument("--probability", action="store_true", help="explain the probability instead of the logit")
    sub.add_argument(
        "--baseline", choices=["zero", "mean", "pad", "mask"], default="zero", help="what stands for no word"
    )
    sub.add_argument("--steps", type=positive, default=50, help="points of the integral (default: 50)")
    sub.add_argument("--color", action="store_true", help="colours also where stdout is no terminal")
    sub.add_argument("--output", nargs="+", default=[], metavar="FILE", help="*.html, *.png")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing output")
