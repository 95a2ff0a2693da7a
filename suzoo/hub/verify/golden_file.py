"""What a saved model promises, read from its golden file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from .doors import WAYS
from .resaves import RESAVES

GOLDEN_FILE = "golden.safetensors"


def read_promise(folder: str | Path) -> dict:
    """The JSON header of the golden file: kind, doors, inputs and settings, see `suzoo.hub.golden`.

    Raises:
        ValueError: no such folder, no golden file, or one that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder that save_pretrained wrote")
    path = folder / GOLDEN_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {GOLDEN_FILE}, so there is nothing to check; suzoo.hub.golden.write_golden makes it"
        )
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            promise = json.loads(json.loads(file.read(size))["__metadata__"]["golden"])
        unknown = [name for name in promise["doors"] if name not in {**WAYS, **RESAVES}]
    except (struct.error, ValueError, KeyError, TypeError, MemoryError, OverflowError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); write it again") from error
    if unknown:
        raise ValueError(f"{path} promises doors this version does not know: {', '.join(unknown)}; update suzoo")
    if not promise["doors"]:
        raise ValueError(f"{path} promises no door; write it again with suzoo.hub.golden.write_golden")
    return promise


def read_golden(folder: str | Path) -> dict:
    """{tensor name: array} of the expected outputs: float64, or int64 for token ids."""
    import numpy as np
    from safetensors.numpy import load_file

    golden = load_file(str(Path(folder) / GOLDEN_FILE))
    return {
        name: array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float64)
        for name, array in golden.items()
    }
