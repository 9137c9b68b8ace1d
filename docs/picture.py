"""Draw the terminal pictures of the README: real commands, real output, as SVG.

Run it from the root of the checkout: python docs/picture.py
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bytemodel.cpu import load_stepper, shipped_checkpoint
from cli.debugger import DebuggerApp
from cpusim.debugger import Debugger
from cpusim.loader import load_program

PICTURES = {
    "run": "cpusim run examples/divide.s --acc 200 --set A=7",
    "compare": "cpusim compare examples/divide.s examples/sort.s",
}
COLUMNS, ROWS = 80, 24


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
    picture = asyncio.run(debugger("examples/divide.s"))
    (folder / "debug.svg").write_text(picture)


async def debugger(source: str) -> str:
    """The debugger of a program at the first step that the shipped model gets wrong."""
    program = load_program(Path(source))
    model = load_stepper(shipped_checkpoint())
    app = DebuggerApp(Debugger(model, source, program.memory, program.state))
    async with app.run_test(size=(COLUMNS, ROWS)) as pilot:
        await pilot.press("d")
        await pilot.pause()
        while workers := list(app.workers):
            await asyncio.gather(*(w.wait() for w in workers), return_exceptions=True)
            await pilot.pause()
        return app.export_screenshot(title=f"cpusim debug {source}")


if __name__ == "__main__":
    main()
