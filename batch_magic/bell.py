"""Tells a person who looks elsewhere that a run has ended: once, and only if asked to.

It knows the two switches of a live panel, *Notify me* and *Sound*, what the page does when they
are on, the words it does it with, and the bell of a terminal. It refuses to know when a run ends
and where its panel stands: it is handed the last `Snapshot` and rings.

The choice is the person's and of the browser, not of a run: it is kept in the page's own store,
never in the kernel, so that it holds for later panels and nothing is asked before a click. Every
text goes to the page as text and is put there as text.

The trap is that the panel is taken off the page in the same breath in which the run ends, from
the background, where nothing but a trait may be written. So the page listens at the widget's
model, which stays when its view goes, and rings when `ended` changes. A page that was opened
later gets a model that has its `ended` already: nothing changes any more, and it stays silent.
Several models may tell of one end (the panel shown twice, a notebook in two tabs of a page); the
page keeps the ends that it has heard of.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from batch_magic.card import ACCENT, NAME_LENGTH, clip, count_words, size_words, state_words
from batch_magic.records import Ending, Snapshot

BODY_LENGTH = 160  # a notification has room for a few lines
MARKS = {Ending.FINISHED.value: "✓", Ending.CANCELLED.value: "–"}
TROUBLE = "!"


class Bell:
    """The switches of one run's panel, and its one ring; without anywidget there are none."""

    def __init__(self) -> None:
        kind = _kind()
        self.widgets: tuple[Any, ...] = () if kind is None else (kind(),)

    def ring(self, s: Snapshot) -> None:
        """Let the page know that the run has ended, the first time; take the switches away."""
        for widget in self.widgets:
            widget.ended = widget.ended or end_words(s)
            widget.layout.display = "none"


def end_words(s: Snapshot) -> dict[str, str]:
    """Say how a run has ended, and by which `tag` this end is known again."""
    name, state = clip(s.name, NAME_LENGTH), state_words(s)
    return {
        "title": f"{name}: {state}",
        "body": clip(_body(s), BODY_LENGTH),
        "mark": f"{MARKS.get(state, TROUBLE)} {name}",
        "tag": f"batch_magic {s.run_id} {s.ended_at}",
    }


def ring_terminal() -> None:
    """Sound the bell of the terminal that this process writes to; of a file or a pipe, nothing.

    From any thread, for a bell moves no cursor, and never raising: a closed output hears nothing.
    """
    try:
        if sys.stdout.isatty():
            sys.stdout.write("\a")
            sys.stdout.flush()
    except (AttributeError, OSError, ValueError):  # there is none, it hung up, it was closed
        return


def _body(s: Snapshot) -> str:
    if s.ending is Ending.STOPPED and s.fault:
        return s.fault.replace("`", "")
    return f"{size_words(s)}: {', '.join(count_words(s))}"


@cache
def _kind() -> type[Any] | None:
    """The widget's class, made when the first panel needs it: a panel does without it as well."""
    try:
        from anywidget import AnyWidget
        from traitlets import Dict
    except ImportError:
        return None

    class BellWidget(AnyWidget):
        _esm = PAGE
        _css = LOOK
        ended = Dict().tag(sync=True)

    return BellWidget


# ── in the page ───────────────────────────────────────────────────────────────────────────────

# `jupyter-button` takes the look of the panel's own buttons; here is only what a switch adds. The
# switches stand in the panel's row themselves, so that it folds between them where it is narrow.
LOOK = f"""
.gptbatch-bell {{display:contents}}
.gptbatch-bell button.jupyter-button {{
  display:inline-flex;align-items:center;gap:6px;margin-top:8px;cursor:pointer}}
.gptbatch-bell button.jupyter-button[aria-pressed=true] {{
  border-color:{ACCENT};background:rgba(25,118,210,0.14)}}
.gptbatch-bell svg {{width:16px;height:16px;flex:none;fill:none;stroke:currentColor;
  stroke-width:1.4;stroke-linecap:round;stroke-linejoin:round}}
.gptbatch-bell [aria-pressed=false] .on, .gptbatch-bell [aria-pressed=true] .off {{display:none}}
.gptbatch-bell [aria-pressed=true] .body {{fill:currentColor}}
.gptbatch-bell .hint {{font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:12px;
  line-height:1.5;color:var(--jp-ui-font-color1,inherit);align-self:center;margin:8px 0 4px}}
.gptbatch-bell .hint:empty {{display:none}}
"""

