"""The HTML report: what it says, and how it behaves in a real browser without a network."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import bytemodel.cpu
from cli import html_report
from cli.cpusim import main
from cpusim.assembler import assemble
from cpusim.isa import ACC, FIRST_REGISTER, IR, STATE_SIZE
from cpusim.lockstep import (
    END,
    END_TOKEN,
    NO_TOKEN,
    Bytes,
    Case,
    Comparison,
    OracleStepper,
    Predictions,
    Tokens,
    compare,
    record,
)
from cpusim.reference import run
from tests.certain import CertainModel
from tests.cli.browser import (
    CONTRASTS,
    Outline,
    as_on_a_phone,
    check_structure,
    in_a_browser,
    media,
    press,
)

PROGRAM = "LOADI 5\nPOP A\nADD A B\nSWAP A\nMUL A C\nDIV B C D\nHLT\n"
START = bytes([0, 253, 0, 0, 0, 0, 63, 235, *[7] * 8])
STEPS = 8
NONE = "\u2013"
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\u202e\"'&.s"

REFUSE, STOP = object(), object()
Fault = dict[int, int] | object


@dataclass
class Faulty:
    """The oracle, but for faults planted by program and step: other bytes, the end, or nothing.

    It gives 0.75 to what it says where that is right; where it is wrong 0.5, and 0.25 to the
    byte expected. With `sure=False` it has no probabilities.
    """

    faults: dict[str, dict[int, Fault]]
    sure: bool = True
    name: str = "model:faulty.pt"
    asked: list[int] = field(default_factory=list)

    def step(self, memory: Bytes, states: Bytes) -> Tokens:
        """Asked only where a verified answer mixes bytes and 256, and then says the same."""
        said = OracleStepper().step(memory, states)
        said[ACC] = END_TOKEN
        return said

    def verify(self, cases: Sequence[Case]) -> Iterator[tuple[int, Predictions]]:
        self.asked.append(len(cases))
        for index, case in enumerate(cases):
            expected = np.concatenate([case.records[1:].astype(np.int16), END[None]])
            said = expected.copy()
            for step, fault in self.faults.get(case.name, {}).items():
                if fault is STOP:
                    said[step - 1] = END_TOKEN
                elif fault is REFUSE:
                    said[step - 1] = NO_TOKEN
                else:
                    assert isinstance(fault, dict)
                    for place, token in fault.items():
                        said[step - 1, place] = token
            right = said == expected
            of_expected = np.where(right, 0.75, 0.25).astype(np.float32)
            of_said = np.where(right, 0.75, 0.5).astype(np.float32)
            yield index, Predictions(said, of_expected, of_said) if self.sure else Predictions(said)


def program(name: str, source: str = PROGRAM) -> Case:
    memory = np.frombuffer(assemble(source), np.uint8)
    return Case(name, memory, np.frombuffer(START, np.uint8)[None])


def compared(faulty: Faulty, *programs: Case, max_steps: int = 4096) -> Comparison:
    cases = record(OracleStepper(), programs, max_steps=max_steps)
    return compare(cases, Faulty(faulty.faults, faulty.sure, faulty.name))


def page(faulty: Faulty, *programs: Case, most: int = 20, max_steps: int = 4096) -> str:
    comparison = compared(faulty, *programs, max_steps=max_steps)
    about = html_report.About(
        f"{len(programs)} programs",
        {"Precision": "float32"},
        [],
        ["cpusim", "compare", "my prog.s"],
        datetime(2026, 3, 4, 5, 6, tzinfo=UTC),
        1.5,
    )
    shown = html_report.embedded(comparison, most)
    made = html_report.page(
        comparison, faulty, shown, about, window=5, replay=lambda one: ["replay", one.case.name]
    )
    return made.decode()


def data(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    values: dict[str, Any] = json.loads(found)
    return values


FAULTS: dict[str, dict[int, Fault]] = {
    "first.s": {
        4: {FIRST_REGISTER: 249},
        6: {ACC: 1, FIRST_REGISTER + 3: 2},
        7: {IR: 20, IR + 2: 2},
    },
    "stops.s": {5: STOP},
    "goes on.s": {STEPS: dict.fromkeys(range(STATE_SIZE), 3)},
    "refuses.s": {6: REFUSE},
    "mixes.s": {6: {ACC: END_TOKEN}},
    HOSTILE: {7: {ACC: 9}},
}
PROGRAMS = [program(name) for name in [*FAULTS, "exact.s"]]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with differences of every kind, and with names that try to break out."""
    path = tmp_path_factory.mktemp("html") / "report.html"
    path.write_text(page(Faulty(FAULTS, name=f"model:{HOSTILE}"), *PROGRAMS), encoding="utf-8")
    return path


