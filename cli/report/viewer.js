"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const END = 256;

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const percent = (right, total) =>
    `${(Math.floor((right * 10000) / total) / 100).toFixed(2)} %`;

  if (data.programs.length) steps();
  if ($("operands")) heat();
  for (const table of document.querySelectorAll("table.sortable")) sortable(table);

  // Step by step ---------------------------------------------------------------------

  function steps() {
    const [IR, IR_SIZE] = data.ir;
    const [reference, candidate] = data.sides;
    const viewer = $("viewer");
    let program;
    let step;
    let wrongSteps = [];

    // Where `show` reads a program: what each side says of a step, and with what probability.
    const record = (number) => program.records[number - program.known];
    const bytes = (number) => record(number).match(/../g).map((byte) => parseInt(byte, 16));
    const expected = (number) => (record(number) ? bytes(number) : Array(16).fill(END));
    const differing = (number) => program.said[number] || {};
    const said = (number) =>
      expected(number).map((byte, field) => differing(number)[field] ?? byte);
    const instruction = (tokens) => {
      const hex = tokens.slice(IR, IR + IR_SIZE).map((byte) => byte.toString(16).padStart(2, "0"));
      return program.words[hex.join("")];
    };
    const executed = (number) => (number > 1 ? instruction(bytes(number - 1)) : null);
    const isEnd = (tokens) => tokens.every((token) => token === END);
    const isNothing = (tokens) => tokens.every((token) => token < 0);
    const shown = (token) => (token === END ? "256" : token < 0 ? "–" : String(token));
    const probability = (value) =>
      value == null ? "" : value >= 0.0001 ? value.toFixed(4) : value.toExponential(1);
    const expectedP = (number, field) => program.expectedP?.[number - program.first][field];
    const saidP = (number, field) =>
      field in differing(number) ? program.saidP?.[number]?.[field] : expectedP(number, field);

    function choose(index) {
      program = data.programs[index];
      wrongSteps = Object.keys(program.said).map(Number).sort((a, b) => a - b);
      $("step").min = program.first;
      $("step").max = program.last;
      $("listing").replaceChildren(
        ...program.listing.map((text, slot) =>
          element("li", {}, element("span", { class: "sign" }), element("span", {}, String(slot)),
            element("span", {}, text))),
      );
      for (const one of viewer.querySelectorAll(".p")) one.hidden = !program.expectedP;
      $("track").style.setProperty("--steps", program.last - program.first + 1);
      drawRibbon();
      const start = program.difference ?? program.first;
      show(Math.min(Math.max(start, program.first), program.last));
    }

    function show(number) {
      step = number;
      const wants = expected(step);
      const says = said(step);
      const wrong = Object.keys(differing(step)).map(Number);
      $("step").value = step;
      $("step").setAttribute("aria-valuetext", `${step} of ${program.end}`);
      $("step").classList.toggle("wrong", wrong.length > 0);
      showStatus(wants, says, wrong);
      showListing(wants);
      showState(wants, says);
      showDifferences(wants, says, wrong);
      $("here").setAttribute("x", step - program.first);
    }

    function showStatus(wants, says, wrong) {
      const after = step > 1 ? `after ${executed(step)[0]}` : "the first fetch";
      const place = `Step ${step.toLocaleString("en")} of ${program.end.toLocaleString("en")}, ${after}: `;
      let verdict = isEnd(wants) ? "both end here." : "all 16 bytes agree.";
      if (wrong.length) {
        verdict = `✗ ${count(wrong.length, "field")} ${wrong.length === 1 ? "differs" : "differ"}: `
          + wrong.map((field) => data.fields[field]).join(", ") + ".";
        if (isNothing(says)) verdict = "✗ no next state.";
        else if (isEnd(says)) verdict = `✗ the ${candidate} ends here, the ${reference} goes on.`;
        else if (isEnd(wants)) verdict = `✗ the ${reference} ends here, the ${candidate} goes on.`;
      }
      if (step === program.difference) verdict += " First difference of the free run.";
      if (step === program.end && program.open) verdict += ` Not followed further: ${program.open}.`;
      $("status").className = wrong.length ? "wrong" : "";
      $("status").replaceChildren(place, element("strong", {}, verdict));
    }

    function showListing(wants) {
      // The instruction executed now was fetched one record before, from that record's PC.
      const ran = step > 1 && record(step - 2) ? bytes(step - 2)[0] : null;
      const fetched = isEnd(wants) ? null : bytes(step - 1)[0];
      const slots = [...$("listing").children];
      const at = (slot) => (slot == null ? null : slots[Math.min(slot, slots.length - 1)]);
      for (const slot of slots) {
        const executes = ran !== null && slot === at(ran);
        slot.className = executes ? "executed" : "";
        slot.firstChild.textContent = executes ? "▶" : slot === at(fetched) ? "▷" : "";
        if (executes) slot.setAttribute("aria-current", "step");
        else slot.removeAttribute("aria-current");
      }
      const target = at(ran) || at(fetched) || slots[0];
      const box = $("listing");
      const top = target.offsetTop - box.offsetTop;
      if (top < box.scrollTop || top + 2 * target.offsetHeight > box.scrollTop + box.clientHeight)
        box.scrollTop = top - box.clientHeight / 3;
    }

    function showState(wants, says) {
      const before = bytes(step - 1);
      const rows = data.fields.map((name, field) => {
        const differs = field in differing(step);
        const changed = wants[field] !== before[field] && wants[field] !== END;
        const row = element("tr", { class: `${differs ? "wrong" : ""} ${changed ? "changed" : ""}` },
          element("th", { scope: "row" }, name),
          element("td", { class: "num" }, shown(before[field])),
          element("td", { class: "num reference" }, shown(wants[field]) + (changed ? "*" : "")));
        if (program.expectedP)
          row.append(element("td", { class: "num p" }, probability(expectedP(step, field))));
        row.append(element("td", { class: "num candidate" }, shown(says[field])));
        if (program.expectedP)
          row.append(element("td", { class: "num p" }, probability(saidP(step, field))));
        row.append(element("td", { class: "verdict" }, element("span", {}, differs ? "✗ differs" : "")));
        return row;
      });
      document.querySelector("#state tbody").replaceChildren(...rows);
    }

    function showDifferences(wants, says, wrong) {
      const lines = [];
      if (isNothing(says)) {
        lines.push(step === program.difference && program.refusal ? program.refusal : "No next state.");
      } else if (isEnd(says) !== isEnd(wants)) {
        lines.push("256 in every byte says that the trace ends.");
      } else {
        const p = (value) => (value == null ? "" : ` (p ${probability(value)})`);
        for (const field of wrong) {
          lines.push(`${data.fields[field]}: expected ${shown(wants[field])}${p(expectedP(step, field))}, `
            + `predicted ${shown(says[field])}${p(saidP(step, field))}. ${cause(field, wants)}`);
        }
        const other = wrong.length && instruction(says);
        if (other && other !== instruction(wants)) lines.push(`Predicted instruction: ${other[0]}.`);
      }
      $("differences").replaceChildren(...lines.map((line) => element("li", {}, line)));
    }

    // The same words as the diff in text has.
    function cause(field, wants) {
      if (field === 0 || (field >= IR && field < IR + IR_SIZE)) {
        if (isEnd(wants)) return "After HLT.";
        return `Fetch from slot ${bytes(step - 1)[0]}: ${instruction(wants)[0]}.`;
      }
      if (step === 1) return "Nothing has executed that could change it.";
      const [text, writes] = executed(step);
      return `${text}, which ${writes.includes(field) ? "writes" : "leaves"} it.`;
    }

    // A bar for each step: how sure the candidate was of the right byte it was least sure of.
    function drawRibbon() {
      const svg = (tag, attributes) => {
        const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
        for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
        return made;
      };
      const steps = program.last - program.first + 1;
      const listed = wrongSteps.slice(0, 20).join(", ") + (wrongSteps.length > 20 ? " and more" : "");
      const picture = svg("svg", {
        viewBox: `0 -12 ${steps} 72`, preserveAspectRatio: "none", role: "img",
        "aria-label": wrongSteps.length ? `Wrong steps: ${listed}` : "No step is wrong",
      });
      picture.append(svg("rect", { id: "here", class: "here", y: -12, width: 1, height: 72 }));
      for (let number = program.first; number <= program.last; number += 1) {
        const x = number - program.first;
        const bad = number in program.said;
        const least = program.expectedP ? Math.min(...program.expectedP[x].map((p) => p ?? 1)) : 1;
        const height = bad ? 60 : Math.max(2, 60 * least);
        picture.append(svg("rect", { class: bad ? "bad" : "fine", x: x + .1, y: 60 - height, width: .8, height }));
        if (bad) picture.append(svg("path", { class: "bad", d: `M${x + .1} -12 h.8 l-.4 9 z` }));
      }
      $("ribbon").replaceChildren(picture);
    }

    const go = (number) => show(Math.min(Math.max(number, program.first), program.last));
    function seek(found, where) {
      if (found !== undefined) go(found);
      else $("status").replaceChildren(`Step ${step}: there is no ${where} difference.`);
    }
    const act = {
      first: () => go(program.first),
      last: () => go(program.last),
      back: () => go(step - 1),
      on: () => go(step + 1),
      next: () => seek(wrongSteps.find((number) => number > step), "later"),
      previous: () => seek(wrongSteps.filter((number) => number < step).pop(), "earlier"),
    };
    const keys = {
      ArrowLeft: "back", ArrowRight: "on", Home: "first", End: "last",
      k: "back", j: "on", n: "next", p: "previous",
    };

    document.addEventListener("keydown", (event) => {
      const action = keys[event.key];
      if (!action || event.ctrlKey || event.altKey || event.metaKey) return;
      const { target } = event;
      // Keys act in the viewer, or where nothing else has the focus that could want them.
      const elsewhere = target === document.body && !("inside" in viewer.dataset);
      if (!elsewhere && !viewer.contains(target)) return;
      if (target.tagName === "SELECT") return;
      const letter = event.key.length === 1;
      if (letter && !$("letters").checked) return;
      if (!letter && target.type === "range") return; // it moves by itself
      event.preventDefault();
      act[action]();
    });
    for (const id of Object.keys(act)) $(id).addEventListener("click", act[id]);
    $("step").addEventListener("input", () => go(Number($("step").value)));
    $("ribbon").addEventListener("click", (event) => {
      const box = $("ribbon").getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      go(program.first + Math.floor(share * (program.last - program.first + 1)));
    });

    data.programs.forEach((one, index) => {
      const part = one.last - one.first < one.end - one.first ? `, steps ${one.first} to ${one.last}` : "";
      const verdict = one.kind ? `${one.kind} at step ${one.difference}` : "exact";
      $("program").append(element("option", { value: index }, `${one.name}: ${verdict}${part}`));
    });
    $("program").addEventListener("change", () => choose(Number($("program").value)));
    viewer.hidden = false;
    choose(0);
  }

  // Heat map -------------------------------------------------------------------------

  function heat() {
    const shade = (total, wrong) => {
      const right = 1 - wrong / total;
      const place = data.shades.findIndex((least) => right >= least);
      return place < 0 ? data.shades.length : place;
    };
    const tip = $("tip");

    function hide() {
      tip.hidden = true;
    }
    function explain(cell) {
      const [total, wrong] = [Number(cell.dataset.n), Number(cell.dataset.w)];
      const right = total - wrong;
      tip.textContent = total
        ? `${cell.dataset.what}: ${right.toLocaleString("en")} of ${count(total, "step")} right, ${percent(right, total)}`
        : "never occurred";
      tip.hidden = false;
      const box = cell.getBoundingClientRect();
      const width = tip.offsetWidth;
      const most = document.documentElement.clientWidth - width - 8;
      tip.style.left = `${scrollX + Math.max(8, Math.min(most, box.left + box.width / 2 - width / 2))}px`;
      const above = box.top - tip.offsetHeight - 6;
      tip.style.top = `${scrollY + (above > 0 ? above : box.bottom + 6)}px`;
    }

    // One cell of a table is a tab stop; the arrow keys go on from there.
    function navigable(table) {
      const grid = [...table.tBodies[0].rows].map((row) => [...row.cells].filter((cell) => cell.dataset.n));
      const rows = grid.filter((row) => row.length);
      if (!rows.length) return;
      const all = rows.flat();
      const enter = all.find((cell) => cell.dataset.w > 0) || all[0];
      for (const cell of all) cell.tabIndex = cell === enter ? 0 : -1;
      table.onkeydown = (event) => {
        if (event.key === "Escape") return hide();
        const y = rows.findIndex((row) => row.includes(document.activeElement));
        if (y < 0) return undefined;
        const x = rows[y].indexOf(document.activeElement);
        const nearest = (row) => {
          const column = document.activeElement.cellIndex;
          return row.reduce((best, cell) =>
            (Math.abs(cell.cellIndex - column) < Math.abs(best.cellIndex - column) ? cell : best));
        };
        const to = {
          ArrowLeft: () => rows[y][x - 1], ArrowRight: () => rows[y][x + 1],
          ArrowUp: () => y > 0 && nearest(rows[y - 1]),
          ArrowDown: () => y < rows.length - 1 && nearest(rows[y + 1]),
          Home: () => rows[y][0], End: () => rows[y][rows[y].length - 1],
        }[event.key];
        if (!to) return undefined;
        event.preventDefault();
        const cell = to();
        if (cell) {
          document.activeElement.tabIndex = -1;
          cell.tabIndex = 0;
          cell.focus();
        }
        return undefined;
      };
    }
    for (const table of document.querySelectorAll("table.heat")) {
      const over = (event) => {
        const cell = event.target.closest("td[data-n]");
        if (!cell) return hide();
        if (event.type === "focusin") cell.setAttribute("aria-describedby", "tip");
        return explain(cell);
      };
      table.addEventListener("pointerover", over);
      table.addEventListener("focusin", over);
      table.addEventListener("pointerleave", hide);
      table.addEventListener("focusout", hide);
    }
    for (const id of ["heat1", "heat2"]) if ($(id)) navigable($(id));

    // Both values of one form.
    const select = $("form");
    if (!select) return;
    function joint() {
      const name = select.value;
      const { reads, cells } = data.operands[name];
      const found = new Map(cells.map(([row, column, ...counts]) => [`${row},${column}`, counts]));
      const bins = [...Array(256 / data.binWidth).keys()];
      const range = (bin) => `${bin * data.binWidth} to ${(bin + 1) * data.binWidth - 1}`;
      const body = element("tbody");
      for (const row of bins) {
        const line = element("tr", {}, element("th", { scope: "row", class: "num" }, String(row * data.binWidth)));
        for (const column of bins) {
          const [total, wrong] = found.get(`${row},${column}`) || [0, 0];
          const what = `${name}, ${reads[0]} ${range(row)}, ${reads[1]} ${range(column)}`;
          line.append(total
            ? element("td", { class: `s${shade(total, wrong)}`, "data-n": total, "data-w": wrong, "data-what": what },
              wrong ? String(Math.floor(((total - wrong) * 100) / total)) : "·")
            : element("td", { class: "never" }));
        }
        body.append(line);
      }
      const heads = bins.map((bin) =>
        element("th", { scope: "col", class: "num bin" }, String(bin * data.binWidth)));
      $("joint").replaceChildren(
        element("caption", {}, `${name}: ${reads[0]} down, ${reads[1]} across`),
        element("thead", {}, element("tr", {}, element("td"), ...heads)),
        body,
      );
      navigable($("joint"));
    }
    select.addEventListener("change", joint);
    $("both").hidden = false;
    joint();
  }

  // Tables that sort by any column ---------------------------------------------------

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const value = (row, column) => {
      const cell = row.cells[column];
      const text = cell.dataset.value ?? cell.textContent.replaceAll(",", "").replace("–", "0");
      return text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text);
    };
    heads.forEach((head, column) => {
      const button = element("button", { type: "button" }, head.textContent);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const direction = head.ariaSort === "descending" ? "ascending" : "descending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", direction);
        const sign = direction === "ascending" ? 1 : -1;
        const rows = [...body.rows].sort((one, two) => {
          const [a, b] = [value(one, column), value(two, column)];
          return sign * (a < b ? -1 : Number(a > b));
        });
        body.append(...rows);
      });
    });
  }
})();
