"""`python -m coatcheck.stores.postgresql` prints the tables, for those who make them by hand."""

import sys

from coatcheck.stores.postgresql.schema import script

sys.stdout.write(script())
