"""`python -m tailseg` is `tailseg`."""

import sys

from tailseg.cli import main

sys.exit(main())
