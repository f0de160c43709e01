"use strict";
const byId = (id) => document.getElementById(id);
const read = (id) => byId(id) && JSON.parse(byId(id).textContent); // null: there is none

// An element with text or children: nothing of the data is ever read as HTML.
function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// --- where a number of a table is from ---

function sources() {
  const cells = read("cell-data"), tip = byId("tip"), box = byId("source");
  const signed = (x, digits) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
  const interval = (of) => {
    const found = of.difference && of.difference.interval, digits = of.digits + 1;
    if (!found) return [];
    const text = `${signed(found.mean, digits)} [${signed(found.low, digits)}, ${signed(found.high, digits)}]`;
    return [make("p", {}, `minus ${of.difference.baseline}: ${text}, ${found.n} ${found.unit}`)];
  };
  const lines = (of) => [
    make("p", {}, make("b", {}, `${of.row}, ${of.column}`)),
    ...interval(of),
    ...(of.published ? [make("p", {}, `published: ${of.published}`)] : []),
    ...of.seeds.map((seed, i) =>
      make("p", {}, `seed ${seed}: ${of.values[i].toFixed(of.digits + 2)} `, make("code", {}, of.artefacts[i].slice(-16)))),
  ];
  const show = (button) => {
    tip.replaceChildren(...lines(cells[button.dataset.cell]));
    tip.hidden = false;
    const at = button.getBoundingClientRect(), width = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(8, Math.min(at.left, width - tip.offsetWidth - 8)) + scrollX}px`;
    const below = at.bottom + tip.offsetHeight + 8 < innerHeight || at.top < tip.offsetHeight + 8;
    tip.style.top = `${(below ? at.bottom + 6 : at.top - tip.offsetHeight - 6) + scrollY}px`;
    button.setAttribute("aria-describedby", "tip");
  };
  const hide = () => {
    tip.hidden = true;
    document.querySelectorAll("[aria-describedby=tip]").forEach((each) => each.removeAttribute("aria-describedby"));
  };
  const open = (of) => {
    const close = make("button", { type: "button" }, "Close");
    close.addEventListener("click", () => box.close());
    box.replaceChildren(
      make("h2", { id: "source-title" }, `${of.row}, ${of.column}`),
      make("p", {}, `table ${of.table}; metric `, make("code", {}, of.metric), `${of.scale === 1 ? "" : ` × ${of.scale}`}`),
      ...lines(of).slice(1),
      make("p", {}, "from"), make("pre", {}, of.artefacts.join("\n")),
      make("p", {}, `this cell at seed ${of.seeds[0]}`), make("pre", {}, of.commands[0]),
      make("p", {}, "the whole table"), make("pre", {}, of.commands[1]),
      make("p", {}, "what stands behind it"), make("pre", {}, of.commands[2]),
      close,
    );
    hide();
    box.showModal();
  };
  for (const table of document.querySelectorAll("table[data-table]")) {
    const grid = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("td")].map((cell) => cell.querySelector("button")));
    const all = grid.flat().filter(Boolean);
    all.forEach((button, i) => { button.tabIndex = i ? -1 : 0; });
    table.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step || !event.target.dataset.cell) return;
      event.preventDefault();
      let y = grid.findIndex((row) => row.includes(event.target)), x = grid[y].indexOf(event.target), next;
      do { y += step[0]; x += step[1]; next = grid[y] && grid[y][x]; } while (next === null);
      if (!next) return;
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    for (const button of all) {
      for (const begin of ["mouseenter", "focus"]) button.addEventListener(begin, () => show(button));
      for (const end of ["mouseleave", "blur"]) button.addEventListener(end, hide);
      button.addEventListener("click", () => open(cells[button.dataset.cell]));
    }
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}

// --- examples ---

const PAGE = 10;

function examples() {
  const data = read("example-data");
  if (!data) return;
  const delta = (row, i) => row[8][i][0] - row[8][i][1];
  const right = (row, i) => delta(row, i) > 0;
  const names = [...new Set(data.rows.map((row) => `${row[0]}: ${row[1]}`))];
  const sets = [...new Set(data.rows.map((row) => row[0]))];
  byId("example-subset").append(make("option", { value: "" }, "all"), ...sets.map((name) => make("option", { value: name }, `${name}: all`)),
    ...names.map((name) => make("option", { value: name }, name)));
  const fits = {
    "": () => true,
    "all wrong": (row) => data.losses.every((_, i) => !right(row, i)),
    "all right": (row) => data.losses.every((_, i) => right(row, i)),
  };
  const kind = (value) => fits[value] || ((row) => {
    const [wrong, good] = value.split(">").map((name) => data.losses.indexOf(name));
    return !right(row, wrong) && right(row, good);
  });
  let found = [], at = 0;
  const filter = () => {
    const subset = byId("example-subset").value, fit = kind(byId("example-kind").value), text = byId("example-text").value.toLowerCase();
    const least = byId("example-least").value, most = byId("example-most").value;
    found = data.rows.filter((row) => {
      const distance = row[8][0][2];
      return (!subset || subset === row[0] || subset === `${row[0]}: ${row[1]}`) && fit(row)
        && (least === "" || (distance !== null && distance >= +least)) && (most === "" || (distance !== null && distance <= +most))
        && (!text || `${row[3]}\n${row[4]}\n${row[5]}`.toLowerCase().includes(text));
    });
    at = 0;
    show();
  };
  const number = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(Math.abs(x) < 0.1 ? 3 : 2);
  const verdict = (row, i) => {
    const good = right(row, i), distance = row[8][i][2];
    const text = `${data.losses[i]} ${good ? "✓" : "✕"} Δ ${number(delta(row, i))}${distance === null ? "" : `, distance ${distance.toFixed(1)}`}`;
    return make("span", { class: good ? "right" : "wrong" }, text, i + 1 < data.losses.length ? "  ·  " : "");
  };
  const answer = (title, text, gold) => make("div", {}, make("b", {}, title), ...(gold === null ? [] : [` gold ${number(gold)}`]), make("p", {}, text));
  const item = (row) => make("li", {},
    make("div", {}, make("code", {}, row[2]), ` ${row[0]}, ${row[1]}`),
    make("div", { class: "asked" }, make("b", {}, "prompt "), row[3]),
    make("div", { class: "answers" }, answer("chosen", row[4], row[6]), answer("rejected", row[5], row[7])),
    make("div", {}, ...data.losses.map((_, i) => verdict(row, i))));
  const show = () => {
    const last = Math.min(at + PAGE, found.length);
    byId("example-count").textContent = found.length ? `${found.length.toLocaleString("en")} pairs; ${at + 1} to ${last} are shown` : "no pair is like that";
    byId("example-rows").replaceChildren(...found.slice(at, last).map(item));
    byId("example-back").disabled = at === 0;
    byId("example-on").disabled = last === found.length;
  };
  const turn = (step) => { at += step; show(); byId("examples").scrollIntoView(); };
  byId("example-back").addEventListener("click", () => turn(-PAGE));
  byId("example-on").addEventListener("click", () => turn(PAGE));
  byId("example-form").addEventListener("input", filter);
  byId("example-form").addEventListener("submit", (event) => event.preventDefault());
  document.querySelector(".browser").hidden = false;
  filter();
}

// --- gradients by hand ---

const SVG = "http://www.w3.org/2000/svg";

function drawn(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function chart(settings) {
  const width = 640, height = 230, left = 56, bottom = 34, most = +byId("gradient-distance").max;
  const at = (distance) => gradients({ ...settings, distance });
  const distances = Array.from({ length: 81 }, (_, i) => 0.1 + (most - 0.1) * i / 80);
  const top = Math.max(at(most).BT.along, at(most).NormBT.along) * 1.15 || 1;
  const x = (d) => left + (width - left - 70) * d / most, y = (g) => height - bottom - (height - bottom - 10) * g / top;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "BT's gradient grows with distance, NormBT's does not" });
  svg.append(drawn("path", { class: "axis", d: `M${left} 10V${height - bottom}H${width - 70}` }));
  for (const share of [0, 0.5, 1]) {
    const value = top * share / 1.15;
    svg.append(drawn("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(2)));
    svg.append(drawn("text", { x: x(most * share), y: height - bottom + 16, "text-anchor": "middle" }, `${most * share}`));
  }
  svg.append(drawn("text", { x: x(most / 2), y: height - 3, "text-anchor": "middle" }, "distance d"));
  for (const loss of ["BT", "NormBT"]) {
    const kind = loss.toLowerCase(), end = at(most)[loss].along, here = at(settings.distance)[loss].along;
    svg.append(drawn("path", { class: kind, d: `M${distances.map((d) => `${x(d)} ${y(at(d)[loss].along)}`).join("L")}` }));
    svg.append(drawn("circle", { cx: x(settings.distance), cy: y(here), r: 5, class: kind, fill: "currentColor" }));
    const shift = loss === "BT" ? -4 : 12, close = Math.abs(y(at(most).BT.along) - y(at(most).NormBT.along)) < 16;
    svg.append(drawn("text", { x: x(most) + 6, y: y(end) + (close ? shift : 4), class: kind }, loss === "BT" ? "BT, BSR" : loss));
  }
  byId("gradient-chart").replaceChildren(svg);
}

function panel() {
  const constants = read("gradient-data"), form = byId("gradient-form");
  const update = () => {
    const settings = { ...constants };
    for (const input of form.querySelectorAll("input")) {
      settings[input.name] = +input.value;
      input.parentElement.querySelector("output").textContent = input.value;
    }
    for (const [loss, found] of Object.entries(gradients(settings))) {
      const cells = byId("gradient-table").querySelectorAll(`[data-loss="${loss}"] td.number`);
      [found.along, found.chosen, found.rejected].forEach((value, i) => { cells[i].textContent = value.toFixed(3).replace("-", "−"); });
    }
    chart(settings);
  };
  form.addEventListener("input", update);
  document.querySelector(".panel").hidden = false;
  update();
}

sources();
examples();
panel();