# What the page says ---------------------------------------------------------------------


def cpusim(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["compare", *map(str, words)])
    assert result.exit_code == code, result.output
    return result


def trace(path: Path, *changes: tuple[int, int, int]) -> Path:
    memory = assemble(PROGRAM)
    records = np.frombuffer(b"".join(run(memory, START).records), np.uint8).reshape(-1, 16).copy()
    for number, place, value in changes:
        records[number, place] = value
    path.write_bytes(memory + records.tobytes())
    return path


def test_the_command_writes_the_page_beside_its_report_on_the_terminal(tmp_path: Path) -> None:
    wrong, out = trace(tmp_path / "wrong.bin", (4, ACC, 6)), tmp_path / "report.html"
    words = ["--against", f"trace:{wrong}", "--html", out]
    assert cpusim(*words, code=1).stdout.splitlines()[-1] == "they differ"
    text = out.read_text()
    assert "They differ</h1>" in text
    assert "0 of 1" in text
    assert hashlib.sha256(wrong.read_bytes()).hexdigest() in text
    assert f"cpusim compare --against trace:{wrong}</code>" in text
    assert data(text)["programs"][0]["said"] == {"4": {"1": 6}}
    assert "wrong.bin: wrong state at step 4 of 8\n" in text
    assert cpusim(*words, code=2).stderr == f"{out}: already exists; use --force to replace it\n"
    cpusim(*words, "--force", code=1)
    same = cpusim("--against", "oracle", "--json", tmp_path / "x", "--html", tmp_path / "x", code=2)
    assert "name the same file" in same.stderr
    again = tmp_path / ".." / tmp_path.name / "x"
    same = cpusim("--against", "oracle", "--json", tmp_path / "x", "--html", again, code=2)
    assert "name the same file" in same.stderr


def test_of_a_run_folder_the_page_names_the_file_of_its_weights_and_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def load(path: Path, _: str) -> CertainModel:
        asked.append(path)
        return CertainModel(name=f"model:{path}")

    monkeypatch.setattr(bytemodel.cpu, "load_stepper", load)
    weights, out = tmp_path / "run" / "model.pt", tmp_path / "report.html"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    words = ["--model", weights.parent, "--programs", 1, "--html", out, "--json", "-"]
    assert json.loads(cpusim(*words).stdout)["model"] == str(weights)
    assert asked == [weights]
    text = out.read_text()
    assert hashlib.sha256(b"weights").hexdigest() in text
    assert f">{weights}</bdi>" in text


def test_random_programs_are_named_by_seed_distribution_and_the_whole_command(
    tmp_path: Path,
) -> None:
    out = tmp_path / "report.html"
    words = ["--programs", 5, "--seed", 9, "--max-length", 12, "--max-steps", 50]
    assert cpusim(*words, "--against", "oracle", "--html", out).exit_code == 0
    text = out.read_text()
    assert "They agree</h1>" in text
    assert "5 from number 0 on, seed 9, published distribution, 1 to 12 instructions" in text
    assert (
        "cpusim compare --programs 5 --start 0 --seed 9 --distribution published --min-length 1"
        " --max-length 12 --against oracle --max-steps 50</code>"
    ) in text
    # Nothing differs, and still there is something to step through.
    assert [one["difference"] for one in data(text)["programs"]] == [None] * 3


