// The page's half of the explorer: it draws what the kernel says, and asks for more.
//
// It holds one page of rows. All that the kernel knows comes as the model's values (about, query,
// page, facets, detail, trouble); all that a person does goes as one message. Nothing of the data
// becomes markup: texts are put there as text. A page whose kernel is gone goes on showing what it
// has, so a message that is not answered for a while is told of.

const PAGE = 50;
const PATIENCE_MS = 6000;
const SILENT = "the kernel has not answered yet: it is busy, or gone; if it was restarted, "
  + "run the cell again";
const TYPING_MS = 300;
const THUMB = "M2 7h2.6v7H2z M4.6 7.4 7.6 2c1.5 0 2.2 1 1.9 2.3l-.5 2.2h4c1 0 1.6.8 1.4 1.7l-1 4.3"
  + "c-.2.9-.9 1.5-1.8 1.5h-7z";
const OPS = [["contains", "contains"], ["equals", "equals"], ["between", "is between"],
             ["length", "has a length of"], ["missing", "is missing"], ["present", "is not missing"]];
const HAS_NUMBERS = new Set(["number", "time", "span", "truth"]);

// -- elements -------------------------------------------------------------------------------------

function h(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== ""));
  return made;
}

function thumbIcon(which) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  path.setAttribute("d", THUMB);
  if (which === "down") path.setAttribute("transform", "rotate(180 8 8)");
  return svg;
}

const button = (text, onclick, attributes = {}) =>
  h("button", {type: "button", onclick, ...attributes}, text);

const said = (text, className = "") => h("span", {dir: "auto", class: className}, text);

// Draws anew what is inside an element, and gives the focus back to what had it.
function redraw(place, children) {
  const active = place.getRootNode().activeElement;
  const key = place.contains(active) ? active.dataset.key : undefined;
  const offset = place.scrollLeft;
  place.replaceChildren(...children);
  place.scrollLeft = offset;
  if (key === undefined) return;
  const all = [...place.querySelectorAll("[data-key]")];
  (all.find((one) => one.dataset.key === key) ?? all[0])?.focus();
}

const number = (n) => n.toLocaleString("en-US");
const rowsOf = (n) => `${number(n)} ${n === 1 ? "row" : "rows"}`;
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

// -- a nested value -------------------------------------------------------------------------------

function tree(value, depth = 0) {
  if (value === null || value === undefined) return h("span", {class: "missing"}, "missing");
  if (typeof value !== "object") return said(String(value), "value");
  const isList = Array.isArray(value), entries = Object.entries(value);
  if (!entries.length) return h("span", {class: "missing"}, isList ? "an empty list" : "nothing");
  if (isList && value.every((one) => typeof one !== "object") && value.length <= 100)
    return h("ul", {class: "items"}, value.map((one) => h("li", {dir: "auto"}, String(one))));
  const list = h("dl", {}, entries.flatMap(([key, one]) =>
    [h("dt", {dir: "auto"}, key), h("dd", {}, tree(one, depth + 1))]));
  if (depth === 0) return list;
  const words = isList ? `${entries.length} items` : entries.map(([key]) => key).join(", ");
  return h("details", {open: depth < 3}, h("summary", {dir: "auto"}, words), list);
}

// -- the explorer ---------------------------------------------------------------------------------

class View {
  constructor(model, el) {
    this.model = model;
    this.id = `gptbatch-explorer-${Math.random().toString(36).slice(2)}`;
    this.cursor = 0;
    this.landing = "keep";
    this.drawn = [];
    this.build(el);
    this.follow({about: this.drawAbout, page: this.drawPage, query: this.drawQuery,
                 facets: this.drawFacets, detail: this.drawDetail, trouble: this.drawTrouble});
    this.send({do: "facets"});
  }

  follow(drawn) {
    for (const [name, draw] of Object.entries(drawn)) {
      const bound = draw.bind(this);
      this.model.on(`change:${name}`, bound);
      this.drawn.push([`change:${name}`, bound]);
      bound();
    }
  }

  end() {
    for (const [event, draw] of this.drawn) this.model.off(event, draw);
    clearTimeout(this.patience);
    clearTimeout(this.typing);
    this.saveNote();
    try { this.model.send({do: "bye"}); } catch { /* the kernel is gone, and so is its frame */ }
  }

