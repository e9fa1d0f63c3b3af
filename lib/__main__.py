"""`python -m lib` is `companion`."""

import sys

from lib.cli import main

sys.exit(main())
