// The figures that are ready as they come: treemap, age, free memory.

/** The names that fit into a treemap of which only the node `level` is shown. */
const labelled = (trace, level) => {
  const shown = trace.ids.indexOf(level === undefined ? "all" : level);
  const whole = trace.values[Math.max(shown, 0)];
  return trace.values.map((value) =>
    value < 0.004 * whole ? "" : value < 0.02 * whole ? "%{label}" : "%{label}<br>%{customdata[0]}");
};

page.ready(() => {
  for (const [name, height] of [["treemap", 460], ["ages", 340], ["free", 340]]) {
    const figure = report.figures[name];
    const place = document.getElementById("chart-" + name);
    if (!figure || !place) continue;
    let level;
    page.add(() => {
      const narrow = place.clientWidth < 560;
      const bars = name === "treemap" ? {} : {
        legend: {
          orientation: "h", traceorder: "normal", x: 0, xanchor: "left",
          y: 1.04, yanchor: "bottom", itemclick: false, itemdoubleclick: false,
        },
        margin: { t: 20, r: 20, b: 16, l: 16 },
        bargap: 0.25,
      };
      const data = page.coloured(figure.data);
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
    // Names that had to be made too small to be read are left out.
    place.on("plotly_afterplot", () => {
      for (const text of place.querySelectorAll("text.slicetext")) {
        const scale = /scale\(([\d.]+)/.exec(text.getAttribute("transform") || "");
        text.style.visibility = scale && Number(scale[1]) < 0.75 ? "hidden" : "";
      }
    });
    place.on("plotly_treemapclick", (event) => {
      level = event.nextLevel;
      Plotly.restyle(place, { texttemplate: [labelled(figure.data[0], level)], level: [level] });
      return false;
    });
  }
});