# Each widget brings its own copy of this module, so what is of the page is kept at the window.
PAGE = r"""
const KEY = "batch_magic.bell";
const page = (window[Symbol.for(KEY)] ??= openPage());

function openPage() {
  const page = {heard: new Set(), chosen: {}, marks: [], changes: new EventTarget()};
  // Another tab has switched: what was chosen here is out of date.
  window.addEventListener("storage", ({key}) => {
    delete page.chosen[key?.replace(`${KEY}.`, "")];
    page.changes.dispatchEvent(new Event("change"));
  });
  return page;
}

// -- what was chosen: in this page, else remembered by this browser ----------------------------

function permission() {
  return "Notification" in window ? Notification.permission : "missing";
}

function remembered(name) {
  try { return localStorage.getItem(`${KEY}.${name}`) === "on"; } catch { return false; }
}

function isOn(name) {
  const isAllowed = name !== "notify" || permission() === "granted";
  return page.chosen[name] ?? (remembered(name) && isAllowed);
}

function choose(name, isOn, isKept) {
  page.chosen[name] = isOn;
  try {
    if (isOn && isKept) localStorage.setItem(`${KEY}.${name}`, "on");
    else localStorage.removeItem(`${KEY}.${name}`);
  } catch { /* a browser without a store: the choice holds for this page */ }
  page.changes.dispatchEvent(new Event("change"));
}

// Browsers show their question only when it is asked within the click: nothing is awaited before.
async function switchNotify() {
  if (isOn("notify")) return choose("notify", false);
  if (permission() === "default") await Notification.requestPermission();
  choose("notify", permission() !== "default", permission() === "granted");
}

// The tones are heard at once: to know them, and because browsers let sound begin by a click.
function switchSound() {
  choose("sound", !isOn("sound"), true);
  if (isOn("sound")) play();
}

// -- the end ------------------------------------------------------------------------------------

function ring(end) {
  if (!end?.tag || page.heard.has(end.tag)) return;
  page.heard.add(end.tag);
  if (isOn("notify")) {
    mark(end.mark);
    notify(end);
  }
  if (isOn("sound")) play();
}

function notify({title, body, tag}) {
  if (permission() !== "granted") return;
  try {
    const shown = new Notification(title, {body, tag});
    shown.onclick = () => { window.focus(); shown.close(); };
  } catch { /* Chromium on Android has the class, and refuses to make one: the title tells */ }
}

async function play() {
  if (!window.AudioContext) return;
  const audio = (page.audio ??= new AudioContext());
  await Promise.race([audio.resume(), new Promise((done) => setTimeout(done, 1000))]);
  if (audio.state !== "running") return;  // the browser keeps it mute: rather never than late
  tone(audio, 660, audio.currentTime);
  tone(audio, 880, audio.currentTime + 0.2);
}

function tone(audio, pitch, start) {
  const source = audio.createOscillator(), volume = audio.createGain();
  source.frequency.value = pitch;
  volume.gain.setValueAtTime(0, start);
  volume.gain.linearRampToValueAtTime(0.2, start + 0.02);
  volume.gain.exponentialRampToValueAtTime(0.001, start + 0.18);
  source.connect(volume).connect(audio.destination);
  page.quietAt = start + 0.2;
  source.onended = () => { if (audio.currentTime >= page.quietAt - 0.05) audio.suspend(); };
  source.start(start);
  source.stop(start + 0.2);
}

// -- the page's title, while nobody sees the page -------------------------------------------------

// Lab writes the title anew as it likes, so the mark is put back until the page is seen; it is
// looked for anywhere in the title, for others may put a mark in front of ours.
const marks = () => page.marks.map((mark) => `${mark} · `).join("");
const isMarked = () => document.title.includes(marks().trim());

function mark(words) {
  if (document.visibilityState !== "hidden") return;
  unmark();
  page.marks.push(words.replace(/\s+/g, " ").trim());  // as the title itself is read back
  putMarks();
  page.keeper = new MutationObserver(putMarks);
  page.keeper.observe(document.head, {childList: true, characterData: true, subtree: true});
  document.addEventListener("visibilitychange", seen);
}

function putMarks() {
  if (!isMarked()) document.title = marks() + document.title;
}

function unmark() {
  page.keeper?.disconnect();
  if (page.marks.length) document.title = document.title.replace(marks().trim(), "");
}

function seen() {
  if (document.visibilityState === "hidden") return;
  document.removeEventListener("visibilitychange", seen);
  unmark();
  page.marks = [];
}

// -- the switches -------------------------------------------------------------------------------

const BELL = [["body", "M8 2a4 4 0 0 0-4 4c0 3-1.5 4-1.5 5h11c0-1-1.5-2-1.5-5a4 4 0 0 0-4-4z"],
              ["", "M6.7 13.5a1.4 1.4 0 0 0 2.6 0"],
              ["on", "M1 5a6 6 0 0 1 2-3.5M15 5a6 6 0 0 0-2-3.5"]];
const SPEAKER = [["body", "M1 5.8v4.4h2.6L7.5 13.5v-11L3.6 5.8z"],
                 ["on", "M10 5.5a3.5 3.5 0 0 1 0 5M12.2 3.3a6.6 6.6 0 0 1 0 9.4"],
                 ["off", "M10.4 6l4 4M14.4 6l-4 4"]];

function icon(paths) {
  const make = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
  const svg = make("svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  for (const [kind, line] of paths) {
    const path = svg.appendChild(make("path"));
    path.setAttribute("class", kind);
    path.setAttribute("d", line);
  }
  return svg;
}

function button(el, words, paths, onClick) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "jupyter-button";
  made.append(icon(paths), words);
  made.addEventListener("click", onClick);
  return el.appendChild(made);
}

// The name of a switch stays; its state and what it does are told beside it.
function show(button, isOn, words) {
  button.setAttribute("aria-pressed", String(isOn));
  button.title = words;
}

const BLOCKED = "this browser allows no notifications here: the title of this tab will tell";
const NOTIFY = {
  off: "a notification of this browser when a run ends",
  on: "on in this browser; click to switch off",
};
const SOUND = {off: "two short tones when a run ends", on: NOTIFY.on};

function render({el}) {
  el.classList.add("gptbatch-bell");
  const notify = button(el, "Notify me", BELL, switchNotify);
  const sound = window.AudioContext ? button(el, "Sound", SPEAKER, switchSound) : null;
  const hint = el.appendChild(document.createElement("span"));
  hint.className = "hint";
  hint.setAttribute("role", "status");
  const draw = () => {
    const isAsked = isOn("notify"), isMute = isAsked && permission() !== "granted";
    show(notify, isAsked, isMute ? BLOCKED : isAsked ? NOTIFY.on : NOTIFY.off);
    if (sound) show(sound, isOn("sound"), isOn("sound") ? SOUND.on : SOUND.off);
    hint.textContent = isMute ? BLOCKED : "";
  };
  draw();
  page.changes.addEventListener("change", draw);
  return () => page.changes.removeEventListener("change", draw);
}

function initialize({model}) {
  page.heard.add(model.get("ended")?.tag);  // ended before the page was opened: never rung for
  model.on("change:ended", () => ring(model.get("ended")));
}

export default {initialize, render};
"""
