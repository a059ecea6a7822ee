// All answers: loaded by run from the files beside the page, filtered, searched and listed page by page.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const form = document.getElementById("answer-form");
  const status = document.getElementById("answer-status");
  const results = document.getElementById("answer-results");
  const body = document.querySelector("#answer-table tbody");
  const pageSize = 50;
  const files = new Map();
  let matches = [];
  let first = 0;
  // of the latest search: an earlier one that is still loading is dropped
  let current = 0;

  // the files call this with their content
  window.addAnswers = (name, content) => files.set(name, content);

  function loadFile(name) {
    if (files.has(name)) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `answers/${encodeURIComponent(name)}.js`;
      script.onload = () => (files.has(name) ? resolve() : reject(new Error(name)));
      script.onerror = () => reject(new Error(name));
      document.head.append(script);
    });
  }

  function titleRun(run) {
    const seed = run.seed === null ? "" : `, seed ${run.seed}`;
    return `${run.model}, ${run.method}${run.arm ? `, ${run.arm}` : ""}${seed}`;
  }

  function selectRuns() {
    const { model, method, run } = form.elements;
    return data.runs.filter(
      (other) =>
        (!model.value || other.model === model.value) &&
        (!method.value || other.method === method.value) &&
        (!run.value || other.run === run.value),
    );
  }

  function findMatches(runs) {
    const { task, outcome, search } = form.elements;
    const words = search.value.trim().toLowerCase();
    const found = [];
    for (const run of runs) {
      for (const key of run.tasks.filter((other) => !task.value || other === task.value)) {
        files.get(run.file)[key].forEach((answer, number) => {
          const question = files.get(`questions-${key}`)[number];
          if (outcome.value && data.outcomes[answer[0]] !== outcome.value) return;
          if (words && ![...question, answer[1], answer[2]].some((text) => text.toLowerCase().includes(words))) return;
          found.push({ run, key, question, answer });
        });
      }
    }
    return found;
  }

  function showPage() {
    body.replaceChildren();
    for (const { run, key, question, answer } of matches.slice(first, first + pageSize)) {
      const row = body.insertRow();
      const protocol = data.tasks[key].protocol;
      const texts = [question[0], `${titleRun(run)}, ${protocol}`, data.outcomes[answer[0]], question[1], answer[2], answer[1], question[2]];
      // as text: an answer may be HTML
      for (const text of texts) row.insertCell().textContent = text;
    }
    const last = Math.min(first + pageSize, matches.length);
    document.getElementById("answer-page").textContent = matches.length ? `${first + 1} to ${last}` : "";
    results.querySelector("[name=previous]").disabled = first === 0;
    results.querySelector("[name=next]").disabled = last >= matches.length;
  }

  async function showAnswers() {
    const number = ++current;
    const runs = selectRuns();
    const keys = new Set(runs.flatMap((run) => run.tasks));
    const names = [...new Set([...runs.map((run) => run.file), ...[...keys].map((key) => `questions-${key}`)])];
    let loaded = 0;
    try {
      for (const name of names) {
        if (!files.has(name)) status.textContent = `Loading ${++loaded} of ${names.length} files …`;
        await loadFile(name);
        if (number !== current) return;
      }
    } catch (error) {
      status.textContent = `answers/${error.message}.js is not beside this page: open the page in its folder reports/ of the project.`;
      results.hidden = true;
      return;
    }
    matches = findMatches(runs);
    first = 0;
    const right = matches.filter((match) => data.outcomes[match.answer[0]] === "right").length;
    status.textContent = `${matches.length.toLocaleString("en")} answers of ${runs.length} ${runs.length === 1 ? "run" : "runs"}, ${right.toLocaleString("en")} of them right`;
    results.hidden = false;
    showPage();
  }

  function fillRuns() {
    const { model, method, run } = form.elements;
    const before = run.value;
    run.length = 1;
    for (const other of data.runs) {
      const fits = (!model.value || other.model === model.value) && (!method.value || other.method === method.value);
      if (fits) run.add(new Option(titleRun(other), other.run));
    }
    run.value = before;
    if (run.selectedIndex < 0) run.value = "";
  }

  // a link to the answers of a run: #answers/FINGERPRINT
  function followHash() {
    const match = /^#answers\/(.+)$/.exec(window.location.hash);
    const run = match && data.runs.find((other) => other.run === decodeURIComponent(match[1]));
    if (!run) return;
    form.reset();
    fillRuns();
    form.elements.run.value = run.run;
    document.getElementById("answers").scrollIntoView();
    showAnswers();
  }

  for (const [key, task] of Object.entries(data.tasks)) form.elements.task.add(new Option(`${task.title}, ${task.protocol}`, key));
  for (const outcome of data.outcomes) form.elements.outcome.add(new Option(outcome, outcome));
  fillRuns();
  form.hidden = false;
  form.addEventListener("change", (event) => {
    fillRuns();
    // a search waits for its end; before the first wish nothing is loaded
    if (!results.hidden || event.target.name === "search") showAnswers();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    showAnswers();
  });
  results.addEventListener("click", (event) => {
    const step = { previous: -pageSize, next: pageSize }[event.target.name];
    if (step) {
      first += step;
      showPage();
    }
  });
  window.addEventListener("hashchange", followHash);
  followHash();
})();
