// The figures that are ready as they come: treemap, age, free memory.

/** The names that fit into a treemap of which only the node `level` is shown. */
const labelled = (trace, level) => {
  const shown = trace.ids.indexOf(level === undefined ? "all" : level);
  const whole = trace.values[Math.max(shown, 0)];
  return trace.values.map((value) =>
    value < 0.004 * whole ? "" : value < 0.02 * whole ? "%{label}" : "%{label}<br>%{customdata[0]}");
};

/** The treemap without free memory: what is left is the whole. */
const withoutFree = (trace) => {
  const isFree = (place) => [trace.ids[place], trace.parents[place]]
    .some((id) => /^c\/free( |$)/.test(id) || id.startsWith("c/free ("));
  const kept = trace.ids.map((_, place) => place).filter((place) => !isFree(place));
  const free = trace.ids.reduce((sum, id, place) =>
    trace.parents[place] === "all" && isFree(place) ? sum + trace.values[place] : sum, 0);
  const pick = (list) => kept.map((place) => list[place]);
  return {
    ...trace,
    ids: pick(trace.ids), parents: pick(trace.parents), labels: pick(trace.labels),
    values: pick(trace.values).map((value, place) => trace.ids[kept[place]] === "all" ? value - free : value),
    customdata: pick(trace.customdata).map((texts, place) => trace.ids[kept[place]] === "all"
      ? [page.size((trace.values[kept[place]] - free) / report.page_size), texts[1],
        page.number((trace.values[kept[place]] - free) / report.page_size)] : texts),
    marker: { ...trace.marker, colors: pick(trace.marker.colors) },
    textfont: { ...trace.textfont, color: pick(trace.textfont.color) },
  };
};

page.ready(() => {
  for (const [name, height] of [["treemap", 460], ["ages", 340], ["free", 340]]) {
    const figure = report.figures[name];
    const place = document.getElementById("chart-" + name);
    if (!figure || !place) continue;
    const hide = document.getElementById("treemap-used");
    let level;
    page.add(() => {
      const narrow = page.width(place) < 560;
      const bars = name === "treemap" ? {} : {
        legend: {
          orientation: "h", traceorder: "normal", x: 0, xanchor: "left",
          y: 1.04, yanchor: "bottom", itemclick: false, itemdoubleclick: false,
        },
        margin: { t: 20, r: figure.layout.yaxis2 ? 56 : 20, b: 16, l: 16 },
        bargap: 0.25,
      };
      const data = page.coloured(name === "treemap" && hide && hide.checked
        ? [withoutFree(figure.data[0])] : figure.data);
      if (name === "treemap") {
        data[0].texttemplate = labelled(data[0], level);
        if (level !== undefined) data[0].level = level;
      }
      const layout = page.layout(place, {
        ...figure.layout, ...bars, height: narrow && name !== "treemap" ? height + 100 : height,
      });
      Plotly.react(place, data, layout, page.plotOptions);
    });
    if (name !== "treemap") continue;
    hide.addEventListener("change", () => { level = undefined; page.redraw(); });
    // Names that had to be made too small to be read are left out.
    place.on("plotly_afterplot", () => {
      for (const text of place.querySelectorAll("text.slicetext")) {
        const scale = /scale\(([\d.]+)/.exec(text.getAttribute("transform") || "");
        const isClass = String(text.closest("g.slice")?.__data__?.data?.id || "").split("/").length === 2;
        text.style.visibility = scale && Number(scale[1]) < (isClass ? 0.45 : 0.75) ? "hidden" : "";
      }
    });
    place.on("plotly_treemapclick", (event) => {
      level = event.nextLevel;
      const trace = hide.checked ? withoutFree(figure.data[0]) : figure.data[0];
      Plotly.restyle(place, { texttemplate: [labelled(trace, level)], level: [level] });
      return false;
    });
  }
});
