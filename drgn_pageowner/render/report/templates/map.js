// The map of physical memory: a heatmap for each zone, a cell for each pageblock or several.
page.ready(() => {
  const map = report.map;
  if (!map) return;
  const KINDS = ["free", "movable", "reclaimable", "unmovable", "unknown", "absent"];
  const LEFT = 72;
  const legend = document.getElementById("map-legend");
  const readout = document.getElementById("map-cell");

  const hex = (pfn) => "0x" + pfn.toString(16);

  /** A cell in words, a line each. */
  const lines = (cell) => {
    const [pfn, blocks, kind, type, counts, owners] = cell;
    const mixed = KINDS.map((name, index) => [name, counts[index]]).filter(([, pages]) => pages)
      .map(([name, pages]) => `${page.number(pages)} ${name}`).join(", ");
    return [
      `pfn:${hex(pfn)}, ${map.types[type]}` + (blocks > 1 ? `, ${blocks} pageblocks` : ""),
      map.meanings[kind],
      `pages: ${mixed}`,
      ...owners.map(([owner, pages]) => `${page.number(pages)} of ${map.owners[owner]}`),
    ];
  };

  const drawLegend = () => {
    legend.replaceChildren(...map.classes.map((name, index) => {
      const item = page.element("li");
      const swatch = page.element("span", "", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = page.colour("map-" + name);
      item.append(swatch, page.element("span", map.meanings[index]));
      return item;
    }));
  };
  page.add(drawLegend);

  // All of them first: a map is as wide as its place, and two zones share a row.
  const places = map.zones.map((zone) => {
    const section = page.element("div");
    section.append(page.element("h3", `${zone.title}: a cell is ${zone.blocks_per_cell} pageblock` +
      (zone.blocks_per_cell > 1 ? "s" : "")));
    const place = page.element("div", "", {
      class: "chart", role: "application", tabindex: "0",
      "aria-label": `Map of ${zone.title}, ${zone.cells.length} cells; the table below counts them`,
      "aria-describedby": "map-cell",
    });
    section.append(place);
    document.getElementById("maps").append(section);
    return place;
  });
  for (const [number, zone] of map.zones.entries()) {
    const place = places[number];
    let columns = 64;
    let cursor = -1;

    const draw = () => {
      // Cells as large as fit into a low rectangle; a row is a round number of them.
      const room = Math.max(page.width(place) - LEFT - 12, 160);
      const wanted = Math.min(Math.max(Math.sqrt(room * 300 / zone.cells.length), 5), 18);
      const step = room / wanted < 32 ? 4 : 16;
      columns = Math.max(Math.floor(room / wanted / step), 1) * step;
      const side = Math.min(room / columns, 22);
      const rows = Math.ceil(zone.cells.length / columns);
      const at = (row, column) => zone.cells[row * columns + column];
      const grid = (make) => Array.from({ length: rows }, (_, row) =>
        Array.from({ length: columns }, (_, column) => {
          const cell = at(row, column);
          return cell ? make(cell) : null;
        }));
      const steps = map.classes.length;
      const scale = map.classes.flatMap((name, index) => [
        [index / steps, "role:map-" + name], [(index + 1) / steps, "role:map-" + name]]);
      const data = [{
        type: "heatmap",
        z: grid((cell) => cell[2]),
        text: grid((cell) => page.escape(lines(cell).join("\n")).replace(/\n/g, "<br>")),
        hovertemplate: "%{text}<extra></extra>",
        hoverongaps: false,
        zmin: -0.5, zmax: steps - 0.5, colorscale: scale, showscale: false, xgap: 1, ygap: 1,
      }];
      const ticks = Array.from({ length: rows }, (_, row) => row)
        .filter((row) => row % Math.max(1, Math.ceil(rows / 8)) === 0);
      const shapes = cursor < 0 ? [] : [{
        type: "rect", line: { color: "role:focus", width: 3 },
        x0: cursor % columns - 0.5, x1: cursor % columns + 0.5,
        y0: Math.floor(cursor / columns) - 0.5, y1: Math.floor(cursor / columns) + 0.5,
      }];
      const layout = page.layout(place, {
        height: rows * side + 24,
        width: columns * side + LEFT + 12,
        margin: { t: 12, r: 12, b: 12, l: LEFT },
        shapes,
        xaxis: { visible: false, fixedrange: true, range: [-0.5, columns - 0.5] },
        yaxis: {
          fixedrange: true, range: [rows - 0.5, -0.5], showgrid: false, zeroline: false,
          tickmode: "array", tickvals: ticks, ticktext: ticks.map((row) => hex(at(row, 0)[0])),
          tickfont: { size: 10 }, automargin: false,
        },
      });
      Plotly.react(place, page.coloured(data), layout, page.plotOptions);
    };
    page.add(draw);

    const say = (index) => {
      readout.textContent = `${zone.title}: ${lines(zone.cells[index]).join("; ")}`;
    };
    place.on("plotly_click", (event) => {
      const { x, y } = event.points[0];
      cursor = y * columns + x;
      draw();
      say(cursor);
    });
    place.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns,
        Home: -zone.cells.length, End: zone.cells.length }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const next = cursor < 0 ? 0 : cursor + step;
      const far = event.key === "Home" || event.key === "End";
      if (!far && (next < 0 || next >= zone.cells.length)) return;
      cursor = Math.min(Math.max(next, 0), zone.cells.length - 1);
      draw();
      say(cursor);
    });
  }
});
