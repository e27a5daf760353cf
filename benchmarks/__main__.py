"""Run benchmarks; see the package's docstring."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import time
from pathlib import Path

import benchmarks
from benchmarks.report import machine, table

RESULTS = Path(__file__).parent / "RESULTS.md"


def names() -> list[str]:
    """Modules of this package that measure something."""
    found = [info.name for info in pkgutil.iter_modules(benchmarks.__path__) if not info.ispkg]
    return [name for name in sorted(found) if "def measure(" in (RESULTS.parent / f"{name}.py").read_text()]


def section(name: str) -> str:
    """Run one benchmark; its docstring and its table as Markdown."""
    module = importlib.import_module(f"benchmarks.{name}")
    rows = module.measure()
    date = time.strftime("%Y-%m-%d")
    made = f"`python -m benchmarks {name}`, {date}, {machine()}"
    return f"## {name}\n\n{(module.__doc__ or '').strip()}\n\n{made}\n\n{table(rows)}\n"


def write(name: str, text: str) -> None:
    """Replace the section of ``name`` in RESULTS.md, or add it at the end."""
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    pattern = re.compile(rf"^## {re.escape(name)}\n.*?(?=^## |\Z)", re.M | re.S)
    known = pattern.search(old) is not None
    new = pattern.sub(lambda _: text + "\n", old) if known else old.rstrip("\n") + "\n\n" + text
    RESULTS.write_text(new.rstrip("\n") + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=benchmarks.__doc__)
    parser.add_argument("names", nargs="*", help=f"which ones (all: {', '.join(names())})")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    arguments = parser.parse_args()
    for name in arguments.names or names():
        text = section(name)
        print(text, flush=True)
        if arguments.write:
            write(name, text)


if __name__ == "__main__":
    main()
