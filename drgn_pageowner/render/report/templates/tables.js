// Tables: sorted by a button in each header, filtered by words, the first rows first.
for (const block of document.querySelectorAll("[data-block]")) {
  const SHOWN = 15;
  const table = block.querySelector("table");
  const body = table.tBodies[0];
  const headers = [...table.tHead.rows[0].cells];
  const rows = [...body.rows].map((row, place) => ({
    row, place,
    text: row.textContent.toLowerCase(),
    values: [...row.cells].map((cell) => {
      const value = cell.dataset.value;
      return value === undefined ? cell.textContent.trim() : Number(value);
    }),
  }));
  const count = block.querySelector("[data-count]");
  const input = block.querySelector("input");
  const state = { column: -1, descending: false, words: [], all: rows.length <= SHOWN + 3 };
  const more = page.element("button", "", { type: "button" });

  const compare = (a, b) => {
    const [x, y] = [a.values[state.column], b.values[state.column]];
    if (typeof x === "number" && typeof y === "number") return x - y;
    // What has no value is less than anything that has one.
    if (typeof x !== typeof y) return typeof x === "number" ? 1 : -1;
    return x.localeCompare(y);
  };

  const show = () => {
    const found = rows.filter((one) => state.words.every((word) => one.text.includes(word)));
    if (state.column >= 0) {
      const sign = state.descending ? -1 : 1;
      found.sort((a, b) => sign * compare(a, b) || a.place - b.place);
    }
    const shown = state.all ? found : found.slice(0, SHOWN);
    body.replaceChildren(...shown.map((one) => one.row));
    count.textContent = shown.length === rows.length
      ? `${page.number(rows.length)} row${rows.length === 1 ? "" : "s"}`
      : `${page.number(shown.length)} of ${page.number(found.length)} rows` +
        (found.length === rows.length ? "" : `, ${page.number(rows.length)} without the filter`);
    more.hidden = state.all || found.length <= SHOWN;
    more.textContent = `Show all ${page.number(found.length)}`;
  };

  headers.forEach((header, column) => {
    const button = page.element("button", header.textContent, { type: "button" });
    // A header that is repeated on the next page is printed without its button.
    header.dataset.name = header.textContent;
    header.replaceChildren(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const numeric = header.classList.contains("number");
      state.descending = state.column === column ? !state.descending : numeric;
      state.column = column;
      headers.forEach((other) => other.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      show();
    });
  });
  if (input) {
    input.addEventListener("input", () => {
      state.words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      show();
    });
  }
  // On paper nothing opens: all leaks, and the stacks of the largest rows.
  const UNFOLDED = 5;
  // Of each open row: its details, and the cell across the whole page that their text is in meanwhile.
  const across = [];
  const spread = (row, details) => {
    const cell = page.element("td", "", { colspan: row.cells.length });
    cell.append(...[...details.childNodes].filter((one) => one.nodeName !== "SUMMARY"));
    const below = page.element("tr", "", { class: "across" });
    below.append(cell);
    row.after(below);
    across.push([details, cell]);
  };
  page.printing((on) => {
    for (const [details, cell] of across.splice(0)) details.append(...cell.childNodes);
    if (on) {
      state.before = state.all;
      state.all = state.all || block.dataset.block === "leaks";
    } else {
      state.all = state.before;
    }
    show();
    const most = block.dataset.block === "leaks" ? rows.length : UNFOLDED;
    [...body.rows].forEach((row, place) => row.querySelectorAll("details").forEach((details) => {
      if (on) {
        details.dataset.open = details.open ? "yes" : "";
        details.open = details.open || place < most;
        if (details.open) spread(row, details);
      } else {
        details.open = Boolean(details.dataset.open);
      }
    }));
  });
  more.addEventListener("click", () => { state.all = true; show(); });
  count.parentElement.append(more);
  show();
}
