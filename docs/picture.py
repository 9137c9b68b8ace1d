"""Draw the terminal pictures of the README: real commands, real output, as SVG.

Run it from the root of the checkout: python docs/picture.py
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURES = {
    "run": "cpusim run examples/divide.s --acc 200 --set A=7",
    "compare": "cpusim compare examples/divide.s examples/sort.s",
}
COLUMNS = 80


def main() -> None:
    folder = Path(__file__).parent
    for name, command in PICTURES.items():
        words = command.split()
        words[0] = str(Path(sys.executable).with_name(words[0]))
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)},
        )
        if done.returncode not in (0, 1):
            raise SystemExit(f"{command}: {done.stderr}")
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
        console.print(Text.from_ansi(f"$ {command}\n{done.stdout}"))
        console.save_svg(str(folder / f"{name}.svg"), title=command)


if __name__ == "__main__":
    main()
