"""``python -m c2sti``: the same as the command ``c2sti``."""

import sys

from c2sti.cli import main

if __name__ == "__main__":
    sys.exit(main())