  // -- talking to the kernel --

  send(message) {
    this.stamp = (this.stamp ?? Date.now()) + 1;
    clearTimeout(this.patience);
    if (message.do !== "facets" && message.do !== "close") {
      this.root.setAttribute("aria-busy", "true");
      this.patience = setTimeout(() => this.tell(SILENT), PATIENCE_MS);
    }
    try {
      this.model.send({...message, stamp: this.stamp});
    } catch {  // its channel was closed with the kernel
      this.tell(SILENT);
    }
  }

  answered() {
    clearTimeout(this.patience);
    this.root.removeAttribute("aria-busy");
    this.tell("");
  }

  tell(words) {
    this.trouble.textContent = this.model.get("trouble") || words;
  }

  ask(change = {}, start = 0, landing = "first") {
    this.landing = landing;
    const query = {...this.model.get("query"), ...change};
    this.send({do: "query", query, start, is_same: !Object.keys(change).length});
  }

  go(start, landing = "first") {
    const {shown} = this.model.get("page");
    const last = Math.max(0, Math.floor((shown - 1) / PAGE) * PAGE);
    this.ask({}, Math.max(0, Math.min(start, last)), landing);
  }

  toggle(filter) {
    const filters = this.model.get("query").filters;
    const rest = filters.filter((one) => !same(one, filter));
    this.ask({filters: rest.length < filters.length ? rest : [...filters, filter]});
  }

  toggleStatus(status) {
    const statuses = this.model.get("query").statuses;
    this.ask({statuses: statuses.includes(status)
      ? statuses.filter((one) => one !== status) : [...statuses, status]});
  }

  // -- the frame of it all --

  build(el) {
    el.classList.add("gptbatch-explorer-outer");
    this.title = h("strong", {class: "name", dir: "auto"});
    this.size = h("span", {class: "size", role: "status"});
    this.refresh = button("Refresh", () => this.send({do: "refresh"}), {class: "refresh"});
    this.search = h("input", {
      type: "search", placeholder: "search all texts  ( / )", "aria-label": "search all texts",
      oninput: () => this.searchSoon(), onkeydown: (event) => this.onSearchKey(event)});
    this.chips = h("div", {class: "chips"});
    this.facets = h("div", {class: "facets"});
    this.grid = h("table", {
      role: "grid", tabindex: "0", "aria-label": "rows", id: this.id,
      onkeydown: (event) => this.onKey(event)});
    this.scroll = h("div", {class: "scroll"}, this.grid);
    this.pager = h("div", {class: "pager", role: "group", "aria-label": "pages"});
    this.pane = h("section", {class: "pane", "aria-label": "one row", hidden: true,
                              onkeydown: (event) => this.onPaneKey(event)});
    this.notes = h("div", {class: "notes"});
    this.trouble = h("div", {class: "trouble", role: "alert"});
    this.hide = h("style");
    this.root = h("div", {class: "gptbatch-explorer", "data-lm-suppress-shortcuts": "true",
                          "data-jp-suppress-context-menu": "", lang: "en"},
      this.hide,
      h("div", {class: "top"}, this.title, this.size, this.refresh),
      h("div", {class: "tools"}, this.search, this.buildFilter(), this.buildSample()),
      this.chips, this.facets,
      h("div", {class: "main"}, h("div", {class: "left"}, this.scroll, this.pager), this.pane),
      this.trouble, this.notes);
    el.append(this.root);
  }

  buildFilter() {
    this.column = h("select", {"aria-label": "column to filter by",
                               onchange: () => this.drawOps()});
    this.op = h("select", {"aria-label": "what to ask of it", onchange: () => this.drawOps()});
    const field = (label) => h("input", {type: "text", "aria-label": label, placeholder: label});
    [this.value, this.low, this.high] = ["value", "from", "to"].map(field);
    const add = h("button", {type: "submit"}, "Add filter");
    return h("form", {class: "filter", onsubmit: (event) => this.addFilter(event)},
             this.column, this.op, this.value, this.low, this.high, add);
  }

  buildSample() {
    this.sampleSize = h("input", {type: "number", min: "1", value: "20",
                                  "aria-label": "rows in the sample"});
    const draw = h("button", {type: "submit"}, "Random sample");
    return h("form", {class: "sample", onsubmit: (event) => this.drawSample(event)},
             this.sampleSize, draw);
  }