def test_a_program_of_which_nothing_executes_has_a_page_too(tmp_path: Path) -> None:
    illegal, out = tmp_path / "illegal.bin", tmp_path / "report.html"
    illegal.write_bytes(b"\xff\1\2\3")
    assert cpusim(illegal, "--against", "reference", "--html", out).exit_code == 0
    text = out.read_text()
    assert "They agree</h1>" in text
    assert [one["last"] for one in data(text)["programs"]] == [1]
    assert 'id="operands"' not in text


def test_show_says_how_many_programs_are_on_the_page(tmp_path: Path) -> None:
    wrong, out = trace(tmp_path / "wrong.bin", (4, ACC, 6)), tmp_path / "report.html"
    cpusim("--against", f"trace:{wrong}", "--show", 0, "--html", out, code=1)
    assert data(out.read_text())["programs"] == []
    faulty = Faulty({f"{i}.s": {2 + i: {ACC: 9}} for i in range(6)})
    text = page(faulty, *(program(f"{i}.s") for i in (3, 1, 5, 0)), most=3)
    assert [one["name"] for one in data(text)["programs"]] == ["0.s", "1.s", "3.s"]
    assert "The first 3 of 4 programs that differ" in text
    assert "1 more program differs" in text


def test_only_programs_on_the_page_are_asked_for_their_probabilities() -> None:
    faulty = Faulty(FAULTS)
    page(faulty, *PROGRAMS, most=2)
    assert faulty.asked == [2]


def test_the_steps_on_the_page_are_those_of_the_comparison() -> None:
    comparison = compared(Faulty(FAULTS), *PROGRAMS)
    by_name = {result.case.name: result for result in comparison.results}
    for one in data(page(Faulty(FAULTS), *PROGRAMS[:-2]))["programs"]:
        result = by_name[one["name"]]
        assert (one["first"], one["last"], one["end"]) == (1, STEPS, STEPS)
        assert one["records"] == [bytes(r).hex() for r in result.case.records]
        expected = result.case.expected_steps()
        for step in range(1, STEPS + 1):
            tokens = expected[step - 1].copy()
            for place, token in one["said"].get(str(step), {}).items():
                assert one["saidP"][str(step)][place] == 0.5
                tokens[int(place)] = token
            assert np.array_equal(tokens, result.said[step - 1])
            assert set(one["expectedP"][step - 1]) <= {0.25, 0.75}


def test_a_long_program_is_embedded_around_its_difference() -> None:
    endless = program("endless.s", "INC\n" * 256)
    for at, first in ((3, 1), (1000, 744), (2999, 2489)):
        faulty = Faulty({"endless.s": {at: {ACC: 9}}})
        (one,) = data(page(faulty, endless, max_steps=3000))["programs"]
        assert (one["first"], one["last"], one["end"]) == (first, first + 511, 3000)
        assert len(one["records"]) == one["last"] - one["known"] + 1
        assert one["said"] == {str(at): {str(ACC): 9}}
        assert one["open"] == "step limit of 3,000 reached"


def test_many_long_programs_stay_within_a_few_megabytes() -> None:
    names = [f"{i}.s" for i in range(30)]
    faulty = Faulty({name: {9: {ACC: 9}} for name in names})
    text = page(faulty, *(program(name, "INC\n" * 256) for name in names), most=30, max_steps=600)
    assert len(data(text)["programs"]) == 20
    assert "10 more programs differ" in text
    assert len(text) < 3_000_000


