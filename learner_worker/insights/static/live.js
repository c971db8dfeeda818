// Fetches the page again when the server says that something has changed, and shows the new live parts.
"use strict";
(() => {
  const parts = [...document.querySelectorAll("[data-live]")];
  const state = document.getElementById("live-state");
  if (!parts.length || !window.EventSource) return;
  let busy = false;
  let again = false;

  function show(text, lost) {
    state.hidden = false;
    state.textContent = text;
    state.classList.toggle("lost", lost);
  }

  async function refresh() {
    // Whoever reads with the keyboard or has selected text must not lose the place.
    const focused = parts.some((part) => part.contains(document.activeElement));
    const inUse = focused || !document.getSelection().isCollapsed;
    if (busy || inUse || document.hidden) {
      again = true;
      return;
    }
    busy = true;
    again = false;
    try {
      const answer = await fetch(location.pathname + location.search, { headers: { Accept: "text/html" } });
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        const wanted = fresh.querySelectorAll("[data-live]");
        parts.forEach((part, number) => part.replaceChildren(...wanted[number].childNodes));
      }
    } catch {
      again = true;
    } finally {
      busy = false;
    }
  }

  const events = new EventSource("/live");
  events.onopen = () => show("live", false);
  events.onerror = () => show("connection lost, trying again", true);
  events.onmessage = refresh;
  setInterval(() => { if (again) refresh(); }, 1000);
})();
