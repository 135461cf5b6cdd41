import sys

from irr.compile import main

sys.exit(main())