def test_what_the_second_answer_decides_otherwise_has_no_probability() -> None:
    comparison = compared(Faulty({"a.s": {4: {ACC: 9, FIRST_REGISTER: 1}}}), program("a.s"))
    other = Faulty({"a.s": {4: {ACC: 8, FIRST_REGISTER: 1}}})
    (case,) = comparison.results
    text = html_report.page(
        *(comparison, other, [case], _about()), window=0, replay=lambda _: ["replay"]
    ).decode()
    (one,) = data(text)["programs"]
    assert one["said"] == {"4": {str(ACC): 9, str(FIRST_REGISTER): 1}}
    assert one["saidP"] == {"4": {str(ACC): None, str(FIRST_REGISTER): 0.5}}


def _about() -> html_report.About:
    return html_report.About("", {}, [], [], datetime(2026, 1, 1, tzinfo=UTC), 0)


def test_the_page_refers_to_nothing_outside_itself(report: Path) -> None:
    outline = Outline(report.read_text())
    assert not outline.all("img", "iframe", "object", "embed", "video", "audio", "base", "form")
    targets = [
        str(value)
        for _, attributes in outline.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "poster", "data")
    ]
    assert targets
    assert all(target.startswith("#") or target == "data:," for target in targets)
    assert not re.search(r"url\(|@import", report.read_text())
    assert len(outline.all("script")) == 2


def test_the_page_has_the_structure_that_a_screen_reader_goes_by(report: Path) -> None:
    outline = Outline(report.read_text())
    check_structure(outline)
    assert all("scope" in attributes for attributes in outline.all("th"))
    # The one table without a caption gets it from the script, with its content.
    assert len(outline.all("caption")) == len(outline.all("table")) - 1
    labels = {attributes.get("for") for attributes in outline.all("label")}
    for control in outline.all("select"):
        assert control["id"] in labels
    (status,) = [a for _, a in outline.tags if a.get("role") == "status"]
    assert status["aria-live"] == "polite"


def test_the_differences_can_be_read_without_javascript(report: Path) -> None:
    text = report.read_text()
    assert "first.s: wrong state at step 4 of 8\n" in text
    assert "after SWAP A: expected a state" in text
    assert "replay: replay first.s" in text


def test_names_are_escaped_and_cannot_turn_the_text_round(report: Path) -> None:
    text = report.read_text()
    assert "\u202e" not in text
    assert "<img" not in text
    assert "document.title=&#39;owned&#39;" in text
    names = {one["name"] for one in data(text)["programs"]}
    assert HOSTILE.replace("\u202e", "\\u202e") in names


# In a browser -----------------------------------------------------------------------------


