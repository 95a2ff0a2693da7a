"""`python -m suzoo` is the command `suzoo`."""

import sys

from suzoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
