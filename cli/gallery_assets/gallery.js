"use strict";
(() => {
  // One sound at a time.
  const players = [...document.querySelectorAll("audio")];
  for (const player of players) {
    player.addEventListener("play", () => {
      for (const other of players) if (other !== player) other.pause();
    });
  }

  // A score in place of its text, where that can be read as one; the text stays at hand.
  function draw(figure) {
    const staff = figure.querySelector(".staff");
    const text = figure.querySelector("details");
    const paper = document.createElement("div"); // abcjs lays its own styles on it
    staff.append(paper);
    staff.hidden = false;
    // The title stands above; books, notes and transcribers are long lines and stand in the text.
    const [head, ...body] = figure.querySelector("pre").textContent.split(/^(?=K:)/m);
    const tune = [head.replace(/^[ABCDF-HNORSTZ]:.*\n?/gm, ""), ...body].join("");
    const small = '"system-ui, sans-serif" 12';
    try {
      ABCJS.renderAbc(paper, tune, {
        foregroundColor: "currentColor",
        format: { infofont: small, subtitlefont: small, tempofont: small },
        paddingbottom: 12,
        paddingleft: 0,
        paddingright: 0,
        paddingtop: 0,
        responsive: "resize",
        staffwidth: Math.min(620, Math.max(300, paper.clientWidth)),
        wrap: { minSpacing: 1.4, maxSpacing: 2.4, preferredMeasuresPerLine: 4 },
      });
      if (!paper.querySelector("path")) throw new Error("nothing drawn");
      text.open = false;
    } catch {
      staff.remove();
    }
  }
  for (const figure of document.querySelectorAll("figure[data-score]")) draw(figure);
})();
