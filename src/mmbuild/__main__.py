"""``python -m mmbuild``, and the installed command."""

import sys


def run() -> int:
    """Run ``mmbuild`` and return its exit status: what the installed command calls."""
    try:  # around the imports too, which take most of the time until a command runs
        import signal

        from mmbuild.cli import main

        status = main()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while Python ends
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(run())
