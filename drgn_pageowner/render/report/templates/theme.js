"use strict";
// What every chart of this page shares: the data, the colours, and when to draw again.
const report = JSON.parse(document.getElementById("report-data").textContent);
const page = {
  charts: [],
  waiting: [],
  printers: [],
  onPaper: false,
  plotOptions: { displayModeBar: false, responsive: false, scrollZoom: false },

  /** The colour that CSS has for a role, in light or in dark. */
  colour(role) {
    return getComputedStyle(document.documentElement).getPropertyValue("--" + role).trim();
  },

  /** A copy of a figure with colours for roles ("role:free"). */
  coloured(value) {
    if (typeof value === "string") {
      return value.startsWith("role:") ? page.colour(value.slice(5)) : value;
    }
    if (Array.isArray(value)) return value.map(page.coloured);
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, item]) => [key, page.coloured(item)]));
    }
    return value;
  },

  /** The width of a place; on paper, where it is not laid out yet, that of A4 or Letter. */
  width(place) {
    return page.onPaper ? Math.min(place.clientWidth, 690) : place.clientWidth;
  },

  /** What all figures look like; as wide as their place. */
  layout(place, own) {
    const axis = { gridcolor: "role:line", linecolor: "role:strong-line", zerolinecolor: "role:line" };
    return page.coloured({
      autosize: false,
      width: page.width(place),
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "role:text" },
      hoverlabel: {
        bgcolor: "role:surface", bordercolor: "role:strong-line",
        font: { color: "role:text", size: 12 }, align: "left", namelength: -1,
      },
      margin: { t: 12, r: 12, b: 12, l: 12 },
      dragmode: false,
      ...own,
      ...(own.xaxis ? { xaxis: { ...axis, automargin: true, ...own.xaxis } } : {}),
      ...(own.yaxis ? { yaxis: { ...axis, automargin: true, ...own.yaxis } } : {}),
    });
  },

  /** Text for plotly, which reads some of HTML. */
  escape(text) {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  },

  size(pages) {
    let value = pages * report.page_size;
    for (const unit of ["B", "KiB", "MiB", "GiB"]) {
      if (value < 1024) return (unit === "B" ? value.toFixed(0) : value.toFixed(1)) + " " + unit;
      value /= 1024;
    }
    return value.toFixed(1) + " TiB";
  },

  number(value) {
    return value.toLocaleString("en-US");
  },

  percent(part, whole) {
    return (whole ? (100 * part / whole).toFixed(1) : "0.0") + " %";
  },

  element(tag, text, attributes) {
    const made = document.createElement(tag);
    if (text) made.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    return made;
  },

  /** Call start as soon as plotly is there. */
  ready(start) {
    page.waiting.push(start);
  },

  /** Call draw now, and again whenever colours or the width change. */
  add(draw) {
    page.charts.push(draw);
    draw();
  },

  /** Call change(true) before the page is printed, and change(false) afterwards. */
  printing(change) {
    page.printers.push(change);
  },

  print(on) {
    if (on === page.onPaper) return;
    page.onPaper = on;
    for (const change of page.printers) change(on);
    page.redraw();
  },

  redraw() {
    for (const draw of page.charts) draw();
  },
};

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", page.redraw);
matchMedia("print").addEventListener("change", (event) => page.print(event.matches));
addEventListener("beforeprint", () => page.print(true));
addEventListener("afterprint", () => page.print(false));
let resizing;
let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnWidth) return;
  drawnWidth = innerWidth;
  clearTimeout(resizing);
  resizing = setTimeout(page.redraw, 150);
});
