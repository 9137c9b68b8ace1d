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
    staff.hidden = false;
    const width = Math.min(620, Math.max(300, staff.clientWidth));
    try {
      const [tune] = ABCJS.renderAbc(staff, figure.querySelector("pre").textContent, {
        foregroundColor: "currentColor",
        paddingleft: 0,
        paddingright: 0,
        paddingtop: 0,
        responsive: "resize",
        staffwidth: width,
        wrap: { minSpacing: 1.4, maxSpacing: 2.4, preferredMeasuresPerLine: 4 },
      });
      if (!tune || !staff.querySelector("svg path")) throw new Error("nothing drawn");
      text.open = false;
    } catch {
      staff.replaceChildren();
      staff.hidden = true;
    }
  }
  for (const figure of document.querySelectorAll("figure[data-score]")) draw(figure);
})();
