"""`python -m intvit.commands ...` is `intvit ...`."""

import sys

from intvit.commands import main

if __name__ == "__main__":
    sys.exit(main())
