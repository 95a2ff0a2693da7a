"""Verify a saved model and push it: `python hub_scripts/push.py FOLDER OWNER/NAME`. The same as `suzoo push`."""

import sys

from suzoo.cli import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