  // -- what does not change with the query --

  drawAbout() {
    const about = this.model.get("about");
    this.title.textContent = about.name;
    this.refresh.hidden = !about.may_refresh;
    this.hide.textContent = `.${about.receipt} {display: none}`;
    this.kinds = new Map(about.columns.map(({name, kind}) => [name, kind]));
    const chosen = this.column.value;
    this.column.replaceChildren(...about.columns.map(({name}) => h("option", {value: name}, name)));
    if (this.kinds.has(chosen)) this.column.value = chosen;
    this.drawOps();
    const keys = "keys: ↑ ↓ PageUp PageDown Home End move · Enter opens · Esc closes · "
      + "x picks · + and − thumbs · n note · / search";
    this.notes.replaceChildren(...[...about.said, keys].map((words) => h("div", {}, words)));
  }

  drawOps() {
    const kind = this.kinds?.get(this.column.value), hasNumbers = HAS_NUMBERS.has(kind);
    const fits = OPS.filter(([op]) => hasNumbers
      ? op !== "length" && !(op === "contains" && kind !== "text") : op !== "between");
    const before = this.op.value;
    this.op.replaceChildren(...fits.map(([op, words]) => h("option", {value: op}, words)));
    if (fits.some(([op]) => op === before)) this.op.value = before;
    const isRange = ["between", "length"].includes(this.op.value);
    this.low.hidden = this.high.hidden = !isRange;
    this.value.hidden = !["contains", "equals"].includes(this.op.value);
  }

  addFilter(event) {
    event.preventDefault();
    const text = (input) => (input.hidden || input.value === "" ? null : input.value);
    const filter = {column: this.column.value, op: this.op.value, value: text(this.value),
                    low: text(this.low), high: text(this.high)};
    const filters = this.model.get("query").filters;
    if (!filters.some((one) => same(one, filter))) this.ask({filters: [...filters, filter]});
  }

  drawSample(event) {
    event.preventDefault();
    const query = this.model.get("query"), size = Number(this.sampleSize.value);
    const seed = query.sample === size ? query.seed + 1 : query.seed;
    this.ask({sample: size, seed});
  }