@pytest.fixture
def browser(chromium: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    """The report, freshly opened."""
    media(chromium, prefers_reduced_motion="reduce")  # so that a click finds what it scrolled to
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.get(report.as_uri())
    return chromium


def status(driver: webdriver.Chrome) -> str:
    text: str = driver.find_element(By.ID, "status").text
    return text


def choose(driver: webdriver.Chrome, name: str) -> None:
    for option in driver.find_elements(By.CSS_SELECTOR, "#program option"):
        if option.text.startswith(name):
            option.click()
            return
    raise AssertionError(name)


def marked(driver: webdriver.Chrome) -> list[list[str]]:
    """The cells of the rows that are marked as different."""
    rows = driver.find_elements(By.CSS_SELECTOR, "#state tr.wrong")
    return [[cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th,td")] for row in rows]


@in_a_browser
def test_it_opens_from_a_file_with_nothing_to_say_and_nothing_to_fetch(
    browser: webdriver.Chrome, report: Path
) -> None:
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(report.as_uri())
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert {url for url in requested if not url.startswith("data:")} == {report.as_uri()}
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


@in_a_browser
def test_a_hostile_name_stays_a_name(browser: webdriver.Chrome) -> None:
    choose(browser, HOSTILE[:20])
    press(browser, Keys.TAB)
    assert browser.title.startswith("They differ: model:</script><script>")
    assert browser.get_log("browser") == []
    assert browser.find_elements(By.TAG_NAME, "img") == []
    # And the page's own policy would have stopped it anyway.
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'document.title = \"owned\"';"
        "document.body.append(s)"
    )
    assert not browser.title.startswith("owned")
    (refusal,) = browser.get_log("browser")
    assert "Content Security Policy" in refusal["message"]


@in_a_browser
@pytest.mark.parametrize("on", ["body", "#viewer", "#next", "#listing"])
def test_keys_step_through_a_program(browser: webdriver.Chrome, on: str) -> None:
    if on != "body":
        browser.execute_script("document.querySelector(arguments[0]).focus()", on)
    assert status(browser).startswith("Step 4 of 8, after ADD A B: ✗ 1 field differs: A.")
    for key, step in (
        (Keys.ARROW_RIGHT, 5),
        (Keys.ARROW_LEFT, 4),
        ("j", 5),
        ("k", 4),
        (Keys.HOME, 1),
        (Keys.ARROW_LEFT, 1),
        (Keys.END, 8),
        ("j", 8),
        ("p", 7),
        ("p", 6),
        ("p", 4),
        ("n", 6),
    ):
        press(browser, key)
        assert status(browser).startswith(f"Step {step} of 8, "), key
        assert browser.find_element(By.ID, "step").get_attribute("value") == str(step)
    press(browser, Keys.HOME, "p")
    assert status(browser) == "Step 1: there is no earlier difference."


@in_a_browser
def test_keys_leave_other_controls_and_shortcuts_alone(browser: webdriver.Chrome) -> None:
    before = status(browser)
    browser.execute_script("document.querySelector('#form').focus()")
    press(browser, Keys.END, "n")
    browser.execute_script("document.querySelector('#letters').click()")
    browser.execute_script("document.activeElement.blur()")
    press(browser, "j", "n")
    assert status(browser) == before
    browser.execute_script("document.querySelector('#step').focus()")
    press(browser, Keys.ARROW_RIGHT)  # the slider's own
    assert status(browser).startswith("Step 5 of 8")


@in_a_browser
def test_buttons_and_the_picture_of_steps_do_the_same(browser: webdriver.Chrome) -> None:
    for button, step in (("last", 8), ("back", 7), ("first", 1), ("on", 2), ("next", 4)):
        browser.find_element(By.ID, button).click()
        assert status(browser).startswith(f"Step {step} of 8")
    picture = browser.find_element(By.CSS_SELECTOR, "#ribbon svg")
    assert picture.get_attribute("aria-label") == "Wrong steps: 4, 6, 7"
    assert len(picture.find_elements(By.CSS_SELECTOR, "rect.bad")) == 3
    bars = picture.find_elements(By.CSS_SELECTOR, "rect.fine")
    bars[0].click()
    assert status(browser).startswith("Step 1 of 8")


@in_a_browser
def test_both_states_stand_side_by_side_with_what_differs_marked(
    browser: webdriver.Chrome,
) -> None:
    heads = browser.find_elements(By.CSS_SELECTOR, "#state thead th")
    assert [head.text for head in heads[:6]] == [
        "Field", "Before", "Oracle", "its p", "Model", "its p",
    ]  # fmt: skip
    assert marked(browser) == [["A", "5", "240*", "0.2500", "249", "0.5000", "✗ differs"]]
    assert len(browser.find_elements(By.CSS_SELECTOR, "#state tbody tr")) == 16
    wrong = browser.find_element(By.CSS_SELECTOR, "#state tr.wrong .candidate")
    assert int(wrong.value_of_css_property("font-weight")) >= 700
    assert "underline" in wrong.value_of_css_property("text-decoration")
    fine = browser.find_element(By.CSS_SELECTOR, "#state tr:not(.wrong) .candidate")
    assert int(fine.value_of_css_property("font-weight")) == 400
    listed = browser.find_element(By.ID, "differences").text
    assert listed == (
        "A: expected 240 (p 0.2500), predicted 249 (p 0.5000). ADD A B, which writes it."
    )
    current = browser.find_elements(By.CSS_SELECTOR, "#listing [aria-current=step]")
    assert [line.text.split() for line in current] == [["▶", "2", "ADD", "A", "B"]]
    press(browser, "n")
    assert [row[0] for row in marked(browser)] == ["ACC", "D"]
    press(browser, "n")
    listed = browser.find_element(By.ID, "differences").text.splitlines()
    assert listed[0].endswith("Fetch from slot 6: HLT.")
    assert listed[-1] == "Predicted instruction: .byte 0x14,0x00,0x02,0x00."
    press(browser, "j")
    assert marked(browser) == []
    assert status(browser) == "Step 8 of 8, after HLT: both end here."


@in_a_browser
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stops.s", "Step 5 of 8, after SWAP A: ✗ the model ends here, the oracle goes on."),
        ("goes on.s", "Step 8 of 8, after HLT: ✗ the oracle ends here, the model goes on."),
        ("refuses.s", "Step 6 of 8, after MUL A C: ✗ no next state."),
        ("mixes.s", "Step 6 of 8, after MUL A C: ✗ 1 field differs: ACC."),
    ],
)
def test_every_kind_of_difference_is_announced(
    browser: webdriver.Chrome, name: str, said: str
) -> None:
    choose(browser, name)
    assert status(browser) == f"{said} First difference of the free run."
    assert marked(browser)
    assert browser.get_log("browser") == []


