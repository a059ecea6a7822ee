// Accuracy against one or two costs, with the methods that no other method of their model beats in all of them.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const form = document.getElementById("pareto-form");
  const status = document.getElementById("pareto-status");
  if (!data.points.length) {
    status.textContent = "No method of this study has an adapter.";
    return;
  }
  const symbols = ["circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "x"];
  // colours of Okabe and Ito that are dark enough on white and light enough on black
  const colors = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#7f7f7f"];
  const models = [...new Set(data.points.map((point) => point.model))];
  const methods = [...new Set(data.points.map((point) => point.method))];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  // in px: the width of A4 in landscape without its margins
  const paperWidth = 1000;
  let isPrinting = false;

  function fillSelect(name, options) {
    for (const [value, title] of Object.entries(options)) form.elements[name].add(new Option(title, value));
  }

  // over the chosen tasks; the interval is that of the average over all of them
  function measureAccuracy(point, tasks) {
    const chosen = Object.entries(point.tasks).filter(([task]) => tasks.has(task));
    if (chosen.length === Object.keys(point.tasks).length) {
      const [value, low, high] = point.average;
      return { value, low, high, exact: point.exact };
    }
    const mean = chosen.reduce((sum, [, value]) => sum + value, 0) / chosen.length;
    return { value: mean, exact: mean };
  }

  function dominates(first, second, costs) {
    const gains = [first.accuracy.exact - second.accuracy.exact];
    for (const cost of costs) gains.push(second.costs[cost] - first.costs[cost]);
    return gains.every((gain) => gain >= 0) && gains.some((gain) => gain > 0);
  }

  function selectPoints(choices, costs) {
    const points = data.points
      .filter((point) => point.section === form.elements.section.value)
      .filter((point) => choices.model.has(point.model) && choices.method.has(point.method))
      .map((point) => ({ ...point, accuracy: measureAccuracy(point, choices.task) }))
      .filter((point) => Number.isFinite(point.accuracy.value));
    for (const point of points) {
      const rivals = points.filter((other) => other.model === point.model);
      point.best = !rivals.some((other) => dominates(other, point, costs));
    }
    return points;
  }

  function describePoint(point) {
    const costs = Object.entries(data.costs).map(([cost, title]) => `${title}: ${point.costs[cost].toLocaleString("en")}`);
    const seeds = point.seeds.length > 1 ? [`seeds: ${point.seeds.map((value) => value.toFixed(1)).join(", ")}`] : [];
    return [`${point.model}, ${point.method}: ${point.accuracy.value.toFixed(1)} %`, ...seeds, ...costs].map(escapeText).join("<br>");
  }

  // plotly reads a few tags in texts
  function escapeText(text) {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  // labels above their points, or where another label is near below or beside them
  function placeLabels(points, cost, isLog) {
    const scale = isLog ? Math.log10 : (value) => value;
    const spread = (values) => Math.max(...values) - Math.min(...values) || 1;
    const width = spread([...points.map((point) => scale(point.costs[cost])), isLog ? NaN : 0].filter(Number.isFinite));
    const height = spread(points.map((point) => point.accuracy.value));
    const places = points.map((point) => ({ x: scale(point.costs[cost]) / width, y: point.accuracy.value / height }));
    const placed = [];
    return places.map((place) => {
      const { x, y } = place;
      const options = [["top center", 0, 0.06], ["middle left", -0.1, 0], ["middle right", 0.1, 0], ["bottom center", 0, -0.06]];
      const isNear = (other, dx, dy, reach) => Math.abs(other.x - x - dx) < reach && Math.abs(other.y - y - dy) < 0.05;
      const isFree = ([, dx, dy]) =>
        !placed.some((label) => isNear(label, dx, dy, 0.16)) && !places.some((other) => other !== place && isNear(other, dx, dy, 0.1));
      // in label sizes, to the nearest label
      const measureGap = ([, dx, dy]) =>
        Math.min(...placed.map((label) => Math.max(Math.abs(label.x - x - dx) / 0.16, Math.abs(label.y - y - dy) / 0.05)));
      const widest = (best, option) => (measureGap(option) > measureGap(best) ? option : best);
      const [position, dx, dy] = options.find(isFree) || options.reduce(widest);
      placed.push({ x: x + dx, y: y + dy });
      return position;
    });
  }

  function makeTraces(points, costs, showsIntervals) {
    const traces = [];
    costs.forEach((cost, panel) => {
      const axes = { xaxis: panel ? "x2" : "x", yaxis: "y" };
      const positions = placeLabels(points, cost, isLogarithmic(cost, points));
      points.forEach((point, number) => {
        const { value, low, high } = point.accuracy;
        const color = colors[methods.indexOf(point.method) % colors.length];
        const symbol = symbols[models.indexOf(point.model) % symbols.length];
        const error = showsIntervals && low !== undefined;
        const label = escapeText(point.method);
        traces.push({
          ...axes,
          type: "scatter",
          mode: form.elements.labels.checked ? "markers+text" : "markers",
          cliponaxis: false,
          name: escapeText(`${point.model}, ${point.method}`),
          x: [point.costs[cost]],
          y: [value],
          text: [point.best ? `<b>${label}</b>` : label],
          textposition: positions[number],
          hovertext: [describePoint(point)],
          hoverinfo: "text",
          marker: { color, size: 11, symbol: point.best ? symbol : `${symbol}-open`, line: { width: 2, color } },
          error_y: error ? { type: "data", symmetric: false, array: [high - value], arrayminus: [value - low], color, thickness: 1.5 } : undefined,
          showlegend: false,
        });
      });
    });
    // a legend for the symbols of the models
    for (const model of models.filter((name) => points.some((point) => point.model === name))) {
      traces.push({
        type: "scatter",
        mode: "markers",
        x: [null],
        y: [null],
        name: escapeText(model),
        marker: { color: "#808080", size: 10, symbol: symbols[models.indexOf(model) % symbols.length] },
      });
    }
    return traces;
  }

  function isLogarithmic(cost, points) {
    const values = points.map((point) => point.costs[cost]);
    return Math.min(...values) > 0 && Math.max(...values) > 10 * Math.min(...values);
  }

  function makeAxis(cost, points) {
    const isLog = isLogarithmic(cost, points);
    return { title: { text: data.costs[cost] }, type: isLog ? "log" : "linear", rangemode: isLog ? "normal" : "tozero", dtick: isLog ? 1 : undefined, automargin: true };
  }

  function drawFigure() {
    const choices = window.readChoices();
    const costs = [form.elements.first.value, form.elements.second.value].filter((cost, number, all) => cost && all.indexOf(cost) === number);
    const points = selectPoints(choices, costs);
    const isDark = dark.matches && !isPrinting;
    const ink = isDark ? "#ececf0" : "#1b1b1f";
    const grid = isDark ? "#3a3c45" : "#dddee3";
    const narrow = window.innerWidth < 700 && !isPrinting;
    const layout = {
      width: isPrinting ? paperWidth : undefined,
      height: narrow && costs.length > 1 ? 760 : 440,
      margin: { t: 30, r: 40, l: 50, b: 50 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "system-ui, sans-serif" },
      legend: { orientation: "h", y: 1.08, x: 0, yanchor: "bottom" },
      hoverlabel: { align: "left" },
      yaxis: { title: { text: "accuracy (%)" }, gridcolor: grid, zerolinecolor: grid, automargin: true },
    };
    costs.forEach((cost, panel) => {
      layout[panel ? "xaxis2" : "xaxis"] = { ...makeAxis(cost, points), gridcolor: grid, zerolinecolor: grid };
    });
    if (costs.length > 1) {
      if (narrow) {
        layout.grid = { rows: 2, columns: 1, subplots: [["xy"], ["x2y2"]], ygap: 0.3 };
        layout.yaxis2 = { ...layout.yaxis };
      } else {
        layout.grid = { rows: 1, columns: 2, subplots: [["xy", "x2y"]] };
      }
    }
    const traces = makeTraces(points, costs, choices.intervals);
    if (narrow) for (const trace of traces) if (trace.xaxis === "x2") trace.yaxis = "y2";
    const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
    window.Plotly.react("pareto", traces, layout, options);
    status.textContent = points.length ? describeBest(points, costs) : "No model and method is chosen.";
  }

  function describeBest(points, costs) {
    const best = models.map((model) => {
      const names = points.filter((point) => point.best && point.model === model).map((point) => `${point.method} ${point.accuracy.value.toFixed(1)}`);
      return names.length ? `${model}: ${names.join(", ")}` : "";
    });
    const titles = costs.map((cost) => data.costs[cost]).join(" and in ");
    return `Filled and bold: no other method of the same model is better in accuracy and in ${titles} together. ${best.filter(Boolean).join("; ")}.`;
  }

  fillSelect("section", data.sections);
  fillSelect("first", data.costs);
  fillSelect("second", { "": "none", ...data.costs });
  form.elements.second.value = "seconds";
  form.hidden = false;
  form.addEventListener("change", drawFigure);
  document.addEventListener("choices", drawFigure);
  dark.addEventListener("change", drawFigure);
  for (const [event, value] of [["beforeprint", true], ["afterprint", false]]) {
    window.addEventListener(event, () => {
      isPrinting = value;
      drawFigure();
    });
  }
  drawFigure();
})();
