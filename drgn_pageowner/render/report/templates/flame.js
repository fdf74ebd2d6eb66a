// The flame graph: plotly's icicle, and around it a tree that is cut to what is wide enough.
page.ready(() => {
  const flame = report.flame;
  if (!flame) return;
  const ROW = 22;
  const MOST = 1200;
  const CHARACTER = 6.9;
  const place = document.getElementById("chart-flame");
  const found = document.getElementById("flame-found");
  const matches = document.getElementById("flame-matches");
  const path = document.getElementById("flame-path");
  const readout = document.getElementById("flame-selected");
  const search = document.getElementById("flame-search");
  const only = document.getElementById("flame-only");
  const reverse = document.getElementById("flame-reverse");
  const views = [...document.querySelectorAll("input[name=flame-view]")];
  const reset = document.getElementById("flame-reset");
  const HOT = ["role:hot", "role:hot2", "role:hot3", "role:hot4"];
  let matched = new Set();
  let stacksMatched = [];
  let tree;
  let zoomed;
  let selected;
  let nodes = [];

  const view = () => views.find((one) => one.checked)?.value || "all";
  /** The pages of a stack that the view shows. */
  const amount = ([pages, , , , lost, own]) =>
    view() === "leaked" ? lost : view() === "kernel" ? pages - own : pages;
  const NAMES = { all: "all stacks", kernel: "all but process memory", leaked: "leaked" };

  const label = (node) => node.name !== undefined ? node.name : flame.functions[node.f];

  /** All stacks as a tree: callers first, or reversed from the allocator to its callers. */
  const build = () => {
    const make = (f, parent) => ({ f, parent, pages: 0, allocations: 0, mm: false, children: new Map() });
    const root = make(-1);
    root.name = only.checked && matched.size ? "stacks that match" : NAMES[view()];
    const stacks = only.checked && matched.size ? stacksMatched : flame.stacks;
    for (const stack of stacks) {
      const [, , allocator, frames] = stack;
      const pages = amount(stack);
      // How many allocations a part of a stack has is not known.
      const allocations = pages === stack[0] ? stack[1] : 0;
      if (!pages) continue;
      let node = root;
      node.pages += pages;
      node.allocations += allocations;
      const last = frames.length - 1;
      const length = reverse.checked ? frames.length - allocator : frames.length;
      for (let index = 0; index < length; index++) {
        const at = reverse.checked ? allocator + index : last - index;
        const f = frames[at];
        let child = node.children.get(f);
        if (!child) {
          child = make(f, node);
          node.children.set(f, child);
        }
        child.pages += pages;
        child.allocations += allocations;
        child.mm = at < allocator;
        node = child;
      }
    }
    const [others, pages, allocations] = flame.others;
    if (others && stacks === flame.stacks && view() === "all") {
      const rest = make(-2, root);
      Object.assign(rest, { name: `${page.number(others)} smaller stacks`, pages, allocations });
      root.children.set(-2, rest);
      root.pages += pages;
      root.allocations += allocations;
    }
    tree = root;
    zoomed = root;
    selected = undefined;
  };

  /** The nodes to draw, widest first of each level; what is too narrow is left out. */
  const visible = (width) => {
    const least = zoomed.pages * 1.2 / width;
    let level = [zoomed];
    const result = [];
    let depth = 0;
    while (level.length && result.length < MOST) {
      result.push(...level);
      level.forEach((node) => { node.depth = depth; });
      depth += 1;
      level = level.flatMap((node) => [...node.children.values()].filter((child) => child.pages >= least))
        .sort((a, b) => b.pages - a.pages).slice(0, MOST - result.length);
    }
    return [result, depth];
  };

  const colour = (node) => {
    if (node === zoomed && !node.parent) return "role:sunken";
    if (matched.size) return matched.has(node.f) ? "role:match" : "role:dim";
    if (node.name !== undefined) return "role:unknown";
    if (node.mm) return "role:mm";
    if (label(node).endsWith("]")) return "role:module";
    let hash = 0;
    for (const character of label(node)) hash = (hash * 31 + character.charCodeAt(0)) >>> 0;
    return HOT[hash % HOT.length];
  };

  // A text may not say how many allocations there are.
  const many = (node) => flame.allocations === null || view() !== "all" ? "" :
    `${page.number(node.allocations)} allocations`;
  const words = (node) => `${label(node)}: ${page.size(node.pages)} ` +
    `(${page.percent(node.pages, flame.pages)}) ${many(node)}`.trimEnd();

  const draw = () => {
    const width = Math.max(page.width(place) - 24, 200);
    let depth;
    [nodes, depth] = visible(width);
    const ids = new Map(nodes.map((node, index) => [node, String(index)]));
    const texts = nodes.map((node) => {
      const room = Math.floor((width * node.pages / (zoomed.pages || 1) - 8) / CHARACTER);
      const size = page.size(node.pages);
      const text = label(node).length + size.length + 2 <= room
        ? `${label(node)}  ${size}` : label(node);
      return room < 3 ? "" : text.length <= room ? text : text.slice(0, room - 1) + "\u2026";
    });
    const data = [{
      type: "icicle",
      branchvalues: "total",
      ids: nodes.map((node) => ids.get(node)),
      parents: nodes.map((node) => node === zoomed ? "" : ids.get(node.parent)),
      labels: nodes.map((node) => page.escape(label(node))),
      values: nodes.map((node) => node.pages),
      text: texts.map(page.escape),
      customdata: nodes.map((node) => [page.size(node.pages), page.number(node.pages),
        many(node), page.percent(node.pages, flame.pages)]),
      textinfo: "text",
      textposition: "middle left",
      hovertemplate: "<b>%{label}</b><br>%{customdata[0]} (%{customdata[1]} pages), " +
        "%{customdata[3]} of all<br>%{customdata[2]}<extra></extra>",
      marker: {
        colors: nodes.map(colour),
        line: {
          color: nodes.map((node) => node === selected ? "role:focus" : "role:surface"),
          width: nodes.map((node) => node === selected ? 3 : 1),
        },
      },
      textfont: { size: 11, color: "role:on-flame", family: "ui-monospace, Menlo, Consolas, monospace" },
      tiling: { orientation: "v", pad: 0 },
      pathbar: { visible: false },
      maxdepth: -1,
    }];
    const layout = page.layout(place, { height: depth * ROW + 24 });
    Plotly.react(place, page.coloured(data), layout, page.plotOptions);
    drawPath();
  };

  const drawPath = () => {
    const above = [];
    for (let node = zoomed.parent; node; node = node.parent) above.unshift(node);
    path.replaceChildren(...above.flatMap((node) => {
      const button = page.element("button", label(node), { type: "button" });
      button.addEventListener("click", () => zoom(node));
      return [button, page.element("span", "\u203a", { "aria-hidden": "true" })];
    }), ...(above.length ? [page.element("strong", label(zoomed))] : []));
    reset.disabled = !above.length;
  };

  const select = (node) => {
    selected = node;
    readout.textContent = node ? words(node) : "";
  };

  const zoom = (node) => {
    zoomed = node;
    select(node === tree ? undefined : node);
    draw();
  };

  /** The node of a function that has the most pages. */
  const widest = (f) => {
    let best;
    const visit = (node) => {
      if (node.f === f && (!best || node.pages > best.pages)) best = node;
      node.children.forEach(visit);
    };
    visit(tree);
    return best;
  };

  const look = () => {
    const wanted = search.value.trim().toLowerCase();
    matched = new Set();
    matches.replaceChildren();
    found.textContent = "";
    if (wanted) {
      flame.functions.forEach((name, f) => {
        if (name.toLowerCase().includes(wanted)) matched.add(f);
      });
    }
    stacksMatched = flame.stacks.filter((stack) => stack[3].some((f) => matched.has(f)));
    only.disabled = !matched.size;
    if (only.checked || zoomed !== tree) build();
    if (wanted) sayFound(wanted);
    draw();
  };

  const sayFound = (wanted) => {
    const pages = stacksMatched.reduce((sum, stack) => sum + amount(stack), 0);
    found.textContent = matched.size
      ? `${page.number(matched.size)} function${matched.size === 1 ? " matches; through it" : "s match; through them"} ${page.size(pages)} ` +
        `(${page.percent(pages, flame.pages)}) in ${page.number(stacksMatched.length)} stacks.`
      : `No function has \u201c${wanted}\u201d in its name.`;
    const nodesFound = [...matched].map(widest).filter(Boolean)
      .sort((a, b) => b.pages - a.pages).slice(0, 8);
    matches.replaceChildren(...nodesFound.map((node) => {
      const button = page.element("button", `${label(node)}, ${page.size(node.pages)}`,
        { type: "button" });
      button.addEventListener("click", () => zoom(node));
      return button;
    }));
  };

  /** The neighbour of the selected bar that an arrow key leads to. */
  const neighbour = (key) => {
    if (!selected || !nodes.includes(selected)) return zoomed;
    if (key === "ArrowUp") return selected === zoomed ? zoomed : selected.parent;
    if (key === "ArrowDown") {
      return nodes.find((node) => node.parent === selected && node !== zoomed) || selected;
    }
    const level = nodes.filter((node) => node.parent === selected.parent && node.depth === selected.depth);
    return level[level.indexOf(selected) + (key === "ArrowRight" ? 1 : -1)] || selected;
  };

  place.addEventListener("keydown", (event) => {
    if (event.key.startsWith("Arrow")) {
      select(neighbour(event.key));
      draw();
    } else if (event.key === "Enter" && selected) {
      zoom(selected);
    } else if (event.key === "Escape" && zoomed.parent) {
      zoom(zoomed.parent);
    } else {
      return;
    }
    event.preventDefault();
  });
  search.addEventListener("input", look);
  only.addEventListener("change", () => { build(); look(); });
  reverse.addEventListener("change", () => { build(); look(); });
  views.forEach((one) => one.addEventListener("change", () => { build(); look(); }));
  reset.addEventListener("click", () => zoom(tree));
  only.disabled = true;
  build();
  page.add(draw);
  // Our own zoom, which draws what had been too narrow; plotly's is refused.
  place.on("plotly_icicleclick", (event) => {
    const node = nodes[Number(event.points[0].id)];
    if (node) setTimeout(() => zoom(node === zoomed && node.parent ? node.parent : node));
    return false;
  });
});
