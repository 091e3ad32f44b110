"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const say = (text) => { document.getElementById("live").textContent = text; };

  const sort = (button) => {
    const head = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    const column = [...head.parentNode.children].indexOf(head), text = button.dataset.sort === "text";
    body.start ??= [...body.rows];
    const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
    all("th[aria-sort]", table.tHead).forEach((th) => th.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", next);
    const sign = next === "descending" ? -1 : 1, value = (row) => row.cells[column].dataset.v ?? "";
    const compare = (a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const p = parseFloat(x), q = parseFloat(y), numbers = !text && !Number.isNaN(p) && !Number.isNaN(q);
      return sign * (numbers ? p - q : x.localeCompare(y, "en", { numeric: true }));
    };
    body.append(...(next === "none" ? body.start : [...body.start].sort(compare)));
    say(next === "none" ? "Original order" : `Sorted by ${button.textContent.trim()}, ${next}`);
  };
  all("table.sortable button[data-sort]").forEach((button) => button.addEventListener("click", () => sort(button)));

  all("input[data-details]").forEach((box) => {
    const spread = () => box.closest("section").classList.toggle("details", box.checked);
    box.addEventListener("change", spread);
    spread();
  });

  const reveal = (shot, on) => {
    shot.setAttribute("aria-pressed", String(on));
    const sound = shot.parentElement.querySelector("audio");
    if (!sound) return;
    sound.hidden = !on;
    if (!on) sound.pause();
  };
  all("section").forEach((section) => {
    const shots = all("button.unsafe", section), every = section.querySelector("button.show-all"), asks = every?.textContent, bar = section.querySelector(".filters");
    const settle = () => {
      if (!every) return;
      const on = shots.every((shot) => shot.getAttribute("aria-pressed") === "true");
      every.setAttribute("aria-pressed", String(on));
      every.textContent = on ? "Hide them again" : asks;
    };
    shots.forEach((shot) => shot.addEventListener("click", () => { reveal(shot, shot.getAttribute("aria-pressed") !== "true"); settle(); }));
    if (every) every.addEventListener("click", () => {
      const on = every.getAttribute("aria-pressed") !== "true";
      shots.forEach((shot) => reveal(shot, on));
      settle();
    });
    const filters = all("select[data-filter]", section);
    const filter = () => all(".strip", section).forEach((strip) => {
      const facets = JSON.parse(strip.dataset.facets);
      strip.hidden = filters.some((f) => f.value && facets[f.dataset.filter] !== f.value);
    });
    filters.forEach((f) => f.addEventListener("change", filter));
    if (bar) { bar.hidden = false; filter(); }
  });

  const choose = (select) => all("[data-plot]", select.closest("figure")).forEach((plot) => { plot.hidden = plot.dataset.plot !== select.value; });
  all("select[data-plots]").forEach((select) => { select.addEventListener("change", () => choose(select)); choose(select); });

  const tip = document.getElementById("tip");
  let told = null;
  const hide = () => { tip.hidden = true; told = null; };
  const show = (mark) => {
    told = mark;
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const at = mark.querySelector(".dot").getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(innerWidth - own.width - 6, at.left + at.width / 2 - own.width / 2))}px`;
    tip.style.top = `${at.top > own.height + 14 ? at.top - own.height - 10 : at.bottom + 10}px`;
  };
  all("[data-tip]").forEach((mark) => {
    ["mouseenter", "focus", "click"].forEach((name) => mark.addEventListener(name, () => show(mark)));
    ["mouseleave", "blur"].forEach((name) => mark.addEventListener(name, hide));
  });
  addEventListener("scroll", () => { if (told && told === document.activeElement) show(told); else hide(); }, { passive: true, capture: true });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  let opened = [];
  addEventListener("beforeprint", () => { opened = all("details:not([open])"); opened.forEach((d) => { d.open = true; }); });
  addEventListener("afterprint", () => { opened.forEach((d) => { d.open = false; }); opened = []; });
})();