  searchSoon() {
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.searchNow(), TYPING_MS);
  }

  searchNow() {
    clearTimeout(this.typing);
    if (this.search.value !== this.model.get("query").text) this.ask({text: this.search.value});
  }

  // -- what is asked for --

  drawQuery() {
    const query = this.model.get("query");
    if (this.search.getRootNode().activeElement !== this.search) this.search.value = query.text;
    const chips = [];
    const chip = (words, change) => chips.push(button(
      [said(words), h("span", {"aria-hidden": "true"}, " ×")], () => this.ask(change),
      {"data-key": words, title: "take it off", "aria-label": `take off: ${words}`}));
    if (query.text) chip(`text: ${query.text}`, {text: ""});
    for (const status of query.statuses)
      chip(`status: ${status}`, {statuses: query.statuses.filter((one) => one !== status)});
    for (const filter of query.filters)
      chip(filterWords(filter), {filters: query.filters.filter((one) => one !== filter)});
    if (query.sample) chip(`${number(query.sample)} at random`, {sample: null, seed: query.seed});
    for (const key of query.sort)
      chip(`sorted by ${key.column} ${key.descending ? "↓" : "↑"}`,
           {sort: query.sort.filter((one) => one !== key)});
    if (chips.length > 1) chips.push(button("Clear all", () => this.ask(
      {text: "", statuses: [], filters: [], sort: [], sample: null}), {"data-key": "clear"}));
    redraw(this.chips, chips);
    this.drawHead();
  }

  // -- what the values add up to --

  drawFacets() {
    const facets = this.model.get("facets") ?? [];
    redraw(this.facets, facets.map((facet) => this.facet(facet)));
  }

  facet(facet) {
    const {column, kind, bars, missing} = facet;
    const most = Math.max(1, ...bars.map((bar) => bar.rows));
    const all = missing ? [...bars, missing] : bars;
    const isList = kind === "labels";
    const made = all.map((bar) => this.bar(column, bar, most, isList || bar === missing));
    made.forEach((one, n) => one.setAttribute("tabindex", n ? "-1" : "0"));
    const shown = isList ? made : [h("div", {class: "columns"}, made.slice(0, bars.length)),
      h("div", {class: "ends"}, said(ends(bars)[0]), said(ends(bars)[1])),
      ...made.slice(bars.length)];
    const what = kind === "lengths" ? `${column}, length` : column;
    return h("div", {class: `facet ${isList ? "labels" : "numbers"}`, role: "group",
                     "aria-label": what, onkeydown: (event) => rove(event, made)},
             h("div", {class: "what", dir: "auto", title: what}, what), shown);
  }

  bar(column, bar, most, isWide) {
    const words = `${bar.label}: ${rowsOf(bar.rows)}`;
    const share = `${Math.round((100 * Math.min(bar.rows, most)) / most)}%`;
    const fill = h("span", {class: "fill", style: `--share: ${share}`, "aria-hidden": "true"});
    const text = isWide ? [said(bar.label, "label"), h("span", {class: "rows"}, number(bar.rows))] : [];
    return h("button", {
      type: "button", class: bar.rows ? "bar" : "bar empty", title: words, "aria-label": words,
      "aria-pressed": String(bar.on), "data-key": `${column}\n${bar.label}`,
      onclick: () => (column === "gpt_status" && bar.filter.op === "equals"
        ? this.toggleStatus(bar.label) : this.toggle(bar.filter))}, fill, ...text);
  }

  // -- the rows --

  drawHead() {
    const about = this.model.get("about");
    const sort = this.model.get("query").sort;
    const heads = about.table.map((name) => {
      const at = sort.findIndex((key) => key.column === name);
      const order = at < 0 ? "none" : sort[at].descending ? "descending" : "ascending";
      const sign = at < 0 ? "" : (sort[at].descending ? " ↓" : " ↑") + (sort.length > 1 ? at + 1 : "");
      const click = (event) => this.sortBy(name, event.shiftKey);
      return h("th", {role: "columnheader", scope: "col", "aria-sort": order, class: `is-${this.kinds.get(name)}`},
        button([said(name), sign], click, {"data-key": `sort ${name}`,
          title: "sort; with Shift: by this as well"}));
    });
    const first = [h("th", {role: "columnheader", scope: "col", class: "pick"}, said("pick", "hidden")),
                   h("th", {role: "columnheader", scope: "col", class: "place"}, "row")];
    if (about.has_index) first.push(h("th", {role: "columnheader", scope: "col"}, "index"));
    const row = h("tr", {role: "row"}, first, heads);
    if (!this.head) this.grid.append(this.head = h("thead", {role: "rowgroup"}),
                                     this.body = h("tbody", {role: "rowgroup"}));
    redraw(this.head, [row]);
  }

  sortBy(name, isMore) {
    const sort = this.model.get("query").sort, held = sort.find((key) => key.column === name);
    const rest = isMore ? sort.filter((key) => key.column !== name) : [];
    if (!held) this.ask({sort: [...rest, {column: name, descending: false}]});
    else if (!held.descending) this.ask({sort: [...rest, {column: name, descending: true}]});
    else this.ask({sort: rest});
  }

  drawPage() {
    if (!this.head) this.drawHead();
    const page = this.model.get("page"), about = this.model.get("about");
    const last = page.rows.length - 1;
    if (this.landing === "first") this.cursor = 0;
    if (this.landing === "last") this.cursor = last;
    this.cursor = Math.max(0, Math.min(this.cursor, last));
    const isMoved = this.landing !== "keep";
    this.landing = "keep";
    this.body.replaceChildren(...page.rows.map((row, n) => this.row(row, n, about)));
    if (!page.rows.length) this.body.append(h("tr", {role: "row"}, h("td", {
      role: "gridcell", class: "none", colspan: String(about.table.length + 3)},
      "no row fits: take a filter off")));
    this.size.textContent = page.shown === page.total ? rowsOf(page.total)
      : `${number(page.shown)} of ${rowsOf(page.total)}`;
    this.grid.setAttribute("aria-rowcount", String(page.shown));
    this.drawPager(page);
    this.point(isMoved);
    if (page.stamp >= (this.stamp ?? 0)) this.answered();
  }

  row(row, n, about) {
    const pick = h("input", {type: "checkbox", tabindex: "-1", "aria-label": `pick row ${row.position}`,
      checked: row.picked, onclick: (event) => { event.stopPropagation(); this.pick(row); }});
    const place = [h("span", {class: `dot ${row.status ?? ""}`, title: row.status ?? "",
                              "aria-hidden": "true"}), number(row.position)];
    if (row.thumb) place.push(h("span", {class: `thumb ${row.thumb}`, role: "img",
                                         "aria-label": `thumb ${row.thumb}`, title: `thumb ${row.thumb}`}, thumbIcon(row.thumb)));
    if (row.note) place.push(h("span", {class: "noted", role: "img", "aria-label": "has a note",
                                        title: row.note}, "✎"));
    const cells = row.cells.map((cell, at) => h("td", {
      role: "gridcell", class: `is-${this.kinds.get(about.table[at])}`},
      cell === null ? h("span", {class: "missing"}, "–") : said(cell)));
    if (about.has_index) cells.unshift(h("td", {role: "gridcell", dir: "auto"}, row.index));
    return h("tr", {role: "row", id: `${this.id}-${n}`, "aria-selected": String(row.picked),
      "aria-rowindex": String(this.model.get("page").start + n + 1),
      onclick: () => { this.cursor = n; this.point(); this.open(); this.grid.focus(); }},
      h("td", {role: "gridcell", class: "pick"}, pick),
      h("th", {role: "rowheader", scope: "row", class: "place"}, place), cells);
  }

  drawPager(page) {
    const last = Math.min(page.start + PAGE, page.shown), isEnd = last >= page.shown;
    const words = page.shown ? `${number(page.start + 1)} to ${number(last)} of ${number(page.shown)}` : "none";
    const turn = (sign, label, start, isOff, landing) => button(sign, () => this.go(start, landing),
      {"aria-label": label, title: label, disabled: isOff, "data-key": label});
    redraw(this.pager, [
      turn("«", "first page", 0, !page.start), turn("‹", "page before", page.start - PAGE, !page.start),
      h("span", {}, words),
      turn("›", "next page", page.start + PAGE, isEnd), turn("»", "last page", page.shown, isEnd),
      h("span", {class: "picks"}, `${number(page.picked)} picked`),
      button("Pick all shown", () => this.send({do: "pick_shown"}), {"data-key": "all", disabled: !page.shown}),
      button("Pick none", () => this.send({do: "pick_none"}), {"data-key": "none", disabled: !page.picked})]);
  }

  // -- the cursor --

  get here() {
    return this.model.get("page").rows[this.cursor];
  }

  point(isMoved = true) {
    for (const row of this.body.querySelectorAll(".here")) row.classList.remove("here");
    const row = this.here && this.body.children[this.cursor];
    if (!row) return this.grid.removeAttribute("aria-activedescendant");
    row.classList.add("here");
    this.grid.setAttribute("aria-activedescendant", row.id);
    if (isMoved) this.bring(row);
    if (isMoved && !this.pane.hidden) this.open();
  }

  // Within the table alone: the notebook itself does not jump.
  bring(row) {
    const top = row.offsetTop - this.head.offsetHeight, bottom = row.offsetTop + row.offsetHeight;
    if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
    else if (bottom > this.scroll.scrollTop + this.scroll.clientHeight)
      this.scroll.scrollTop = bottom - this.scroll.clientHeight;
  }

  move(by) {
    const {start, shown, rows} = this.model.get("page"), next = this.cursor + by;
    if (next < 0) { if (start) this.go(start - PAGE, "last"); return; }
    if (next >= rows.length) { if (start + rows.length < shown) this.go(start + PAGE); return; }
    this.cursor = next;
    this.point();
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target !== this.grid && (event.key === "Enter" || event.key === " ")) return;
    const {start, shown} = this.model.get("page");
    const deeds = {
      ArrowDown: () => this.move(1), ArrowUp: () => this.move(-1),
      PageDown: () => start + PAGE < shown && this.go(start + PAGE, "same"),
      PageUp: () => start && this.go(start - PAGE, "same"),
      Home: () => (start ? this.go(0) : this.jump(0)),
      End: () => (start + PAGE < shown ? this.go(shown, "last") : this.jump(PAGE)),
      Enter: () => this.open(), Escape: () => this.close(), "/": () => this.search.focus(),
      x: () => this.here && this.pick(this.here),
      "+": () => this.thumb("up"), "=": () => this.thumb("up"),
      "-": () => this.thumb("down"), "−": () => this.thumb("down"), n: () => this.writeNote(),
    };
    const deed = deeds[event.key];
    if (!deed) return;
    event.preventDefault();
    event.stopPropagation();
    deed();
  }

  jump(to) {
    this.cursor = Math.min(to, this.model.get("page").rows.length - 1);
    this.point();
  }

  onSearchKey(event) {
    if (event.key === "Enter" || event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      if (event.key === "Escape") this.search.value = "";
      this.searchNow();
      this.grid.focus();
    }
  }

  // -- picks and marks --

  pick(row) {
    this.send({do: "pick", position: row.position});
  }

  // A thumb that is there already is taken away.
  thumb(which, row = this.here) {
    if (row) this.send({do: "thumb", position: row.position, thumb: row.thumb === which ? null : which});
  }

  writeNote() {
    this.wantsNote = true;
    if (this.here) this.open();
  }

  // -- one row --

  open() {
    const row = this.here, detail = this.model.get("detail");
    if (!row) return;
    if (detail && detail.position === row.position) this.drawDetail();
    else this.send({do: "open", position: row.position});
  }

  close() {
    this.saveNote();
    this.send({do: "close"});
    this.pane.hidden = true;
    this.root.classList.remove("opened");
    this.pane.replaceChildren();
    this.shownDetail = null;
    this.grid.focus();
  }

  onPaneKey(event) {
    if (event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    this.close();
  }

  drawDetail() {
    const detail = this.model.get("detail");
    if (!detail) { this.saveNote(); this.pane.hidden = true; this.root.classList.remove("opened"); return; }
    this.answered();
    this.pane.hidden = false;
    this.root.classList.add("opened");
    const isSame = this.shownDetail && same({...this.shownDetail, thumb: 0, note: 0},
                                            {...detail, thumb: 0, note: 0});
    if (!isSame || !this.pane.firstChild) this.saveNote();  // for the row that it was typed for
    this.shownDetail = detail;
    if (isSame && this.pane.firstChild) this.drawMarks(detail);
    else this.drawPane(detail);
    if (this.wantsNote) { this.wantsNote = false; this.note.focus(); }
  }

  drawPane(detail) {
    this.note = h("textarea", {rows: "2", dir: "auto", placeholder: "a note on this row",
      "aria-label": "note",
      onblur: (event) => event.target === this.note && this.saveNote(),
      onkeydown: (event) => event.key !== "Escape" && event.stopPropagation()});
    const thumb = (which, words) => button(thumbIcon(which),
      () => this.thumb(which, this.model.get("detail")),
      {"aria-label": words, title: words, class: `thumb ${which}`});
    this.thumbs = {up: thumb("up", "thumb up"), down: thumb("down", "thumb down")};
    const where = this.model.get("about").has_index ? `row ${number(detail.position)} · ${detail.index}`
      : `row ${number(detail.position)}`;
    this.pane.replaceChildren(
      h("div", {class: "head"}, h("strong", {dir: "auto"}, where),
        button("‹ before", () => this.move(-1), {"aria-label": "row before"}),
        button("next ›", () => this.move(1), {"aria-label": "next row"}),
        button("Close", () => this.close())),
      h("div", {class: "marks"}, this.thumbs.up, this.thumbs.down, this.note),
      h("div", {class: "inside", tabindex: "0", role: "group", "aria-label": "what is known of it"},
        ...detail.letters.flatMap((letter) => letterOf(letter, detail.letters.length > 1)),
        heading("columns"),
        h("dl", {class: "fields"}, detail.fields.flatMap(({name, value}) =>
          [h("dt", {dir: "auto"}, name), h("dd", {}, tree(value))])),
        detail.said ? h("p", {class: "aside"}, detail.said) : ""));
    this.drawMarks(detail);
  }

  drawMarks(detail) {
    for (const [which, one] of Object.entries(this.thumbs))
      one.setAttribute("aria-pressed", String(detail.thumb === which));
    // Only what is written here is sent: what another noted meanwhile is not taken away by leaving.
    if (this.note.getRootNode().activeElement === this.note) return;
    this.note.value = detail.note ?? "";
    this.kept = this.note.value.trim() || null;
  }

  // A pane that is drawn anew takes its field away, so what was typed is sent before that.
  saveNote() {
    const detail = this.shownDetail, text = this.note?.value.trim() || null;
    if (!detail || text === this.kept) return;
    this.kept = text;
    this.send({do: "note", position: detail.position, note: text});
  }

  drawTrouble() {
    this.tell("");
  }
}

