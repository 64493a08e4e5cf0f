"use strict";
// The interactive parts of the page: its table (Tabulator), its heat map and its curves (ECharts). All texts that come
// from folders are set as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c00", "#000000"];
const CIVIDIS = ["#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838"];
const charts = [];
window.addEventListener("resize", () => charts.forEach((chart) => chart.resize()));

// Table ---------------------------------------------------------------------------------------------------------------

/** `>= 4` compares numbers; anything else is looked for in the text of a cell. */
function matches(filter, value, text) {
  const comparison = /^\s*(<=|>=|=|<|>)\s*(-?[\d.]+(?:e-?\d+)?)\s*$/i.exec(filter);
  if (comparison === null) return text.toLowerCase().includes(filter.trim().toLowerCase());
  const number = Number(comparison[2]);
  if (typeof value !== "number") return false;
  return { "<": value < number, "<=": value <= number, "=": value === number, ">": value > number, ">=": value >= number }[
    comparison[1]
  ];
}

/** Rows without a value come last, whichever way the others are sorted. */
function compare(a, b, direction) {
  const last = direction === "asc" ? 1 : -1;
  if (a === null || b === null) return a === b ? 0 : a === null ? last : -last;
  return inNaturalOrder(a, b);
}

/** Numbers by their value, also those in texts; other texts by the alphabet and the whole numbers in them. */
function inNaturalOrder(a, b) {
  const difference = Number(a) - Number(b);
  return Number.isNaN(difference) ? String(a).localeCompare(String(b), undefined, { numeric: true }) : difference;
}

function cellText(cell) {
  const text = document.createElement("span");
  text.textContent = cell.getData().texts[cell.getField()];
  return text;
}

function columnOf(column, index) {
  const field = `column_${index}`;
  return {
    field,
    title: column.title,
    titleFormatter: (cell) => document.createTextNode(cell.getValue()),
    formatter: cellText,
    hozAlign: column.numeric ? "right" : "left",
    frozen: index === 0 && window.innerWidth > 700,
    maxWidth: index === 0 ? 420 : 260,
    headerFilter: "input",
    headerFilterLiveFilter: true,
    headerFilterFunc: (filter, value, row) => matches(filter, value, row.texts[field]),
    sorter: (a, b, rowA, rowB, columnComponent, direction) => compare(a, b, direction),
    headerSortStartingDir: column.numeric ? "desc" : "asc",
  };
}

function rowOf(row) {
  const fields = { name: row.name, texts: {} };
  row.values.forEach((value, index) => {
    fields[`column_${index}`] = value;
    fields.texts[`column_${index}`] = row.texts[index];
  });
  return fields;
}

function showTable(table) {
  const tabulator = new Tabulator("#table", {
    data: table.rows.map(rowOf),
    columns: table.columns.map(columnOf),
    layout: "fitDataFill",
    maxHeight: "34rem",
    movableColumns: true,
    placeholder: "no run matches",
  });
  tabulator.on("rowClick", (event, row) => showDetails(row.getData().name));
  return tabulator;
}

let table = showTable(data.tables.groups ?? data.tables.runs);
for (const button of document.querySelectorAll("input[name=grouping]")) {
  button.addEventListener("change", () => {
    table.destroy();
    table = showTable(data.tables[button.value]);
  });
}

// Details of a row ----------------------------------------------------------------------------------------------------

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
}

function paramsTable(params) {
  const table = element("table");
  const rows = [...Object.entries(params).map((pair) => [...pair, true]), ...Object.entries(data.shared).map((pair) => [...pair, false])];
  for (const [name, value, differs] of rows) {
    const row = element("tr", "", differs ? { class: "differs" } : {});
    row.append(element("td", name), element("td", value));
    table.append(row);
  }
  return table;
}

function showDetails(name) {
  const panel = document.getElementById("details");
  panel.replaceChildren(element("h3", name));
  const paths = data.groups[name] ?? [name];
  for (const path of paths) {
    const run = data.runs[path];
    const line = element("p");
    line.append(element("a", path, { href: run.href }), ` ${run.state}`);
    panel.append(line);
    if (run.notes) panel.append(element("p", run.notes, { class: "note" }));
    if (run.log) panel.append(element("pre", run.log));
  }
  panel.append(element("p", "Parameters; marked are those in which the runs of this page differ.", { class: "hint" }));
  panel.append(paramsTable(data.runs[paths[0]].params));
  panel.hidden = false;
  panel.scrollIntoView({ block: "nearest" });
}

// Heat map ------------------------------------------------------------------------------------------------------------

function inOrder(values) {
  return [...new Set(values)].sort(inNaturalOrder);
}

function mean(numbers) {
  return numbers.length ? numbers.reduce((sum, number) => sum + number, 0) / numbers.length : null;
}

