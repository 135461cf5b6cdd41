"""``python -m irr.batch``."""

import sys

from irr.batch import main

if __name__ == "__main__":
    sys.exit(main())
