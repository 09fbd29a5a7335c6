"""`python -m coatcheck` is the command `coatcheck`."""

import sys

from coatcheck.cli import main

sys.exit(main())
