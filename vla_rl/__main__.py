"""``python -m vla_rl``: the same as the command ``vla-rl``."""

import sys

from vla_rl.cli import main

if __name__ == "__main__":
    sys.exit(main())
