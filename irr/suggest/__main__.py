import sys

from irr.suggest.command import main

sys.exit(main())
