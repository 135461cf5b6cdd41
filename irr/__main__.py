"""``python -m irr``: the same as the console script ``irr``."""

import sys

from irr.cli import main

if __name__ == "__main__":
    sys.exit(main())
