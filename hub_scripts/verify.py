"""Check every door a saved model promises: `python hub_scripts/verify.py FOLDER`. The same as `suzoo verify`."""

import sys

from suzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["verify", *sys.argv[1:]]))
