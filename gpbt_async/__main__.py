"""The entry point of `gpbt-async` and `python -m gpbt_async`.

Apart from cli/app.py because importing that takes a tenth of a second, in which a user may press Ctrl-C.
"""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from .cli.app import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("gpbt-async: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
