"""The debugger's screen (Textual). What it shows stands in `cpusim.debugger`, how that reads in
`cli.debug_view`; here are keys, panels, and the thread in which the model thinks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from threading import Lock
from typing import Any, ClassVar

from rich.text import Text
from textual import events, on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.coordinate import Coordinate
from textual.message import Message
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import DataTable, Footer, Input, Static
from textual.worker import Worker, get_current_worker

from cli import debug_view as view
from cpusim.assembler import parse_number, program_slots
from cpusim.debugger import EDITABLE, Answer, Debugger, FreeRun, Halt, Timeline, differing
from cpusim.isa import ACC, FIELDS

HELP = """\
Step k shows record k of the run, "now": the instruction about to
execute, and ACC and registers from before it. Beside it stands what
comes next, as the CPU and as the model say it. The model says its most
probable bytes; "sure" is how probable it holds them, and the panel on
the right has its other guesses for the byte chosen.

→ space     one step                ← backspace   one step back
Home End    first, last step        a click on the top line goes there
d           run to the next step that the model gets wrong
c           run to a breakpoint, or to the end
b           breakpoint at the slot chosen in the listing
↑ ↓ Tab     choose a byte, the other panel; or click
e Enter     set the register chosen and go on from there; u undoes
f           the model runs free: it reads its own output (column
            "own"), no more the CPU's states; again: put it back
t           light or dark           q             quit

≠ the model differs     * changed by the instruction
● breakpoint            = set by you
▶ about to execute      ✓ the CPU's byte"""


class _Left(Exception):
    """The user went elsewhere; what the model was asked is no longer wanted."""


class EditScreen(ModalScreen[int | None]):
    """Asks for a register's new value."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, name: str, step: int, value: int) -> None:
        super().__init__()
        self._question = f"{name} at step {step:,} is {value}. Set it to:"
        self._value = value

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(self._question)
            yield Input(placeholder=str(self._value), max_length=10, compact=True)
            yield Static("Enter sets it, Esc leaves it", id="hint")

    @on(Input.Submitted)
    def set_value(self, event: Input.Submitted) -> None:
        value = parse_number(event.value.strip())
        if not event.value.strip():
            self.dismiss(None)
        elif value is None or value > 255:
            self.query_one("#hint", Static).update(
                Text("a number from 0 to 255: 200, 0xc8 or 0b11001000", style="bold red")
            )
        else:
            self.dismiss(value)


class HelpScreen(ModalScreen[None]):
    """What the screen shows, and its keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,q,enter,space", "dismiss", "Close")
    ]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(HELP))

    def on_click(self) -> None:
        self.dismiss()


class Table(DataTable[Text]):
    """A table of rows in which the keys for columns walk through the run."""

    # Not the app's own keys with priority: those would reach through a question on top.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,space", "app.step", "Step", key_display="→"),
        Binding("left,backspace", "app.step_back", "Back", key_display="←"),
        Binding("home", "app.first", "First step", show=False),
        Binding("end", "app.last", "Last step", show=False),
    ]

    def __init__(self, name: str) -> None:
        super().__init__(id=name, cursor_type="row", cell_padding=0)


class Listing(Table):
    """The program. A click on the marks at the left toggles a breakpoint."""

    class Toggled(Message):
        """Of the breakpoint at a slot."""

        def __init__(self, slot: int) -> None:
            super().__init__()
            self.slot = slot

    def on_click(self, event: events.Click) -> None:
        row, column = event.style.meta.get("row", -1), event.style.meta.get("column", -1)
        if row >= 0 and column == 0:
            event.prevent_default()
            self.post_message(self.Toggled(row))