@in_a_browser
def test_without_probabilities_there_are_no_columns_for_them(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(page(Faulty(FAULTS, sure=False, name="trace:board.bin"), *PROGRAMS[:1]))
    chromium.get(path.as_uri())
    assert marked(chromium) == [["A", "5", "240*", "249", "✗ differs"]]
    heads = chromium.find_elements(By.CSS_SELECTOR, "#state thead th")
    assert [head.text for head in heads if head.is_displayed()][:4] == [
        "Field", "Before", "Oracle", "Trace",
    ]  # fmt: skip
    assert chromium.get_log("browser") == []


@in_a_browser
def test_the_heat_map_tells_its_counts_to_pointer_and_keyboard(browser: webdriver.Chrome) -> None:
    tip = browser.find_element(By.ID, "tip")
    assert not tip.is_displayed()
    cell = browser.find_element(By.CSS_SELECTOR, "#heat2 td[tabindex='0']")
    browser.execute_script("arguments[0].focus()", cell)
    # SWAP A after ADD A B: 5 and 240, once in each program; one of them ended too early.
    assert tip.text == "SWAP R, ACC 0 to 15: 6 of 7 steps right, 85.71 %"
    assert cell.text == "85"
    assert cell.get_attribute("aria-describedby") == "tip"
    press(browser, Keys.ARROW_RIGHT)
    assert tip.text == "SWAP R, operand x 240 to 255: 6 of 7 steps right, 85.71 %"
    press(browser, Keys.ARROW_DOWN)
    assert tip.text.startswith("ADD R R, operand y 224 to 239: 6 of 7 steps right")
    press(browser, Keys.ESCAPE)
    assert not tip.is_displayed()
    joint = browser.find_elements(By.CSS_SELECTOR, "#joint td[data-n]")
    form = browser.find_element(By.CSS_SELECTOR, "#form option:checked").text
    assert (form, len(joint)) == ("MUL R R", 1)
    webdriver.ActionChains(browser).move_to_element(joint[0]).perform()
    assert tip.text == "MUL R R, operand x 0 to 15, operand y 0 to 15: 4 of 7 steps right, 57.14 %"


@in_a_browser
def test_the_table_of_instructions_sorts(browser: webdriver.Chrome) -> None:
    def column(number: int) -> list[str]:
        cells = browser.find_elements(By.CSS_SELECTOR, f"#forms tbody tr > :nth-child({number})")
        return [cell.text for cell in cells]

    head = browser.find_elements(By.CSS_SELECTOR, "#forms th button")[3]
    head.click()
    assert column(4)[:6] == ["3", "2", "1", "1", "1", NONE]
    assert column(1)[0] == "MUL R R"
    assert browser.find_element(By.CSS_SELECTOR, "#forms th[aria-sort]").text.startswith("Wrong")
    head.click()
    assert column(4)[-1] == "3"


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_every_text_has_the_contrast_of_wcag_aa(browser: webdriver.Chrome, scheme: str) -> None:
    if scheme == "print":
        media(browser, "print", prefers_color_scheme="dark")
    else:
        media(browser, prefers_color_scheme=scheme)
    background = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
    lightest = max(int(number) for number in re.findall(r"\d+", background)[:3])
    assert lightest < 40 if scheme == "dark" else lightest > 240
    # One of each shade, whether these few programs reach it or not.
    browser.execute_script(
        "const p = document.querySelector('.shades');"
        "if (p.querySelectorAll('.s0,.s1,.s2,.s3,.s4,.s5').length !== 6) throw new Error('shades')"
    )
    found = browser.execute_script(CONTRASTS)
    assert len(found) > 10
    too_low = [entry for entry in found if entry[0] < (3 if entry[1] else 4.5)]
    assert too_low == []


@in_a_browser
def test_a_page_of_320_pixels_scrolls_in_one_direction_only(browser: webdriver.Chrome) -> None:
    as_on_a_phone(browser, 320)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 320
    # What is wider scrolls within itself, and a keyboard gets there.
    unreachable = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter((e) => e.scrollWidth >"
        " e.clientWidth + 1 && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX)"
        " && e.tabIndex < 0).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert unreachable == []


@in_a_browser
def test_tab_reaches_every_control_shows_where_it_is_and_leaves_again(
    browser: webdriver.Chrome,
) -> None:
    wanted = {"program", "step", "first", "back", "on", "last", "previous", "next", "listing"}
    seen: list[str] = []
    for _ in range(80):
        press(browser, Keys.TAB)
        focused = browser.switch_to.active_element
        if focused.tag_name == "body":
            break
        seen.append(focused.get_attribute("id") or focused.tag_name)
        assert focused.value_of_css_property("outline-style") != "none", seen[-1]
    else:
        raise AssertionError(f"no way out: {seen}")
    assert wanted | {"letters", "form"} <= set(seen)


@in_a_browser
def test_motion_is_reduced_for_those_who_ask_for_it(browser: webdriver.Chrome) -> None:
    root = browser.find_element(By.TAG_NAME, "html")
    media(browser, prefers_reduced_motion="no-preference")
    assert root.value_of_css_property("scroll-behavior") == "smooth"
    media(browser, prefers_reduced_motion="reduce")
    assert root.value_of_css_property("scroll-behavior") == "auto"


@in_a_browser
def test_paper_shows_the_tables_and_no_controls(browser: webdriver.Chrome) -> None:
    media(browser, "print")
    assert not browser.find_element(By.ID, "next").is_displayed()
    assert not browser.find_element(By.TAG_NAME, "nav").is_displayed()
    assert browser.find_element(By.ID, "state").is_displayed()
    assert browser.find_element(By.ID, "heat2").is_displayed()


@in_a_browser
def test_a_long_program_can_be_stepped_through_where_it_is_embedded(
    chromium: webdriver.Chrome, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    faulty = Faulty({"endless.s": {900: {ACC: 9}}})
    path.write_text(page(faulty, program("endless.s", "INC\n" * 256), max_steps=3000))
    chromium.get(path.as_uri())
    assert status(chromium).startswith("Step 900 of 3,000, after INC: ✗ 1 field differs: ACC.")
    press(chromium, Keys.HOME)
    assert status(chromium).startswith("Step 644 of 3,000")
    current = chromium.find_element(By.CSS_SELECTOR, "#listing [aria-current=step]")
    assert current.text.split()[1:] == ["255", "INC"]
    option = chromium.find_element(By.CSS_SELECTOR, "#program option")
    assert "steps 644 to 1155" in (option.get_attribute("textContent") or "")
