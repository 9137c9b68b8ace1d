"""Pages in tests: their outline, and how they behave in a real browser without a network."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from selenium import webdriver

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
in_a_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver"
)


class Outline(HTMLParser):
    """Start tags in order, and the text of each element that matters here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def check_structure(outline: Outline) -> None:
    """What a screen reader goes by."""
    assert outline.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 == levels[0]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for landmark in ("header", "nav", "main"):
        assert len(outline.all(landmark)) == 1
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = {
        word
        for _, attributes in outline.tags
        for name in ("aria-labelledby", "aria-describedby", "for")
        for word in (attributes.get(name) or "").split()
    }
    assert referred <= set(ids)


def media(driver: webdriver.Chrome, kind: str = "screen", **features: str) -> None:
    chosen = [{"name": name.replace("_", "-"), "value": v} for name, v in features.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": chosen})


def as_on_a_phone(driver: webdriver.Chrome, width: int) -> None:
    """`width`: of the screen, in CSS pixels."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 640, "deviceScaleFactor": 1, "mobile": True},
    )


def press(driver: webdriver.Chrome, *keys: str) -> None:
    for key in keys:
        driver.switch_to.active_element.send_keys(key)


CONTRASTS = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgba(text) {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
function behind(element) {
  for (let e = element; e; e = e.parentElement) {
    const [r, g, b, a] = rgba(getComputedStyle(e).backgroundColor);
    if (a === 1) return [r, g, b];
    if (a > 0) throw new Error('translucent: ' + e.outerHTML.slice(0, 99));
  }
  throw new Error('nothing behind');
}
function luminance(color) {
  const [r, g, b] = color.map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const found = {};
for (const details of document.querySelectorAll('details')) details.open = true;
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.checkVisibility() || e.matches('script, option')) continue;
  const style = getComputedStyle(e);
  const [one, other] = [luminance(rgba(style.color)), luminance(behind(e))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const key = [style.color, behind(e)].join(' on ');
  const large = parseFloat(style.fontSize) >= 24;
  const name = e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 20);
  if (!(key in found) || !large) found[key] = [ratio, large, name];
}
return Object.values(found);
"""
