// Fetches the page again while it is visible, and replaces the old one.
"use strict";

const EVERY = 10000;
const PATIENCE = 8000;
const MOST_SKIPPED = 6;

const news = document.getElementById("news");
const reload = document.getElementById("reload");
const pause = document.getElementById("pause");
let timer = 0;
let paused = false;
let answered = true;
let fetching = false;
let skipped = 0;

function say(text) {
  if (news.textContent !== text) news.textContent = text;
}

// Open details, the focus and the scroll position are kept, by the ids of the elements.
function swap(fresh) {
  const old = document.getElementById("main");
  const next = fresh.getElementById("main");
  const at = fresh.getElementById("at");
  if (!next || !at) throw new Error("this is not the status page");
  const before = document.getElementById("headline").textContent;
  const open = [...old.querySelectorAll("details[open]")].map((each) => each.id);
  const focused = place(document.activeElement);
  const selection = window.getSelection();
  // A selection is not disturbed, but not for ever: the page would become stale unnoticed.
  const copied = !selection.isCollapsed && old.contains(selection.anchorNode);
  skipped = copied && skipped < MOST_SKIPPED ? skipped + 1 : 0;
  if (skipped) return;
  for (const id of open) next.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
  const seen = [...old.querySelectorAll("article")].find((each) => edge(each) > 0);
  const height = seen && edge(seen);
  old.replaceWith(document.adoptNode(next));
  document.getElementById("at").replaceWith(document.adoptNode(at));
  document.title = fresh.title;
  find(focused)?.focus({ preventScroll: true });
  const after = document.getElementById("headline").textContent;
  say(after === before ? "" : after);
  const again = window.scrollY && seen && document.getElementById(seen.id);
  if (again) window.scrollBy(0, edge(again) - height);
}

function edge(element) {
  return element.getBoundingClientRect().top;
}

// The position of an element: the nearest id, and which focusable it is below that.
const FOCUSABLE = "a[href], button, summary, [tabindex]";

function place(element) {
  const holder = element?.closest("main[id], main [id]");
  if (!holder) return null;
  return [holder.id, [...holder.querySelectorAll(FOCUSABLE)].indexOf(element)];
}

function find(spot) {
  const holder = spot && document.getElementById(spot[0]);
  if (!holder) return null;
  return spot[1] < 0 ? holder : holder.querySelectorAll(FOCUSABLE)[spot[1]];
}

async function refresh() {
  if (fetching) return;
  fetching = true;
  clearTimeout(timer);
  try {
    // Not relative: fetch refuses an address that contains a user name and password.
    const answer = await fetch(location.origin + location.pathname, {
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE),
    });
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
    swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
    if (!answered) say("The service is responding again.");
    answered = true;
  } catch (error) {
    answered = false;
    const at = document.getElementById("at").textContent;
    say(`No answer from the service (${error.message}). This page is as of ${at}.`);
  }
  document.body.classList.toggle("stale", !answered);
  fetching = false;
  plan();
}

function plan() {
  clearTimeout(timer);
  if (!paused && document.visibilityState === "visible") timer = setTimeout(refresh, EVERY);
}

pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Resume" : "Pause";
  if (paused) plan();
  else refresh();
});
reload.addEventListener("click", (event) => {
  event.preventDefault();
  refresh();
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && !paused) refresh();
  else plan();
});

pause.hidden = false;
plan();
