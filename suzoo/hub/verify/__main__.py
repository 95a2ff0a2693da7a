"""`python suzoo/hub/verify FOLDER`, without suzoo; and what `verify` starts as its fresh process."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def load_package() -> str:
    """This folder as a package of another name, so that nothing of suzoo is imported. Python put the folder first on
    the path: its files must not shadow installed packages."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    name = "folder_check"
    spec = importlib.util.spec_from_file_location(name, HERE / "__init__.py", submodule_search_locations=[str(HERE)])
    assert spec is not None and spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return name


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="verify", description="Open a saved model through every promised door and compare."
    )
    parser.add_argument("folder", help="folder of the saved model, with golden.safetensors")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code in the folder that is not suzoo's")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for all doors together")
    parser.add_argument("--child", metavar="RESULTS", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    package = __package__ or load_package()
    process, check = (importlib.import_module(f"{package}.{name}") for name in ("process", "check"))
    if options.child:
        process.check_all(options.folder, options.child, options.trust_remote_code, options.scratch)
        return 0
    try:
        doors = process.verify(options.folder, trust_remote_code=options.trust_remote_code, timeout=options.timeout)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(check.format_table(doors))
    return 0 if check.passed(doors) else 1


if __name__ == "__main__":
    sys.exit(main())
