"""``python -m training``."""

import sys

from .commands import main

# Worker processes import this file under another name.
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
