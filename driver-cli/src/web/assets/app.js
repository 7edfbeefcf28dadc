// What a page does with a script: it listens to /events and keeps its parts as the server has them,
// sends forms without leaving, filters, counts ages. Every word comes from the server.
"use strict";

(() => {
  const COME_BACK_MS = [1000, 2000, 5000, 10000];
  const HIDDEN_MS = 10000;
  const TICK_MS = 1000;

  const root = document.documentElement;
  root.classList.add("js");
  const byId = (id) => document.getElementById(id);

  // --- What is stored in this browser -----------------------------------------------------------

  const FAVOURITES = "favourites";
  let favourites = new Set();
  try {
    favourites = new Set(JSON.parse(localStorage.getItem(FAVOURITES) || "[]"));
  } catch {
    // No storage here, or something else in it: no favourites.
  }

  function keepFavourites() {
    try {
      localStorage.setItem(FAVOURITES, JSON.stringify([...favourites]));
    } catch {
      // They hold until the page is left.
    }
  }

  // --- Parts ------------------------------------------------------------------------------------

  // What this script itself sets on elements of the server.
  const OURS = new Set(["hidden", "open", "aria-busy"]);

  /** Makes `old` say what `fresh` says and keeps every element that can stay, with its focus. */
  function morph(old, fresh) {
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !OURS.has(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    let at = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      while (at && !alike(at, child) && laterAlike(at, child)) at = drop(at);
      if (at && alike(at, child)) {
        if (child.nodeType === Node.ELEMENT_NODE) morph(at, child);
        else if (at.data !== child.data) at.data = child.data;
        at = at.nextSibling;
      } else {
        old.insertBefore(child, at);
      }
    }
    while (at) at = drop(at);
  }

  function alike(a, b) {
    return a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.id === b.id
      && (a.nodeType !== Node.ELEMENT_NODE || a.getAttribute("class") === b.getAttribute("class"));
  }

  function laterAlike(from, wanted) {
    for (let at = from.nextSibling; at; at = at.nextSibling) if (alike(at, wanted)) return true;
    return false;
  }

  function drop(node) {
    const next = node.nextSibling;
    node.remove();
    return next;
  }

  /** Puts a part where it belongs; what is to be said of it. */
  function put(part) {
    const region = byId(part.region);
    if (!region) return "";
    const holder = document.createElement("template");
    holder.innerHTML = part.html;
    const fresh = holder.content.firstElementChild;
    if (!fresh) return "";
    let element = byId(part.id);
    const before = element ? element.dataset.say : "";
    if (element && element.parentNode === region && element.dataset.order === part.order) {
      morph(element, fresh);
    } else {
      if (element) element.remove();
      element = fresh;
      let next = region.lastElementChild;
      if (next && next.dataset.order <= part.order) next = null;
      else next = [...region.children].find((child) => child.dataset.order > part.order) || null;
      region.insertBefore(element, next);
    }
    decorate(element);
    const say = element.dataset.say || "";
    return say === before ? "" : say;
  }

  function apply(body, whole) {
    const focused = document.activeElement;
    const card = focused && focused.closest("article");
    const cardId = card && card.id;
    if (whole) {
      const held = new Set(body.put.map((part) => part.id));
      for (const region of new Set([...document.querySelectorAll("[data-order]")])) {
        if (region.id && !held.has(region.id)) region.remove();
      }
      for (const input of document.querySelectorAll("input[name=token]")) input.value = body.token;
    }
    for (const id of body.gone) {
      const element = byId(id);
      if (element) element.remove();
    }
    const said = body.put.map(put).filter(Boolean);
    if (said.length > 0 && !(whole && !listened)) byId("said").textContent = said.join(". ");
    listened = true;
    // The focus is not lost with a button that has gone: it stays in its card, or at its heading.
    if (cardId && !focused.isConnected) {
      const heading = byId(cardId + "-title") || byId("sessions-title");
      if (heading) heading.focus({ preventScroll: true });
    }
    count();
  }
  let listened = false;

  // --- Filter and favourites --------------------------------------------------------------------

  function decorate(element) {
    const star = element.querySelector("[data-favourite]");
    if (star) {
      const own = favourites.has(star.dataset.favourite);
      star.setAttribute("aria-pressed", String(own));
      element.dataset.favourite = own ? "yes" : "no";
    }
    if (element.parentNode && element.parentNode.hasAttribute("data-filtered")) filter(element);
  }

  function filter(element) {
    if (element.dataset.text === undefined) return;
    const field = document.querySelector("[data-filter-text]");
    const words = field ? field.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
    const text = element.dataset.text.toLowerCase();
    let shown = words.every((word) => text.includes(word));
    for (const box of document.querySelectorAll("[data-filter]:checked")) {
      shown = shown && element.dataset[box.dataset.filter] === "yes";
    }
    element.hidden = !shown;
  }

  function filterAll() {
    for (const element of document.querySelectorAll("[data-filtered] > *")) filter(element);
    count();
  }

  function count() {
    const place = byId("filter-count");
    if (!place) return;
    const all = document.querySelectorAll("[data-filtered] > [data-text]");
    let shown = 0;
    for (const element of all) if (!element.hidden) shown += 1;
    const text = `${shown} of ${all.length} shown`;
    if (place.textContent !== text) place.textContent = text;
  }

  // --- Ages -------------------------------------------------------------------------------------

  function inWords(ms) {
    const s = Math.max(0, Math.floor(ms / 1000));
    const [h, m] = [Math.floor(s / 3600), Math.floor(s / 60) % 60];
    if (h > 0) return `${h} h ${m} min`;
    return m > 0 ? `${m} min ${s % 60} s` : `${s} s`;
  }

  function tick() {
    for (const element of document.querySelectorAll("[data-since]")) {
      const text = inWords(Date.now() - Number(element.dataset.since)) + element.dataset.suffix;
      if (element.firstChild && element.firstChild.data !== text) element.firstChild.data = text;
    }
  }

  // --- Listening --------------------------------------------------------------------------------

  let source = null;
  let last = "";
  let failures = 0;
  let again = 0;
  let asleep = 0;

  function listen() {
    clearTimeout(again);
    if (source) source.close();
    source = new EventSource("/events" + (last ? "?last=" + encodeURIComponent(last) : ""));
    source.onopen = () => {
      failures = 0;
      byId("lost").hidden = true;
      complain("");
    };
    source.onerror = () => {
      // A browser comes back by itself, but not after an answer that is no stream: then the answer
      // says why.
      if (source.readyState === EventSource.CLOSED) {
        again = setTimeout(listen, COME_BACK_MS[Math.min(failures, COME_BACK_MS.length - 1)]);
        failures += 1;
        why(source.url);
      } else {
        byId("lost").hidden = false;
      }
    };
    const hear = (whole) => (event) => {
      last = event.lastEventId;
      apply(JSON.parse(event.data), whole);
    };
    source.addEventListener("snapshot", hear(true));
    source.addEventListener("change", hear(false));
  }

  /** Shows why there is no stream. */
  async function why(url) {
    const ours = new AbortController();
    try {
      const answer = await fetch(url, { signal: ours.signal });
      if (!answer.ok) complain(await answer.text());
      byId("lost").hidden = true;
    } catch {
      byId("lost").hidden = false;
    }
    ours.abort();
  }

  // A browser opens six connections to one server: tabs that nobody sees give theirs back.
  function seen() {
    clearTimeout(asleep);
    if (document.visibilityState === "hidden") {
      asleep = setTimeout(() => {
        if (source) source.close();
        source = null;
        clearTimeout(again);
      }, HIDDEN_MS);
    } else if (!source) {
      listen();
    }
  }

  // --- Forms ------------------------------------------------------------------------------------

  function complain(text) {
    const local = byId("local");
    local.textContent = text;
    local.hidden = text === "";
  }

  async function send(event) {
    const form = event.target;
    if (!(form instanceof HTMLFormElement) || !form.hasAttribute("data-live")) return;
    event.preventDefault();
    const button = event.submitter;
    const body = new URLSearchParams(new FormData(form, button));
    if (button) button.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(form.action, {
        method: "POST",
        body,
        headers: { Accept: "application/json" },
      });
      const kind = answer.headers.get("content-type") || "";
      // The outcome is a part of the page and comes with the events, here and in other tabs.
      complain(kind.startsWith("application/json") ? "" : await answer.text());
      if (answer.ok && form.hasAttribute("data-resets")) form.reset();
    } catch {
      complain("The page's own server cannot be reached. Whether this was done is not known: press "
        + "again when it is back, it cannot be done twice.");
    } finally {
      if (button) button.removeAttribute("aria-busy");
    }
  }

  document.addEventListener("submit", send);
  document.addEventListener("input", (event) => {
    if (event.target.matches("[data-filter], [data-filter-text]")) filterAll();
  });
  document.addEventListener("click", (event) => {
    const star = event.target.closest("[data-favourite]");
    if (star && star.tagName === "BUTTON") {
      const place = star.dataset.favourite;
      if (!favourites.delete(place)) favourites.add(place);
      keepFavourites();
      decorate(star.closest("article"));
      count();
    }
    if (event.target.closest("[data-print]")) window.print();
  });

  for (const element of document.querySelectorAll("[data-order]")) decorate(element);
  count();
  if (byId("lost")) {
    document.addEventListener("visibilitychange", seen);
    setInterval(tick, TICK_MS);
    listen();
  }
})();
