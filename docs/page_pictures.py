"""Photograph pages for the README, as PNG: a real comparison and a real gallery in a real browser.

Needs Debian's packages chromium and chromium-driver, and the extra `dev`. Run it from the
root of the checkout: python docs/page_pictures.py [report] [gallery]
"""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

WIDTH, TALL = 1200, 3000


class Page(NamedTuple):
    """`command`: what makes it, but for where; `page`: its place in what is made. `prepare`: a
    script that returns from where to where, from the top, it is to be seen. `colours`: a page has
    few, and the picture is a third of the size."""

    command: str
    page: str
    prepare: str
    colours: int


PAGES = {
    "report": Page(
        "cpusim compare --model bytemodel/weights/cpu-small.pt --programs 500 --max-length 32"
        " --html {}",
        "",
        """
        const programs = JSON.parse(document.getElementById('data').textContent).programs;
        const steps = programs.map((program) => program.last);
        const select = document.getElementById('program');
        select.value = steps.indexOf(Math.max(...steps));
        select.dispatchEvent(new Event('change'));
        return [0, document.getElementById('heat2').getBoundingClientRect().bottom + 24];
        """,
        128,
    ),
    "gallery": Page(
        "bgpt gallery -o {} -n 2",
        "index.html",
        """
        const place = (selector) => document.querySelector(selector).getBoundingClientRect();
        return [place('#room-audio').top - 24, place('#room-music li').bottom + 6];
        """,
        256,
    ),
}


def main() -> None:
    for name in sys.argv[1:] or PAGES:
        found = PAGES[name]
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / f"{name}.html"
            words = [word.format(made) for word in found.command.split()]
            words[0] = str(Path(sys.executable).with_name(words[0]))
            done = subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
            if done.returncode not in (0, 1):
                raise SystemExit(f"{found.command}: exit code {done.returncode}")
            picture = Image.open(io.BytesIO(photograph(made / found.page, found.prepare)))
        few = picture.convert("RGB").quantize(found.colours, dither=Image.Dither.NONE)
        few.save(Path(__file__).with_name(f"{name}.png"), optimize=True)


def photograph(page: Path, prepare: str) -> bytes:
    """The part of the page that `prepare` says, as PNG."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",  # root, as in a container, has none
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--window-size={WIDTH},{TALL}",
    ):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        browser.get(page.resolve().as_uri())
        top, bottom = browser.execute_script(prepare)
        area = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top, "scale": 1}
        how = {"clip": area, "captureBeyondViewport": True}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", how)
        return base64.b64decode(shot["data"])
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
