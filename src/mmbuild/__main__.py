"""``python -m mmbuild``."""

import signal
import sys


def _main() -> int:
    try:
        from mmbuild.cli import main

        status = main()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while Python ends
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(_main())
