// The bars of outcomes, for the chosen models, methods and tasks.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const rows = document.querySelectorAll("#task-outcomes tbody tr");

  function countOutcomes(bar, choices) {
    const parts = bar.parts.filter(([model, method]) => choices.model.has(model) && choices.method.has(method));
    return data.outcomes.map((_, number) => parts.reduce((sum, [, , counts]) => sum + counts[number], 0));
  }

  function drawBar(row, counts) {
    const total = counts.reduce((sum, count) => sum + count, 0);
    const shares = counts.map((count) => (100 * count) / total);
    const found = counts.map((_, number) => number).filter((number) => counts[number]);
    row.querySelector(".bar").replaceChildren(
      ...found.map((number) => {
        const part = document.createElement("span");
        part.className = data.outcomes[number];
        part.style.width = `${shares[number]}%`;
        return part;
      }),
    );
    row.cells[2].textContent = found.map((number) => `${data.outcomes[number]} ${counts[number]} (${shares[number].toFixed(1)} %)`).join(", ");
  }

  document.addEventListener("choices", ({ detail: choices }) => {
    data.bars.forEach((bar, number) => {
      const counts = countOutcomes(bar, choices);
      rows[number].hidden = !choices.task.has(bar.task) || counts.every((count) => count === 0);
      drawBar(rows[number], counts);
    });
  });
})();
