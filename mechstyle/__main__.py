"""``python -m mechstyle`` is the command line."""

from __future__ import annotations

from mechstyle.cli import main

if __name__ == "__main__":
    main()
