"""`python -m vigil` is `vigil`."""

import sys

from vigil.cli import main

sys.exit(main())