class Panel(Widget):
    """Text that is written anew for the size it has: `write(width, height)`."""

    def __init__(self, write: Callable[[int, int], Text], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.write = write

    def render(self) -> Text:
        return self.write(*self.content_size)


class Strip(Panel):
    """The whole run on a line; a click goes there."""

    class Clicked(Message):
        """`cell`: counted from the line's first."""

        def __init__(self, cell: int) -> None:
            super().__init__()
            self.cell = cell

    def on_click(self, event: events.Click) -> None:
        self.post_message(self.Clicked(event.x - self.styles.padding.left))


def _put(table: Table, row: int, column: int, cell: Text) -> None:
    """Write a cell that has changed: to write all costs more than to compare them."""
    place = Coordinate(row, column)
    if table.get_cell_at(place) != cell:
        table.update_cell_at(place, cell)


class DebuggerApp(App[None]):
    """The debugger, full screen."""

    TITLE = "cpusim debug"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]  # noqa: RUF012
    CSS = """
    #strip { height: 1; padding: 0 1; background: $panel; }
    #panels { height: 1fr; }
    #panels > * { height: 100%; border: round $primary; border-title-style: bold; }
    #panels > *:focus { border: heavy $primary; background-tint: transparent; }
    DataTable { scrollbar-size-vertical: 1; overflow-x: hidden; background: $background; }
    DataTable > .datatable--header { background: $background; color: $text-muted; }
    #listing { width: 21; }
    #states { width: 36; }
    #guesses { width: 1fr; padding: 0 1; }
    #trail { height: 1fr; display: none; border: round $primary; border-title-style: bold; }
    #message { height: 3; padding: 0 1; }
    .-tall #panels { height: 19; }
    .-tall #trail { display: block; }
    .-wide #listing { width: 28; }
    ModalScreen { align: center middle; }
    .dialog { width: auto; max-width: 100%; height: auto; max-height: 100%; border: heavy $primary;
              padding: 0 1; background: $surface; }
    .dialog Static { width: auto; }
    EditScreen .dialog { width: 52; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "difference", "Difference"),
        Binding("c", "run", "Run"),
        Binding("b", "breakpoint", "Breakpoint"),
        Binding("e", "edit", "Edit"),
        Binding("f", "free", "Free"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("u", "undo", "Undo", show=False),
        Binding("t", "light", "Light or dark", show=False),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]

    class Answered(Message):
        """The model has said what it was asked last, or all there is to say about a run."""

    class Progress(Message):
        """The model is on its way to a record: it is asked after `record` now."""

        def __init__(self, record: int) -> None:
            super().__init__()
            self.record = record

    class Searched(Message):
        """`found`: the next difference on `path` behind `after`, or None."""

        def __init__(self, path: Timeline | FreeRun, after: int, found: int | None) -> None:
            super().__init__()
            self.path, self.after, self.found = path, after, found

    def __init__(self, debugger: Debugger) -> None:
        super().__init__()
        self.debugger = debugger
        self._notice = ""
        self._progress = ""
        self._thinking = Lock()
        self._surveyed: Timeline | None = None

    def compose(self) -> ComposeResult:
        debugger = self.debugger
        yield Strip(lambda width, _: view.strip(debugger, width), id="strip")
        with Horizontal(id="panels"):
            yield Listing("listing")
            yield Table("states")
            yield Panel(lambda width, _: self._guesses(width), id="guesses")
        yield Panel(lambda _, height: view.trail(debugger, height), id="trail")
        yield Panel(lambda *_: self._message(), id="message")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        listing, states = self._listing, self._states
        listing.border_title = Text(PurePath(self.debugger.timeline.case.name).name)
        self.query_one("#trail").border_title = "the way here"
        for label, width in view.LISTING_COLUMNS:
            listing.add_column(label, width=width)
        memory = self.debugger.timeline.case.memory.tobytes()
        for slot in range(program_slots(memory)):
            listing.add_row(*view.listing_row(self.debugger, slot))
        self._lay_out_states()
        states.move_cursor(row=ACC)
        states.focus()
        self._arrive("d runs to the model's next mistake, → takes one step, ? explains all")

    # ---- Drawing

    @property
    def _listing(self) -> Listing:
        return self.query_one("#listing", Listing)

    @property
    def _states(self) -> Table:
        return self.query_one("#states", Table)

    @property
    def _answer(self) -> Answer | None:
        return self.debugger.path.known(self.debugger.position)

    def _lay_out_states(self) -> None:
        states = self._states
        chosen = states.cursor_row
        states.clear(columns=True)
        for label, width in view.state_columns(self.debugger):
            states.add_column(label, width=width)
        for field in range(len(FIELDS)):
            states.add_row(*view.state_row(self.debugger, field, self._answer))
        states.move_cursor(row=chosen)

    def _message(self) -> Text:
        return view.message(self.debugger, self._answer, self._progress or self._notice)

    def _guesses(self, width: int) -> Text:
        return view.guesses(self.debugger, self._states.cursor_row, self._answer, width)

    def _draw(self) -> None:
        debugger, listing, states = self.debugger, self._listing, self._states
        for slot in range(listing.row_count):
            _put(listing, slot, 0, view.marks(debugger, slot))
        for field in range(len(FIELDS)):
            for column, cell in enumerate(view.state_row(debugger, field, self._answer)):
                _put(states, field, column, cell)
        states.border_title = f"step {debugger.position:,} → {debugger.position + 1:,}"
        free = debugger.free
        states.border_subtitle = (
            f"model free since step {free.start:,}" if free else "model follows CPU"
        )
        for panel in self.query(Panel):
            panel.refresh()
        self._title_guesses()

    @on(DataTable.RowHighlighted, "#states")
    def _title_guesses(self) -> None:
        guesses = self.query_one("#guesses", Panel)
        guesses.border_title = (
            f"{FIELDS[self._states.cursor_row]}, step {self.debugger.position + 1:,}"
        )
        guesses.refresh()

    # ---- Asking the model, in a thread

    def _arrive(self, notice: str) -> None:
        """Show where the debugger stands, and ask the model if it was not asked there before."""
        self._notice, self._progress = notice, ""
        self._listing.move_cursor(row=self.debugger.slot or 0)
        self._draw()
        if self._answer is None:
            self._ask(self.debugger.path, self.debugger.position)
        else:
            # Whatever the model is still asked for somewhere else is wanted no more.
            self.workers.cancel_group(self, "ask")
            self.post_message(self.Answered())

    @work(thread=True, exclusive=True, group="ask")
    def _ask(self, path: Timeline | FreeRun, record: int) -> None:
        def ask(tick: Callable[[int], None]) -> Message:
            path.answer(record, tick)
            return self.Answered()

        self._think(ask)

    @work(thread=True, exclusive=True, group="ask")
    def _search(self, path: Timeline | FreeRun, after: int) -> None:
        self._think(lambda tick: self.Searched(path, after, path.next_difference(after, tick)))

    @work(thread=True, exclusive=True, group="survey")
    def _survey(self, timeline: Timeline) -> None:
        def survey(_: Callable[[int], None]) -> Message:
            timeline.wrong_steps()
            return self.Answered()

        self._think(survey)

    def _think(self, job: Callable[[Callable[[int], None]], Message]) -> None:
        """Do one thing at a time with the model, unless the user has left meanwhile."""
        worker: Worker[None] = get_current_worker()

        def tick(record: int) -> None:
            if worker.is_cancelled:
                raise _Left
            self.post_message(self.Progress(record))

        with self._thinking:
            if worker.is_cancelled:
                return
            try:
                done = job(tick)
            except _Left:
                return
        if not worker.is_cancelled:
            self.post_message(done)

    @on(Answered)
    def show_answer(self) -> None:
        self._progress = ""
        self._draw()
        timeline = self.debugger.timeline
        if timeline.known_wrong_steps is None and self._surveyed is not timeline:
            self._surveyed = timeline
            self._survey(timeline)

    @on(Progress)
    def show_progress(self, event: Progress) -> None:
        if event.record != self.debugger.position:
            self._progress = f"the model is at step {event.record:,}"
            self._draw()

    @on(Searched)
    def go_to_difference(self, event: Searched) -> None:
        debugger = self.debugger
        left = event.path is not debugger.path or event.after != debugger.position
        if left or isinstance(self.screen, EditScreen):  # a value is being set here
            return
        halt = debugger.run(event.found)
        if halt is Halt.DIFFERENCE:
            self._arrive("the next difference:")
            answer = self._answer
            assert answer is not None
            self._states.move_cursor(row=differing(debugger.expected, answer)[0])
        elif halt is Halt.BREAKPOINT:
            self._arrive(f"breakpoint at slot {debugger.slot}")
        else:
            self._arrive("no further difference; this is the last step")

    # ---- Keys

    def action_step(self) -> None:
        if self.debugger.at_last:
            self._arrive("this is the last step")
        else:
            self.debugger.go(self.debugger.position + 1)
            self._arrive("")

    def action_step_back(self) -> None:
        if self.debugger.position == 0:
            self._arrive("this is the first step")
        else:
            self.debugger.go(self.debugger.position - 1)
            self._arrive("")

    def action_first(self) -> None:
        self.debugger.go(0)
        self._arrive("")

    def action_last(self) -> None:
        self.debugger.go(self.debugger.timeline.last)
        self._arrive("")

    def action_run(self) -> None:
        if self.debugger.run() is Halt.BREAKPOINT:
            self._arrive(f"breakpoint at slot {self.debugger.slot}")
        else:
            self._arrive("")

    def action_difference(self) -> None:
        self._notice = "looking for the next difference …"
        self._draw()
        self._search(self.debugger.path, self.debugger.position)

    def action_breakpoint(self) -> None:
        self._toggle_breakpoint(self._listing.cursor_row)

    @on(Listing.Toggled)
    def toggle_clicked_breakpoint(self, event: Listing.Toggled) -> None:
        self._toggle_breakpoint(event.slot)

    @on(DataTable.RowSelected, "#listing")
    def toggle_selected_breakpoint(self, event: DataTable.RowSelected) -> None:
        self._toggle_breakpoint(event.cursor_row)

    def _toggle_breakpoint(self, slot: int) -> None:
        is_set = self.debugger.toggle_breakpoint(slot)
        self._notice = f"breakpoint at slot {slot} {'set' if is_set else 'cleared'}"
        self._draw()

    @on(Strip.Clicked)
    def go_to_clicked_step(self, event: Strip.Clicked) -> None:
        width = self.query_one("#strip", Strip).content_size.width
        self.debugger.go(view.record_at(self.debugger, event.cell, width))
        self._arrive("")

    @on(DataTable.RowSelected, "#states")
    def action_edit(self) -> None:
        field, record = self._states.cursor_row, self.debugger.position
        if field not in EDITABLE:
            self._arrive(f"{FIELDS[field]} comes from the program; choose ACC or a register")
            return

        def set_value(value: int | None) -> None:
            if value is None:
                self._arrive("")
            else:
                self.debugger.edit(field, value)
                self._arrive(f"{FIELDS[field]} set to {value}; both go on from here (u undoes it)")

        now = int(self.debugger.record[field])
        self.push_screen(EditScreen(FIELDS[field], record, now), set_value)

    def action_undo(self) -> None:
        self._arrive("edit undone" if self.debugger.undo() else "there is no edit to undo")

    def action_free(self) -> None:
        self.debugger.toggle_free()
        self._lay_out_states()
        self._arrive(
            "the model runs free: from here on it reads its own output"
            if self.debugger.free
            else "the model is put back on the CPU's states"
        )

    def action_light(self) -> None:
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"

    def action_help(self) -> None:
        self.push_screen(HelpScreen())
