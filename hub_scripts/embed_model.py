"""Put a trained sentence encoder into this package: `python hub_scripts/embed_model.py FOLDER NAME`.

It is `embedded:NAME` from then on. The package gets what a push would send, with the weights in half precision; its
config.json says float32, in which every library opens them. For who makes suzoo: embed only weights whose data and
base permit it, and write them into suzoo/data/embedded/LICENSES.md.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from suzoo.reach import EMBEDDED_MODELS
from suzoo.terminal import script_parser, tell


def main(arguments: list[str] | None = None) -> int:
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path, help="of a verified encoder, as a training leaves it")
    parser.add_argument("name", help="replaces an embedded model of the same name")
    parser.add_argument("--into", type=Path, default=EMBEDDED_MODELS, help="folder of the embedded models")
    options = parser.parse_args(arguments)
    try:
        embed(options.folder, options.into / options.name)
    except Exception as error:
        return tell(error, parser.prog)
    return 0


def embed(folder: Path, target: Path) -> None:
    """
    Raises:
        ValueError: the folder holds no encoder, or what was written does not verify; the old model stays.
    """
    from safetensors.torch import load_file, save_file  # not for --help

    from suzoo.data import load_tokenizer
    from suzoo.hub.card import write_card
    from suzoo.hub.check import check_folder
    from suzoo.hub.contents import copy_contents
    from suzoo.hub.golden import write_golden
    from suzoo.models import CoSENTModel
    from suzoo.models._file_modes import share_weights

    weights, config = "model.safetensors", json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not (folder / "modules.json").is_file() or config.get("dtype") != "float32":
        raise ValueError(f"{folder} is not a sentence encoder in float32")
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as place:
        made = Path(place) / target.name  # the card says the name
        copy_contents(folder, made)
        halves = {name: value.half() for name, value in load_file(folder / weights).items()}
        save_file(halves, made / weights, metadata={"format": "pt"})
        share_weights(made)
        model, tokenizer = CoSENTModel.from_pretrained(made), load_tokenizer(str(made))
        write_card(made, model.config, tokenizer)
        write_golden(model, tokenizer, made)  # its answers are those of the rounded weights
        check_folder(made)
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)


if __name__ == "__main__":
    sys.exit(main())
