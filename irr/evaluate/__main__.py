import sys

from irr.evaluate import main

sys.exit(main())
