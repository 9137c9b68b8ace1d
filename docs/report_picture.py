"""Photograph an HTML report for the README: a real comparison in a real browser, as PNG.

Needs Debian's packages chromium and chromium-driver, and the extra `dev`. Run it from the
root of the checkout: python docs/report_picture.py
"""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

COMMAND = "cpusim compare --model bytemodel/weights/cpu-small.pt --programs 500 --max-length 32"
WIDTH, TALL = 1200, 3000
COLOURS = 128  # a page has few, and the picture is a third of the size

SHOW_LONGEST = """
const programs = JSON.parse(document.getElementById('data').textContent).programs;
const steps = programs.map((program) => program.last);
const select = document.getElementById('program');
select.value = steps.indexOf(Math.max(...steps));
select.dispatchEvent(new Event('change'));
return document.getElementById('heat2').getBoundingClientRect().bottom + 24;
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.html"
        words = [*COMMAND.split(), "--html", str(report)]
        words[0] = str(Path(sys.executable).with_name(words[0]))
        done = subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(f"{COMMAND}: exit code {done.returncode}")
        picture = Image.open(io.BytesIO(photograph(report)))
    few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(Path(__file__).with_name("report.png"), optimize=True)


def photograph(page: Path) -> bytes:
    """The page from its top to the end of its first heat map, as PNG."""
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
        height = browser.execute_script(SHOW_LONGEST)
        area = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": area})
        return base64.b64decode(shot["data"])
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