// -- words ----------------------------------------------------------------------------------------

function filterWords({column, op, value, low, high}) {
  const words = Object.fromEntries(OPS)[op];
  if (op === "missing" || op === "present") return `${column} ${words}`;
  if (op === "contains" || op === "equals") return `${column} ${words} ${value}`;
  const from = low == null ? "" : `from ${low} `, to = high == null ? "" : `to ${high}`;
  return `${column}${op === "length" ? ", length" : ""} ${from}${to}`.trim();
}

// The two ends of a scale of stretches.
function ends(bars) {
  const split = (label) => label.split(" to ");
  return [split(bars[0].label)[0], split(bars.at(-1).label).at(-1)];
}

// Within the bars of one column arrows move, so that Tab goes from column to column.
function rove(event, bars) {
  const by = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
  const at = bars.indexOf(event.target);
  if (!by || at < 0) return;
  event.preventDefault();
  const next = bars[(at + by + bars.length) % bars.length];
  for (const bar of bars) bar.setAttribute("tabindex", bar === next ? "0" : "-1");
  next.focus();
}

const heading = (words) => h("h4", {}, words);

function letterOf(letter, hasModel) {
  const status = h("span", {class: `dot ${letter.status}`, "aria-hidden": "true"});
  const facts = letter.facts.flatMap(({name, said: words}) =>
    [h("dt", {}, name), h("dd", {dir: "auto"}, words)]);
  return [
    heading(hasModel ? `answer of ${letter.model}` : "answer"),
    h("p", {class: "verdict"}, status, letter.status),
    letter.answer === null ? "" : answerOf(letter.answer),
    letter.error ? h("p", {class: "error", dir: "auto"}, letter.error) : "",
    h("dl", {class: "facts"}, facts),
    heading("prompt as sent"),
    letter.sent ? h("p", {class: "aside"}, letter.sent) : "",
    ...letter.messages.map(messageOf),
    Object.keys(letter.params ?? {}).length
      ? h("details", {}, h("summary", {}, "parameters"), tree(letter.params)) : "",
    letter.lost ? h("p", {class: "aside"}, `answer as received: ${letter.lost}`)
      : h("details", {}, h("summary", {}, "answer as received"),
          h("pre", {dir: "auto", tabindex: "0"}, typeof letter.received === "string"
            ? letter.received : JSON.stringify(letter.received, null, 2))),
  ];
}

// An answer that is JSON is unfolded; any other is text.
function answerOf(text) {
  try {
    const value = JSON.parse(text);
    if (value !== null && typeof value === "object") return tree(value);
  } catch { /* a text */ }
  return h("div", {class: "text", dir: "auto"}, text);
}

function messageOf({role, parts}) {
  return h("div", {class: "message"}, h("div", {class: "role"}, role), ...parts.map(({kind, said: words}) =>
    kind === "image" ? h("div", {class: "image"}, "image: ", said(words))
      : h("div", {class: "text", dir: "auto"}, words)));
}

// Notebook 7 looks at keys before the widget does, and would take x for "cut this cell". It leaves
// alone an element with this attribute; a key with Ctrl, Alt or Meta is the notebook's still.
function keepKeys(root) {
  const tell = ({target, ctrlKey, altKey, metaKey}) => {
    if (root.contains(target))
      target.toggleAttribute("data-lm-suppress-shortcuts", !(ctrlKey || altKey || metaKey));
  };
  window.addEventListener("keydown", tell, true);
  return () => window.removeEventListener("keydown", tell, true);
}

function render({model, el}) {
  const view = new View(model, el), letGo = keepKeys(el);
  return () => { letGo(); view.end(); };
}

export default {render};
