// The page's side of the project view: draws the rows that the kernel has sent, says what was
// clicked, and that somebody looks. It works nothing out: filters, order, pages, what may be done
// and in which words are the kernel's. Whatever it is sent is text and is put there as text.
//
// Rows are kept by run and changed in place, so that a refresh takes no focus, no selection and no
// question from under a reader's hands.

const LOOK_MS = 20000;  // the kernel takes a page for gone that says nothing for 90 s
const TYPED_MS = 200;
const KEPT = "Keep it";
let views = 0;

function make(name, kind = "", text = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text) made.textContent = text;
  return made;
}

// Writes what differs only: a selection inside a text that stays the same stays too.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function button(text, onClick, kind = "") {
  const made = make("button", kind, text);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

// Every second stretch between backticks is code.
function writeCoded(element, text) {
  if (element.dataset.text === text) return;
  element.dataset.text = text;
  element.replaceChildren(...text.split("`").map(
    (piece, n) => n % 2 ? make("code", "", piece) : document.createTextNode(piece)));
}

// -- times -----------------------------------------------------------------------------------

function lasting(seconds) {
  const minutes = Math.max(0, Math.floor(seconds / 60));
  if (minutes < 1) return `${Math.max(0, Math.floor(seconds))} s`;
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 2880) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(minutes / 1440)} d`;
}

// To the minute: a row does not change every second.
function age(row) {
  const now = Date.now() / 1000, since = now - row.created_at;
  const old = since < 60 ? "just now" : `${lasting(since)} ago`;
  return row.took_s === null ? old : `${old}, took ${lasting(row.took_s)}`;
}

// -- one run ---------------------------------------------------------------------------------

class Run {
  constructor(row, send) {
    this.send = send;
    this.asked = "";  // the deed that is asked about
    this.element = make("li", "run");
    this.element.tabIndex = -1;
    this.name = make("div", "name");
    this.name.dir = "auto";
    this.pill = make("span", "pill");
    this.counts = make("div", "counts");
    this.money = make("div", "money");
    this.bar = make("div", "bar");
    this.bar.setAttribute("role", "progressbar");
    this.bar.setAttribute("aria-valuemin", "0");
    this.bar.setAttribute("aria-valuemax", "100");
    this.facts = make("div", "facts");
    this.deeds = make("div", "deeds");
    this.ask = make("div", "ask");
    this.ask.setAttribute("role", "group");
    this.trouble = make("div", "trouble");
    this.trouble.dir = "auto";
    this.refused = make("div", "refused");
    this.refused.setAttribute("role", "alert");
    const state = make("div", "state"), more = make("div", "more");
    state.append(this.pill);
    more.append(this.ask, this.trouble, this.refused);
    this.element.append(this.name, state, this.counts, this.money, this.bar, this.facts,
                        this.deeds, more);
    this.element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.asked) {
        this.close();
        event.preventDefault();
      }
    });
    this.draw(row, "", "");
  }

  draw(row, busy, refused) {
    this.row = row;
    this.busy = busy;
    this.element.className = `run ${row.mood}`;
    this.element.dataset.run = row.run_id;
    write(this.name, row.name);
    this.name.title = row.run_id;
    write(this.pill, row.state);
    this.drawCounts();
    write(this.money, row.money);
    this.money.title = row.money_note;
    this.drawBar();
    this.drawFacts();
    this.drawDeeds();
    write(this.trouble, row.trouble);
    this.trouble.hidden = !row.trouble;
    write(this.refused, refused);
    this.refused.hidden = !refused;
  }

  drawCounts() {
    const row = this.row, key = JSON.stringify([row.counts, row.size, row.percent]);
    if (this.counts.dataset.key === key) return;
    this.counts.dataset.key = key;
    this.counts.replaceChildren(...row.counts.map(([figure, label]) => {
      const one = make("span");
      one.append(make("b", "", figure), make("span", "", ` ${label}`));
      return one;
    }), make("span", "of", `of ${row.size}${row.took_s === null ? ` · ${row.percent} %` : ""}`));
  }

  drawBar() {
    const row = this.row, bar = this.bar, key = JSON.stringify(row.shares);
    bar.setAttribute("aria-label", `rows of ${row.name}`);
    bar.setAttribute("aria-valuenow", String(row.percent));
    bar.setAttribute("aria-valuetext", `${row.percent} % of ${row.size}`);
    if (bar.dataset.key === key) return;
    bar.dataset.key = key;
    bar.replaceChildren(...row.shares.map(([width, kind]) => {
      const part = make("div", kind === "refused" ? "refused-rows" : kind);
      part.style.width = `${width}%`;
      return part;
    }));
  }

  drawFacts() {
    const row = this.row;
    const facts = [row.progress, ...row.origin, age(row), row.where, row.notebook && `from ${row.notebook}`, row.taken];
    const told = facts.filter((fact) => fact), key = JSON.stringify(told);
    if (this.facts.dataset.key === key) return;
    this.facts.dataset.key = key;
    this.facts.replaceChildren(...told.map((fact) => make("span", "", fact)));
  }

  drawDeeds() {
    const row = this.row, key = JSON.stringify([row.offers, this.busy]);
    if (this.deeds.dataset.key === key) return;
    const focused = this.deeds.contains(document.activeElement) && document.activeElement.dataset.deed;
    this.deeds.dataset.key = key;
    this.deeds.replaceChildren(...row.offers.map((offer) => {
      const made = button(offer.label, () => this.click(offer));
      made.dataset.deed = offer.deed;
      made.setAttribute("aria-label", `${offer.label} ${row.name}`);
      if (offer.question) made.setAttribute("aria-expanded", String(this.asked === offer.deed));
      made.disabled = Boolean(this.busy);
      return made;
    }));
    if (focused) (this.at(focused) ?? this.element).focus();
    const still = row.offers.find((offer) => offer.deed === this.asked);
    if (this.busy || !still) this.asked = "";
    this.drawAsk(still);
  }

  at(deed) {
    return this.deeds.querySelector(`button[data-deed="${CSS.escape(deed)}"]:enabled`);
  }

  // The answers stand in another place than the button: a double click cannot answer.
  drawAsk(offer) {
    this.ask.hidden = !this.asked;
    if (!this.asked) return this.ask.replaceChildren();
    const key = JSON.stringify(offer);
    if (this.ask.dataset.key === key && this.ask.firstChild) return;
    this.ask.dataset.key = key;
    this.ask.setAttribute("aria-label", `${offer.label} ${this.row.name}?`);
    const keep = button(KEPT, () => this.close());
    const answers = offer.answers.map(([words, deed]) =>
      button(words, () => { this.asked = ""; this.drawAsk(); this.say(deed); }, "sure"));
    this.ask.replaceChildren(make("p", "", offer.question), keep, ...answers);
  }

  click(offer) {
    if (!offer.question) return this.say(offer.deed);
    this.asked = this.asked === offer.deed ? "" : offer.deed;
    for (const one of this.deeds.querySelectorAll("[aria-expanded]"))
      one.setAttribute("aria-expanded", String(one.dataset.deed === this.asked));
    this.drawAsk(offer);
    if (this.asked) this.ask.querySelector("button").focus();
  }

  close() {
    const was = this.asked;
    this.asked = "";
    this.drawAsk();
    this.at(was)?.setAttribute("aria-expanded", "false");
    (this.at(was) ?? this.element).focus();
  }

  say(deed) {
    if (this.busy) return;
    this.element.focus();
    this.send({kind: "deed", run_id: this.row.run_id, deed});
  }
}

// -- all of them -----------------------------------------------------------------------------

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
  const view = `${model.model_id ?? "view"}-${++views}-${Math.random().toString(36).slice(2)}`;
  const send = (said) => model.send(said);
  const runs = new Map();
  let current = "";  // the run that Tab comes to

  el.classList.add("gptbatch-project");
  el.setAttribute("data-lm-suppress-shortcuts", "true");  // Lab's keys would act on its cells
  el.setAttribute("role", "region");
  el.setAttribute("aria-label", "runs of this project");
  el.lang = "en";

  // While this view is on the page, the table that stays is not seen.
  const hiding = make("style", "", `.${model.get("receipt")} {display:none}`);
  const top = make("div", "top"), foot = make("div", "foot");
  const title = make("div", "title");
  const filter = make("input");
  filter.type = "search";
  filter.placeholder = "filter: name, model, state";
  filter.setAttribute("aria-label", "filter runs by name, model, state or notebook");
  const shows = make("select"), orders = make("select");
  shows.setAttribute("aria-label", "which runs");
  orders.setAttribute("aria-label", "order");
  top.append(title, filter, shows, orders);
  const problem = make("div", "problem"), none = make("p", "none"), list = make("ul", "runs");
  problem.setAttribute("role", "alert");
  list.setAttribute("role", "list");  // Safari takes the role from a list without bullets
  list.setAttribute("aria-label", "runs");
  const said = make("span", "said"), place = make("span", "place");
  said.setAttribute("role", "status");
  const before = button("Previous", () => turn(-1)), after = button("Next", () => turn(1));
  foot.append(said, place, before, after);
  el.append(hiding, top, problem, none, list, foot);

  // -- what is wished for --
  let page = 0, typing;
  const wish = () => send({kind: "wish", text: filter.value, show: shows.value,
                           order: orders.value, page: String(page)});
  const wishAnew = () => { page = 0; wish(); };
  const turn = (by) => { page += by; wish(); list.scrollTop = 0; };
  filter.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(wishAnew, TYPED_MS); });
  shows.addEventListener("change", wishAnew);
  orders.addEventListener("change", wishAnew);

  function choices(select, words, chosen) {
    const key = JSON.stringify(words);
    if (select.dataset.key !== key) {
      select.dataset.key = key;
      const had = select.value;
      select.replaceChildren(...words.map(([value, text]) => {
        const made = make("option", "", text);
        made.value = value;
        return made;
      }));
      select.value = had || chosen;
    }
    if (document.activeElement !== select) select.value = chosen;
  }

  // -- drawing --
  function draw() {
    const sent = model.get("page");
    if (!sent?.rows) return;
    page = sent.page;
    write(title, `${sent.all.toLocaleString("en")} ${sent.all === 1 ? "run" : "runs"} of this project`);
    title.title = sent.home;
    if (document.activeElement !== filter) filter.value = sent.wish.text;
    choices(shows, Object.entries(sent.shows).map(([word, n]) => [word, `${word} (${n})`]), sent.wish.show);
    choices(orders, sent.orders.map((word) => [word, word]), sent.wish.order);
    write(problem, sent.problem);
    problem.hidden = !sent.problem;
    none.hidden = sent.matched > 0;
    write(none, sent.all ? "no run is like that" : `there are no runs yet in ${sent.home}`);
    drawRuns(sent);
    const first = sent.page * sent.size + 1, last = sent.page * sent.size + sent.rows.length;
    write(place, sent.pages > 1 ? `${first} to ${last} of ${sent.matched}` : "");
    before.hidden = after.hidden = sent.pages < 2;
    before.disabled = sent.page === 0;
    after.disabled = sent.page + 1 >= sent.pages;
  }

  function drawRuns(sent) {
    const wanted = new Set(sent.rows.map((row) => row.run_id));
    for (const [id, run] of runs) if (!wanted.has(id)) {
      const next = run.element.contains(document.activeElement) && run.element.nextElementSibling;
      run.element.remove();
      runs.delete(id);
      if (next) next.focus();
    }
    sent.rows.forEach((row, n) => {
      let run = runs.get(row.run_id);
      if (!run) runs.set(row.run_id, run = new Run(row, send));
      run.draw(row, sent.busy[row.run_id] ?? "", sent.refused[row.run_id] ?? "");
      // Moved only if it has to be: a move takes the focus away.
      if (list.children[n] !== run.element) list.insertBefore(run.element, list.children[n] ?? null);
    });
    list.hidden = !sent.rows.length;
    if (!runs.has(current)) current = sent.rows[0]?.run_id ?? "";
    rove(current);
  }

  // -- keys: arrows from run to run, Tab into its buttons, / to the filter --
  function rove(id) {
    current = id;
    for (const [other, run] of runs) {
      run.element.tabIndex = other === id ? 0 : -1;
      for (const one of run.element.querySelectorAll("button")) one.tabIndex = other === id ? 0 : -1;
    }
  }

  list.addEventListener("focusin", (event) => {
    const id = event.target.closest?.(".run")?.dataset.run;
    if (id && id !== current) rove(id);
  });
  list.addEventListener("keydown", (event) => {
    const here = event.target.closest(".run");
    if (!here || event.ctrlKey || event.metaKey || event.altKey) return;
    const stops = [here, ...here.querySelectorAll("button:enabled")];
    const at = stops.indexOf(event.target);
    const to = {
      ArrowDown: here.nextElementSibling, ArrowUp: here.previousElementSibling,
      Home: list.firstElementChild, End: list.lastElementChild,
      ArrowRight: stops[at + 1], ArrowLeft: stops[at - 1],
    }[event.key];
    if (to === undefined && !["ArrowRight", "ArrowLeft"].includes(event.key)) return;
    event.preventDefault();
    to?.focus();
  });
  el.addEventListener("keydown", (event) => {
    if (event.key !== "/" || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
    event.preventDefault();
    filter.focus();
  });

  // -- that somebody looks --
  const look = () => {
    if (document.visibilityState === "visible") send({kind: "look", view});
    for (const run of runs.values()) run.drawFacts();
  };
  const seen = () => document.visibilityState === "visible" ? look() : send({kind: "bye", view});
  const timer = setInterval(look, LOOK_MS), letGo = keepKeys(el);
  document.addEventListener("visibilitychange", seen);

  const drawSaid = () => writeCoded(said, model.get("said"));
  model.on("change:page", draw);
  model.on("change:said", drawSaid);
  draw();
  drawSaid();
  look();
  return () => {
    clearInterval(timer);
    letGo();
    document.removeEventListener("visibilitychange", seen);
    model.off("change:page", draw);
    model.off("change:said", drawSaid);
    try { send({kind: "bye", view}); } catch { /* the kernel is gone, and so is who would hear */ }
  };
}

export default {render};
