// What the pages do by themselves: parts that change are replaced as the server sends them, times keep counting, and
// what cannot be undone is asked about. Everything else works without this.
"use strict";

const main = document.getElementById("main");
const badge = document.querySelector("[data-live-badge]");

function say(words, on) {
  if (!badge) return;
  badge.classList.toggle("on", on);
  badge.querySelector("[data-live-words]").textContent = words;
}

// Replaces the elements of the page that have the ids of the sent ones. They are rendered and escaped by the server.
function replaceParts(html) {
  const sent = new DOMParser().parseFromString(html, "text/html");
  for (const part of [...sent.body.children]) {
    const shown = part.id && document.getElementById(part.id);
    if (!shown || shown.isEqualNode(part)) continue;
    replace(shown, part);
  }
  count();
}

// Only what differs is replaced, so that focus, selection and opened details stay where they are.
function replace(shown, sent) {
  if (shown.isEqualNode(sent)) return;
  if (shown.nodeName !== sent.nodeName || shown.nodeType !== Node.ELEMENT_NODE || shown.dataset?.key !== sent.dataset?.key) {
    return shown.replaceWith(sent);
  }
  for (const { name } of [...shown.attributes]) {
    if (!sent.hasAttribute(name) && !(name === "open" && shown.nodeName === "DETAILS")) shown.removeAttribute(name);
  }
  for (const { name, value } of [...sent.attributes]) {
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  const before = [...shown.childNodes], after = [...sent.childNodes];
  after.forEach((node, at) => {
    const old = before[at];
    if (!old) shown.append(node);
    else if (node.nodeType === Node.TEXT_NODE && old.nodeType === Node.TEXT_NODE) {
      if (old.data !== node.data) old.data = node.data;
    } else replace(old, node);
  });
  before.slice(after.length).forEach((node) => node.remove());
}

// Only while the page is seen: a browser has six connections to a host, and each live page takes one.
let source = null;
function listen() {
  if (source || document.hidden) return;
  source = new EventSource(main.dataset.live);
  source.onopen = () => say("Live", true);
  source.onerror = () => {
    say(source && source.readyState === EventSource.CLOSED ? "Not live: reload the page" : "Connecting again …", false);
  };
  source.addEventListener("parts", (event) => { say("Live", true); replaceParts(event.data); });
  source.addEventListener("trouble", (event) => say(event.data, false));
  source.addEventListener("end", () => { stop(); delete main.dataset.live; say("Ended", false); });
}
function stop() {
  if (source) source.close();
  source = null;
}
if (main && main.dataset.live) {
  listen();
  document.addEventListener("visibilitychange", () => (document.hidden || !main.dataset.live ? stop() : listen()));
  addEventListener("pagehide", stop);
}

// `12 s ago`, as the server writes it.
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
function count() {
  for (const time of document.querySelectorAll("time[data-ago]")) {
    const since = (Date.now() - Date.parse(time.dateTime)) / 1000;
    const [unit, size] = UNITS.find(([, seconds]) => Math.abs(since) >= seconds) || [];
    const words = unit ? `${Math.floor(Math.abs(since) / size)}\u00a0${unit}` : "";
    const text = !words ? "now" : since > 0 ? `${words} ago` : `in ${words}`;
    if (time.textContent !== text) time.textContent = text;
  }
}
setInterval(count, 1000);

document.addEventListener("submit", (event) => {
  const question = event.submitter && event.submitter.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

document.querySelector("[data-enter]")?.click();
