// Tables: sorting by a click on the head of a column, and the choice of models, methods, tasks and intervals.
"use strict";
(() => {
  const form = document.querySelector("#choices form");

  function readNumber(cell) {
    const text = (cell.querySelector(".v") || cell).textContent.replace(/[,≤ ]/g, "");
    return text === "" ? NaN : Number(text);
  }

  function compareCells(first, second) {
    const numbers = [readNumber(first), readNumber(second)];
    if (numbers.every(Number.isFinite)) return numbers[0] - numbers[1];
    return first.textContent.localeCompare(second.textContent, "en", { numeric: true });
  }

  function sortTable(table, column, descending) {
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
      rows.sort((first, second) => {
        const cells = [first.cells[column], second.cells[column]];
        // a cell without a number stays at the end
        const empty = cells.map((cell) => cell.classList.contains("num") && !Number.isFinite(readNumber(cell)));
        if (empty[0] !== empty[1]) return empty[0] - empty[1];
        return (descending ? -1 : 1) * compareCells(...cells);
      });
      body.append(...rows);
    }
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        // numbers are wanted from the best down, names from A on
        const before = head.getAttribute("aria-sort");
        const isNumber = head.classList.contains("num");
        const descending = before === "none" ? isNumber : before === "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sortTable(table, column, descending);
      });
    });
  }

  function readChoices() {
    const chosen = {};
    for (const kind of ["model", "method", "task"]) {
      chosen[kind] = new Set([...form.querySelectorAll(`[name=${kind}]:checked`)].map((box) => box.value));
    }
    return { ...chosen, intervals: form.elements.intervals.checked };
  }

  function applyToHeadline(choices) {
    const table = document.getElementById("headline");
    const [sections, models] = [...table.tHead.rows].map((row) => [...row.cells]);
    const hidden = models.map((head) => !choices.model.has(head.dataset.model));
    models.forEach((head, column) => (head.hidden = hidden[column]));
    let column = 0;
    // the first head is that of the methods
    for (const head of sections.slice(1)) {
      const span = Number(head.dataset.span);
      const shown = hidden.slice(column, column + span).filter((isHidden) => !isHidden).length;
      head.hidden = shown === 0;
      head.colSpan = shown || span;
      column += span;
    }
    for (const row of table.tBodies[0].rows) {
      row.hidden = !choices.method.has(row.dataset.method);
      [...row.cells].slice(1).forEach((cell, number) => (cell.hidden = hidden[number]));
    }
  }

  function applyChoices() {
    const choices = readChoices();
    applyToHeadline(choices);
    document.body.classList.toggle("no-intervals", !choices.intervals);
    for (const table of document.querySelectorAll("table.data")) {
      const hidden = [...table.tHead.rows[0].cells].map(
        (head) => Boolean(head.dataset.task) && !choices.task.has(head.dataset.task),
      );
      for (const row of table.rows) {
        if (!row.classList.contains("group")) {
          [...row.cells].forEach((cell, column) => (cell.hidden = hidden[column]));
        }
        row.hidden = ["model", "method", "task"].some(
          (kind) => row.dataset[kind] !== undefined && !choices[kind].has(row.dataset[kind]),
        );
      }
      for (const body of table.tBodies) {
        body.hidden = [...body.rows].every((row) => row.hidden || row.classList.contains("group"));
      }
    }
    document.dispatchEvent(new CustomEvent("choices", { detail: choices }));
  }

  document.querySelectorAll("table.data").forEach(makeSortable);
  document.getElementById("choices").hidden = false;
  form.addEventListener("change", applyChoices);
  // the boxes change after the event
  form.addEventListener("reset", () => setTimeout(applyChoices));
  form.addEventListener("submit", (event) => event.preventDefault());
  window.readChoices = readChoices;

  // on paper nothing can be unfolded
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not(.choices)").forEach((part) => (part.open = true));
  });
})();
