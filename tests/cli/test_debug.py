"""`cpusim debug` as its user meets it: every key on a screen without a terminal, and refusals."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import DataTable, Footer, Static

from bytemodel import checkpoint
from bytemodel.config import PRESETS
from bytemodel.model import ByteModel
from cli import debug, debug_view
from cli.cpusim import main
from cli.debugger import DebuggerApp, EditScreen, HelpScreen, Panel, Strip, Table
from cpusim.assembler import assemble
from cpusim.debugger import Debugger
from cpusim.isa import ACC, FIELDS, FIRST_REGISTER, IR, PC, STATE_SIZE
from cpusim.lockstep import Stepper
from tests.pupil import Pupil, Refuser

C, D = FIRST_REGISTER + 2, FIRST_REGISTER + 3
SOURCE = "LOADI 200\nPOP A\nLOADI 7\nPOP B\nDIV A B C\nMUL B C D\nSUB A D E\nHLT"
LAST = 8
ENDLESS = "INC A\n" * 256
SMALL, LARGE = (80, 24), (120, 40)
FAULTS = {6: {C: 18}, 8: {PC: 7, D: 3}}

Script = Callable[["Screen"], Awaitable[None]]


class Screen:
    """The running debugger, and what can be read on it."""

    def __init__(self, pilot: Pilot[None], app: DebuggerApp) -> None:
        self.pilot, self.app, self.debugger = pilot, app, app.debugger

    async def settle(self) -> None:
        """Until the model has said all that it was asked."""
        while True:
            await self.pilot.pause()
            workers = list(self.app.workers)
            if not workers:
                return
            await asyncio.gather(*(worker.wait() for worker in workers), return_exceptions=True)

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.settle()

    def text(self, selector: str) -> str:
        return self.app.screen_stack[0].query_one(selector, Panel).render().plain

    @property
    def message(self) -> list[str]:
        return self.text("#message").split("\n")

    def row(self, field: int) -> list[str]:
        states = self.app.screen_stack[0].query_one("#states", DataTable)
        return [cell.plain.strip() for cell in states.get_row_at(field)]

    def marks(self) -> dict[int, str]:
        listing = self.app.screen_stack[0].query_one("#listing", DataTable)
        cells = [listing.get_row_at(slot)[0].plain.strip() for slot in range(listing.row_count)]
        return {slot: mark for slot, mark in enumerate(cells) if mark}

    @property
    def chosen(self) -> int:
        return self.app.screen_stack[0].query_one("#states", DataTable).cursor_row


def on_screen(
    script: Script,
    candidate: Stepper | None = None,
    source: str = SOURCE,
    *,
    size: tuple[int, int] = SMALL,
    state: bytes = bytes(STATE_SIZE),
    max_steps: int = 300,
) -> None:
    """Run `script` on a debugger of a program and of a model with two faults in it."""
    pupil = Pupil(FAULTS) if candidate is None else candidate

    async def run() -> None:
        session = Debugger(pupil, "folder/prog.s", assemble(source), state, max_steps=max_steps)
        app = DebuggerApp(session)
        async with app.run_test(size=size) as pilot:
            screen = Screen(pilot, app)
            await screen.settle()
            await script(screen)

    asyncio.run(run())


# ---- What is shown


def test_the_first_screen_shows_the_start_and_what_both_sides_say_comes_next() -> None:
    async def script(screen: Screen) -> None:
        assert screen.row(PC) == ["PC", "0", "1", "1", "62.5%"]
        assert screen.row(IR) == ["IR0", "0", "11", "11", "62.5%"]
        assert screen.row(ACC) == ["ACC", "0", "0", "0", "62.5%"]
        assert screen.marks() == {0: "▷"}
        assert screen.message[1:] == [
            "the initial state: nothing executes, slot 0 is fetched",
            "the CPU and the model agree",
        ]
        assert screen.text("#strip").startswith("step 0 of 8  ●──")
        assert screen.text("#strip").endswith("  2 steps wrong")

    on_screen(script)


def test_a_step_shows_the_executing_slot_and_what_its_instruction_changes() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("right", "space")
        assert screen.marks() == {1: "▶"}
        assert screen.message[1] == "slot 1 executes POP A: copy ACC to register"
        assert screen.row(FIRST_REGISTER)[:4] == ["A", "0", "200*", "200"]
        await screen.press("left")
        assert screen.debugger.position == 1
        assert screen.row(ACC)[:4] == ["ACC", "0", "200*", "200"]
        await screen.press("backspace", "left")
        assert screen.debugger.position == 0
        assert screen.message[0] == "this is the first step"
        await screen.press("end", "right")
        assert screen.debugger.position == LAST
        assert screen.message[0] == "this is the last step"
        await screen.press("home")
        assert screen.debugger.position == 0

    on_screen(script)


def test_d_runs_from_difference_to_difference_and_chooses_the_byte_that_differs() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("d")
        assert (screen.debugger.position, screen.chosen) == (5, C)
        assert screen.row(C) == ["C", "0", "28*", "≠  18", "62.5%"]
        assert screen.message == [
            "the next difference:",
            "slot 4 executes DIV A B C: divide, rounding down; by 0: 255",
            "≠ 1 byte differs: C (CPU 28, model 18)",
        ]
        await screen.press("d")
        assert (screen.debugger.position, screen.chosen) == (7, PC)
        assert screen.message[2] == "≠ 2 bytes differ: PC (CPU 8, model 7), D (196, 3)"
        await screen.press("d")
        assert screen.debugger.position == LAST
        assert screen.message[0] == "no further difference; this is the last step"
        assert screen.message[2] == "HALTED after 8 steps: the model ends here too"
        assert screen.row(PC) == ["PC", "8", "end", "end", "62.5%"]

    on_screen(script)


def test_guesses_of_the_byte_chosen_are_the_most_probable_ones_with_bars() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("d")
        lines = screen.text("#guesses").split("\n")
        assert lines[:2] == ["CPU    28  00011100", "model  18  00010010"]
        assert [line.split() for line in lines[3:5]] == [
            ["18", "████▍", "62.5%"],
            ["28", "█▊", "25.0%", "✓"],
        ]
        assert len(lines) == 3 + debug_view.GUESSES
        await screen.press(*["up"] * (C - IR))
        assert screen.chosen == IR
        lines = screen.text("#guesses").split("\n")
        assert lines[:2] == ["CPU    15  MUL", "model  15  MUL"]
        assert lines[3].split() == ["15", "████▍", "62.5%", "✓"]
        await screen.press("up", "up")
        assert screen.text("#guesses").startswith("CPU     6  slot 6\n")

    on_screen(script)


def test_the_cpus_byte_is_shown_with_its_place_if_it_is_not_among_the_first_guesses() -> None:
    probabilities = torch.arange(257.0).softmax(0).numpy()
    shown = [str(line) for line in debug_view._bars(probabilities, 200, 20)]
    assert [line.split()[0] for line in shown[:5]] == ["end", "255", "254", "253", "252"]
    assert shown[0].split() == ["end", "█████", "63.2%"]
    assert shown[5] == "CPU's, guess 57:"
    assert shown[6].split() == ["200", "<0.1%", "✓"]


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(1, "100%"), (0.99999, "99.9%"), (0.5, "50.0%"), (0.001, "0.1%"), (0.0009, "<0.1%")],
)
def test_a_probability_is_rounded_down(probability: float, shown: str) -> None:
    assert debug_view.percent(probability) == shown


def test_an_illegal_instruction_and_a_step_limit_are_named() -> None:
    async def illegal(screen: Screen) -> None:
        await screen.press("c")
        assert screen.message[1] == (
            "ILLEGAL INSTRUCTION: slot 1 holds 0d 0b 00 00, which is no instruction:"
            " operand x is 11, above the last register 10 (J)"
        )
        assert screen.row(ACC)[2] == "-"
        assert "the CPU says nothing" in screen.text("#guesses")
        # The model cannot go on from it either.
        assert screen.row(ACC)[3] == "-"
        await screen.press("d")
        assert screen.message[0] == "no further difference; this is the last step"

    async def limited(screen: Screen) -> None:
        await screen.press("c")
        assert screen.message[2] == "STOPPED, step limit of 5 reached; --max-steps allows more"

    on_screen(illegal, Pupil(), "INC A\n.byte 13,11,0,0")
    on_screen(limited, Pupil(), ENDLESS, max_steps=5)


END = dict.fromkeys(range(STATE_SIZE), 256)
GOES_ON = dict(enumerate([3, 0, 13, 1, 2, 0, *[0] * 10]))


@pytest.mark.parametrize(
    ("faults", "keys", "verdict"),
    [
        ({3: END}, "d", "≠ the model ends the run here"),
        ({3: {ACC: 256}}, "d", "≠ the model says neither a state nor the end"),
        (
            {LAST + 1: GOES_ON},
            "d",
            "≠ HALTED after 8 steps: the model goes on with PC 3, ADD A B",
        ),
        (
            {3: {ACC: 1, C: 2, D: 3}},
            "d",
            "≠ 3 bytes differ: ACC (CPU 200, model 1), C (0, 2) and 1 more",
        ),
        (
            {3: END},
            "fc",
            "HALTED after 8 steps: no model: on its own it said no state after step 2",
        ),
    ],
)
def test_a_model_that_is_wrong_in_another_way_is_told(
    faults: dict[int, dict[int, int]], keys: str, verdict: str
) -> None:
    async def script(screen: Screen) -> None:
        await screen.press(*keys)
        assert screen.message[2].startswith(verdict)

    on_screen(script, Pupil(faults))


def test_a_candidate_that_has_no_next_state_and_no_probabilities_is_shown_too() -> None:
    async def script(screen: Screen) -> None:
        assert screen.message[2] == "≠ the model has no next state: its battery is empty"
        assert screen.row(ACC) == ["ACC", "0", "0", "≠   -", ""]
        assert "its battery is empty" in screen.text("#guesses")

    on_screen(script, Refuser())


def test_beyond_the_longest_sequence_of_the_model_the_cpu_goes_on_alone() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("right", "right", "right")
        assert screen.message[2] == "no model: its longest sequence, 3 states, is full"
        assert screen.row(ACC)[:4] == ["ACC", "200", "7*", "-"]
        assert screen.text("#strip").endswith("·  right so far")

    on_screen(script, Pupil(max_records=3))


# ---- Breakpoints


def test_breakpoints_are_set_where_the_listing_stands_and_stop_both_ways_of_running() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("shift+tab", "down", "down", "b", "up", "enter")
        assert screen.message[0] == "breakpoint at slot 1 set"
        assert screen.marks() == {0: "▷", 1: "●", 2: "●"}
        await screen.press("c")
        assert (screen.debugger.position, screen.marks()[1]) == (2, "●▶")
        assert screen.message[0] == "breakpoint at slot 1"
        await screen.press("b", "d")
        assert screen.debugger.position == 3
        assert screen.message[0] == "breakpoint at slot 2"
        await screen.press("b", "d", "c")
        assert screen.debugger.position == LAST

    on_screen(script)


def test_the_mouse_sets_a_breakpoint_chooses_a_byte_and_goes_to_a_step() -> None:
    async def script(screen: Screen) -> None:
        # Under the border and the heading comes slot 0.
        for expected in ({0: "▷", 3: "●"}, {0: "▷"}):
            await screen.pilot.click("#listing", offset=(1, 5))
            await screen.settle()
            assert screen.marks() == expected
        await screen.pilot.click("#states", offset=(6, 2 + D))
        await screen.settle()
        assert screen.chosen == D
        strip = screen.app.query_one("#strip", Strip)
        cells = screen.text("#strip")
        await screen.pilot.click("#strip", offset=(1 + cells.index("≠"), 0))
        await screen.settle()
        assert screen.debugger.position == 5
        await screen.pilot.click("#strip", offset=(strip.size.width - 1, 0))
        await screen.settle()
        assert screen.debugger.position == LAST
        await screen.pilot.click("#strip", offset=(0, 0))
        await screen.settle()
        assert screen.debugger.position == 0
        await screen.pilot.click("#states", offset=(6, 2 + D))
        await screen.settle()
        assert isinstance(screen.app.screen, EditScreen)

    on_screen(script)


def test_every_cell_of_the_line_goes_to_a_step_and_every_step_has_its_cell() -> None:
    for source, steps in ((SOURCE, LAST), (ENDLESS, 255)):
        session = Debugger(Pupil(), "p", assemble(source), bytes(STATE_SIZE), max_steps=steps)
        width = 78
        line = str(debug_view.strip(session, width))
        cells = [cell for cell, mark in enumerate(line) if mark in "●·"]
        reached = [debug_view.record_at(session, cell, width) for cell in cells]
        assert (reached[0], reached[-1], reached) == (0, steps, sorted(reached))
        for record in range(steps + 1):
            session.go(record)
            assert len(debug_view.strip(session, width)) == width


# ---- Editing


def test_an_edited_register_is_marked_and_both_go_on_from_it() -> None:
    async def script(screen: Screen) -> None:
        await screen.press(*["right"] * 5, *["down"] * (FIRST_REGISTER - ACC), "e")
        assert isinstance(screen.app.screen, EditScreen)
        await screen.press(*"0x64", "enter")
        assert screen.message[0] == "A set to 100; both go on from here (u undoes it)"
        assert screen.row(FIRST_REGISTER)[:4] == ["A", "=100", "100", "100"]
        # 100 / 7, and the fault is planted in step 6 whatever the operands.
        assert screen.row(C)[:4] == ["C", "0", "14*", "≠  18"]
        await screen.press("u")
        assert screen.row(FIRST_REGISTER)[:4] == ["A", "200", "200", "200"]
        assert screen.message[0] == "edit undone"
        await screen.press("u")
        assert screen.message[0] == "there is no edit to undo"

    on_screen(script)


def test_a_value_that_is_no_byte_is_not_taken_and_escape_changes_nothing() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("enter", *"256", "enter")
        assert isinstance(screen.app.screen, EditScreen)
        hint = screen.app.screen.query_one("#hint", Static)
        assert str(hint.content) == "a number from 0 to 255: 200, 0xc8 or 0b11001000"
        dialog = screen.app.screen.query_one(".dialog")
        assert dialog.content_region.contains_region(hint.region)
        assert screen.app.screen.region.contains_region(dialog.region)
        await screen.press("escape")
        await screen.press("e", "enter")
        assert not isinstance(screen.app.screen, EditScreen)
        assert screen.row(ACC)[1] == "0"
        assert not screen.debugger.timeline.edits

    on_screen(script)


def test_keys_typed_into_a_question_are_not_commands() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("right", "right", "right", "e")
        for key in ("right", "end", "space", "left", "backspace", "home", *"dcbqtfu?"):
            await screen.press(key)
            assert isinstance(screen.app.screen, EditScreen)
            assert screen.debugger.position == 3
        await screen.press("escape", "question_mark")
        for key in ("right", "left", "end", "home", "d", "c"):
            await screen.press(key)
            assert screen.debugger.position == 3

    on_screen(script)


def test_what_the_program_determines_is_not_edited() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("up", "e")
        assert not isinstance(screen.app.screen, EditScreen)
        assert screen.message[0] == "PC comes from the program; choose ACC or a register"

    on_screen(script)


# ---- Running free


def test_running_free_the_model_goes_on_with_its_own_mistake_beside_the_cpu() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("f", "d")
        assert screen.debugger.position == 5
        assert screen.row(C) == ["C", "0", "28*", "0", "≠  18", "62.5%"]
        await screen.press("right")
        # 7 * 18 of its own.
        assert screen.row(D) == ["D", "0", "196*", "0", "≠ 126", "62.5%"]
        assert screen.row(C)[1:4] == ["28", "28", "18"]
        await screen.press("f")
        assert screen.row(D) == ["D", "0", "196*", "196", "62.5%"]
        assert screen.message[0] == "the model is put back on the CPU's states"

    on_screen(script)


# ---- The model thinks in its own time


def test_the_keys_work_while_the_model_thinks_and_only_what_is_wanted_is_asked() -> None:
    pupil = Pupil(FAULTS)

    async def script(screen: Screen) -> None:
        asked = len(pupil.asked)
        pupil.may_answer.clear()
        for position in range(1, 6):
            await screen.pilot.press("right")
            await screen.pilot.pause()
            assert screen.debugger.position == position
        assert screen.row(C) == ["C", "0", "28*", "…", ""]
        assert screen.message[2] == "the model thinks …"
        assert "thinks" in screen.text("#guesses")
        pupil.may_answer.set()
        await screen.settle()
        assert screen.row(C)[3] == "≠  18"
        # The first had been begun; those between were left behind.
        assert len(pupil.asked) - asked <= 2

    on_screen(script, pupil)


def test_a_search_that_the_user_leaves_moves_nothing() -> None:
    pupil = Pupil(FAULTS)

    async def script(screen: Screen) -> None:
        pupil.may_answer.clear()
        await screen.pilot.press("d")
        await screen.pilot.pause()
        assert screen.message[0] in ("looking for the next difference …", "the model is at step 5")
        await screen.pilot.press("right")
        pupil.may_answer.set()
        await screen.settle()
        assert screen.debugger.position == 1
        assert screen.row(PC)[3] == "2"

    on_screen(script, pupil)


@pytest.mark.parametrize("question", ["e", "question_mark"])
def test_a_search_that_ends_behind_a_question_waits_or_goes_on_as_the_question_needs(
    question: str,
) -> None:
    pupil = Pupil(FAULTS)

    async def script(screen: Screen) -> None:
        pupil.may_answer.clear()
        await screen.pilot.press("d", question)
        await screen.pilot.pause()
        pupil.may_answer.set()
        await screen.settle()
        # What is edited is what was asked about; help hides nothing that could be mistaken.
        assert screen.debugger.position == (0 if question == "e" else 5)
        await screen.press("escape")
        assert screen.row(PC)[3] == ("1" if question == "e" else "6")
        assert "looking" not in screen.message[0]

    on_screen(script, pupil)


def test_quitting_does_not_wait_for_all_that_a_free_run_would_say() -> None:
    pupil = Pupil({2: {D: 1}})

    async def script(screen: Screen) -> None:
        await screen.press("f")
        pupil.may_answer.clear()
        await screen.pilot.press("end")
        await screen.pilot.press("q")
        await screen.pilot.pause()
        pupil.may_answer.set()

    on_screen(script, pupil, ENDLESS, max_steps=250)
    assert len(pupil.asked) < 10


# ---- Looks


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("keys", ["d", "fd", "c"])
@pytest.mark.parametrize("source", [SOURCE, ENDLESS])
def test_nothing_is_clipped(size: tuple[int, int], keys: str, source: str) -> None:
    async def script(screen: Screen) -> None:
        await screen.press(*keys)
        app = screen.app
        for widget in app.screen.query("*"):
            if widget.display and widget.id != "trail":
                assert widget.region.area > 0, widget
                assert app.screen.region.contains_region(widget.region), widget
        (footer,) = app.query(Footer)
        assert len(footer.children) == 9
        for key in footer.children:
            assert footer.region.contains_region(key.region)
        states = app.query_one("#states", DataTable)
        assert states.virtual_size.width <= states.scrollable_content_region.width
        assert states.virtual_size.height <= states.scrollable_content_region.height
        listing = app.query_one("#listing", DataTable)
        assert listing.virtual_size.width <= listing.scrollable_content_region.width
        for panel in app.query(Panel):
            if panel.display:
                room = panel.content_size
                lines = panel.render().wrap(Console(width=room.width), room.width)
                assert len(lines) <= room.height, panel
        assert app.query_one("#trail").display == (size == LARGE)

    on_screen(script, Pupil({6: dict.fromkeys(range(STATE_SIZE), 255)}), source, size=size)


def test_a_large_screen_shows_the_way_here() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("right", "right")
        lines = screen.text("#trail").split("\n")
        assert lines[0].split()[:4] == ["step", "PC", "instruction", "ACC"]
        assert lines[-1].startswith(">    2    2  POP A        200*")
        await screen.press("end")
        room = screen.app.query_one("#trail").content_size.height
        assert len(screen.text("#trail").split("\n")) <= room

    on_screen(script, size=LARGE)


def test_the_screen_follows_the_size_of_the_terminal() -> None:
    async def script(screen: Screen) -> None:
        await screen.pilot.resize_terminal(*LARGE)
        await screen.settle()
        assert screen.app.query_one("#trail").display
        assert len(screen.text("#strip")) == LARGE[0] - 2
        await screen.pilot.resize_terminal(50, 12)
        await screen.settle()
        assert len(screen.text("#strip")) == 48
        await screen.press("d")
        assert screen.debugger.position == 5

    on_screen(script)


def test_without_colour_everything_is_grey_and_still_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(screen: Screen) -> None:
        await screen.press("d")
        svg = screen.app.export_screenshot()
        colours = re.findall(r"-r\d+ \{ fill: #(..)(..)(..)", svg)
        # The first is the picture's own, for text without a style.
        assert len(colours) > 5
        assert all(red == green == blue for red, green, blue in colours[1:])
        assert "≠" in svg

    monkeypatch.setenv("NO_COLOR", "1")
    on_screen(script)


def test_t_changes_between_dark_and_light() -> None:
    async def script(screen: Screen) -> None:
        assert screen.app.current_theme.dark
        await screen.press("t")
        assert not screen.app.current_theme.dark
        await screen.press("t")
        assert screen.app.current_theme.dark

    on_screen(script)


def test_help_fits_a_small_terminal_names_every_key_and_closes() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("question_mark")
        assert isinstance(screen.app.screen, HelpScreen)
        text = screen.app.screen.query_one(Static)
        assert screen.app.screen.region.contains_region(text.region)
        lines = str(text.content).split("\n")
        assert len(lines) <= text.region.height
        assert max(map(len, lines)) <= text.region.width
        first_words = {word for line in lines for word in line.split()}
        for binding in (*Table.BINDINGS, *DebuggerApp.BINDINGS):
            key = binding.key_display or binding.key.split(",")[0]  # type: ignore[union-attr]
            if key not in ("?", "ctrl+c"):
                assert {key, key.capitalize()} & first_words, key
        await screen.press("escape")
        assert not isinstance(screen.app.screen, HelpScreen)

    on_screen(script)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_q_and_ctrl_c_quit(key: str) -> None:
    async def script(screen: Screen) -> None:
        await screen.pilot.press(key)
        await screen.pilot.pause()
        assert not screen.app.is_running or screen.app._exit
        assert screen.app.return_code == 0

    on_screen(script)


# ---- The command


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "prog.s"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "ckpt.pt"
    checkpoint.save(path, ByteModel(PRESETS["tiny"]), info={})
    return path


def refused(*words: object) -> str:
    """The sentence printed on stderr with exit code 2."""
    result = CliRunner().invoke(main, ["debug", *map(str, words)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr.strip()


def test_the_command_opens_a_program_from_the_state_asked_with_a_checkpoint(
    program: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(app: DebuggerApp) -> None:
        async with app.run_test() as pilot:
            screen = Screen(pilot, app)
            await screen.settle()
            await screen.press("right", "d")
            assert screen.debugger.timeline.known_wrong_steps
            assert screen.row(ACC)[4].endswith("%")

    opened: list[DebuggerApp] = []

    def run(app: DebuggerApp) -> None:
        opened.append(app)
        asyncio.run(use(app))

    monkeypatch.setattr(debug, "_on_terminal", lambda: True)
    monkeypatch.setattr(DebuggerApp, "run", run)
    options = ["--acc", "9", "--set", "C=3", "--max-steps", "6", "--model", str(model)]
    result = CliRunner().invoke(main, ["debug", str(program), *options])
    assert result.exit_code == 0, result.output
    ((debugger,),) = [[app.debugger for app in opened]]
    start = debugger.timeline.case.records[0]
    assert (start[ACC], start[C]) == (9, 3)
    assert debugger.timeline.case.open_because == "step limit of 6 reached"


def test_a_crash_of_the_screen_is_no_difference(
    program: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debug, "_on_terminal", lambda: True)
    monkeypatch.setattr(DebuggerApp, "run", lambda app: setattr(app, "_return_code", 1))
    result = CliRunner().invoke(main, ["debug", str(program), "--model", str(model)])
    assert result.exit_code == 70


def test_without_textual_one_sentence_says_how_to_install_it(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "cli.debugger")
    for name in [name for name in sys.modules if name.partition(".")[0] == "textual"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    assert refused(program) == (
        "the debugger needs Textual, which is not installed;"
        " pip install 'neural-cpu-lab[debug]' installs it"
    )


def test_what_is_no_program_no_checkpoint_or_no_terminal_is_refused(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no such file" in refused(tmp_path / "nothing.s")
    assert "needs a terminal" in refused(program)
    monkeypatch.setattr(debug, "_on_terminal", lambda: True)
    assert refused(program, "--model", program).startswith(f"{program}: holds objects")
    assert "Z" in refused(program, "--set", "Z=1")


def test_asking_for_help_loads_neither_textual_nor_torch() -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom cli.cpusim import main\n"
        "assert CliRunner().invoke(main, ['debug', '--help']).exit_code == 0\n"
        "assert not {'textual', 'torch', 'numba'} & set(sys.modules)"
    )
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_field_can_be_chosen() -> None:
    async def script(screen: Screen) -> None:
        await screen.press("up", "up")
        seen = []
        for _ in FIELDS:
            title = str(screen.app.query_one("#guesses").border_title)
            seen.append(title.partition(",")[0])
            await screen.press("down")
        assert tuple(seen) == FIELDS

    on_screen(script)