function drawHeatMap(chart, down, across) {
  const runs = data.grid.filter((run) => run.params[down] !== undefined && run.params[across] !== undefined);
  const [rows, columns] = [down, across].map((name) => inOrder(runs.map((run) => run.params[name])));
  const cells = [];
  rows.forEach((row, y) =>
    columns.forEach((column, x) => {
      const inCell = runs.filter((run) => run.params[down] === row && run.params[across] === column);
      const test = mean(inCell.map((run) => run.test).filter((value) => value !== null));
      if (test !== null) cells.push({ x, y, test, val: mean(inCell.map((run) => run.val).filter((value) => value !== null)) });
    }),
  );
  const tests = cells.map((cell) => cell.test);
  const [low, high] = [Math.min(...tests), Math.max(...tests)];
  const best = cells.reduce((a, b) => (b.val !== null && (a === null || b.val > a.val) ? b : a), null);
  const point = (cell) => ({
    value: [cell.x, cell.y, Number(cell.test.toFixed(2))],
    label: { color: cell.test < (low + high) / 2 ? "#ffffff" : "#000000" },
    itemStyle: cell === best ? { borderColor: "#d55e00", borderWidth: 3 } : {},
  });
  chart.setOption(
    {
      animation: false,
      grid: { left: 10, right: 10, top: 10, bottom: 70, containLabel: true },
      tooltip: { formatter: ({ value }) => `${value[2].toFixed(2)} %` },
      xAxis: { type: "category", data: columns, name: across, nameLocation: "middle", nameGap: 28, splitArea: { show: false } },
      yAxis: { type: "category", data: rows, name: down, nameLocation: "end", inverse: true },
      visualMap: { min: low, max: high, orient: "horizontal", left: "center", bottom: 0, precision: 1, inRange: { color: CIVIDIS }, text: ["%", ""] },
      series: [{ type: "heatmap", data: cells.map(point), label: { show: cells.length <= 120, formatter: ({ value }) => value[2].toFixed(1) } }],
    },
    true,
  );
}

function showHeatMap() {
  if (data.varied.length < 2) return;
  document.getElementById("heat_map_section").hidden = false;
  const selects = ["down", "across"].map((id) => document.getElementById(id));
  const chart = echarts.init(document.getElementById("heat_map"));
  charts.push(chart);
  selects.forEach((select, index) => {
    data.varied.forEach((name) => select.append(element("option", name, { value: name })));
    select.value = data.varied[1 - index];
    select.addEventListener("change", () => drawHeatMap(chart, selects[0].value, selects[1].value));
  });
  drawHeatMap(chart, selects[0].value, selects[1].value);
}

// Curves --------------------------------------------------------------------------------------------------------------

function bandOf(curve, colour) {
  const invisible = { type: "line", name: curve.name, stack: curve.name, symbol: "none", silent: true, lineStyle: { opacity: 0 }, tooltip: { show: false } };
  const band = curve.epochs.map((epoch, index) => [epoch, Number((curve.high[index] - curve.low[index]).toFixed(2))]);
  return [
    { ...invisible, data: curve.epochs.map((epoch, index) => [epoch, curve.low[index]]) },
    { ...invisible, data: band, areaStyle: { color: colour, opacity: 0.15 } },
  ];
}

function showCurves() {
  if (data.curves.length === 0) return;
  document.getElementById("curves_section").hidden = false;
  const chart = echarts.init(document.getElementById("curves"));
  charts.push(chart);
  const series = data.curves.flatMap((curve, index) => {
    const color = COLOURS[index % COLOURS.length];
    const line = { type: "line", name: curve.name, color, symbol: "circle", symbolSize: 4, data: curve.epochs.map((epoch, i) => [epoch, curve.mean[i]]) };
    return curve.low ? [line, ...bandOf(curve, color)] : [line];
  });
  const shown = Object.fromEntries(data.curves.map((curve, index) => [curve.name, index < COLOURS.length]));
  chart.setOption({
    animation: false,
    grid: { left: 45, right: 15, top: 60, bottom: 70 },
    legend: { type: "scroll", top: 0, data: data.curves.map((curve) => curve.name), selected: shown },
    tooltip: { trigger: "item", formatter: ({ seriesName, value }) => echarts.format.encodeHTML(`${seriesName}: epoch ${value[0]}, ${value[1].toFixed(2)} %`) },
    xAxis: { type: "value", name: "epoch", nameLocation: "middle", nameGap: 24, minInterval: 1 },
    yAxis: { type: "value", name: "%", scale: true },
    dataZoom: [{ type: "inside" }, { type: "slider", height: 18, bottom: 5 }],
    series,
  });
}

showHeatMap();
showCurves();
