"""Bring weights over from bert4keras: `suzoo script convert_bert4keras model.weights --config bert_config.json
--vocab vocab.txt --output out/model`.

Reads what Keras writes (`save_weights`, HDF5; needs h5py) and TensorFlow checkpoints (`bert_model.ckpt`, Google's and
Huawei's; needs tensorflow). Writes a transformers folder with its tokenizer: a stock `BertForMaskedLM` or
`RoFormerForMaskedLM`, or with `--as` one of ours; `--as cosent` is the sentence encoder of SimBERT and RoFormer-Sim.
Before it writes, it reads fixed texts twice, by the new tokenizer and as bert4keras does. It computes the logits (or
vectors) of fixed sentences twice, by the new model and straight from the old arrays in NumPy. A text that is read
otherwise, or numbers that differ by more than 1e-3, are an error. What becomes of which call is said in
docs/from_bert4keras.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

from suzoo.terminal import script_parser, tell

# as in suzoo.cli._bert4keras, for which --help need not wait
FAMILIES = ("bert", "nezha", "roformer")
TARGETS = ("bert", "roformer", "unilm", "dialogpt", "tta", "cosent")


def main(argv: list[str] | None = None) -> int:
    parser = script_parser(__doc__)
    parser.add_argument("weights", type=Path, help="HDF5 file of Keras, or prefix of a TensorFlow checkpoint")
    parser.add_argument("--config", type=Path, required=True, help="bert_config.json")
    parser.add_argument("--vocab", type=Path, required=True, help="vocab.txt")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--family", choices=FAMILIES, default="bert", help="SimBERT and MacBERT are bert's")
    parser.add_argument(
        "--as",
        dest="target",
        choices=TARGETS,
        help="class to write; default bert, unilm or roformer, by family; cosent for the vectors of SimBERT",
    )
    parser.add_argument("--simplified", action="store_true", help="vocab.txt was loaded with simplified=True")
    case = parser.add_mutually_exclusive_group()
    case.add_argument(
        "--lower-case", action="store_true", default=None, dest="lower_case",
        help="do_lower_case=True in bert4keras (default: where vocab.txt has no capitals)",
    )  # fmt: skip
    case.add_argument(
        "--cased", action="store_false", dest="lower_case", help="do_lower_case=False, bert4keras' own default"
    )
    options = parser.parse_args(argv)
    from suzoo.cli._bert4keras import write_converted  # not for --help

    try:
        write_converted(
            options.weights,
            options.config,
            options.vocab,
            options.output,
            family=options.family,
            target=options.target,
            simplified=options.simplified,
            lower_case=options.lower_case,
        )
    except Exception as error:
        return tell(error, parser.prog)
    return 0


if __name__ == "__main__":
    sys.exit(main())
