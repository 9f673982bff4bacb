/* The feature browser of a CEDAR model: a list of axes or rows, and what there is to know of one.

   The data are in the page, in elements that are read when first needed: `meta` (JSON), arrays of
   the axes (base64, little-endian), and blocks of `meta.block` rows (codes, texts, pictures), which
   may come after this script has started. Names and texts enter the page as text, never as markup.
   (This is part of a Jinja template, which is why no brace is followed by a number sign.) */
"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const meta = JSON.parse($("meta").textContent);
/* Height of an item of the list in pixels: as in browser.css, and so as large as the reader's letters. */
const ITEM = 3.5 * parseFloat(getComputedStyle(document.documentElement).fontSize);
const whole = new Intl.NumberFormat("en");
const percent = (share) => `${(100 * share).toPrecision(share >= 0.1 ? 3 : 2)} %`;
const thousands = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
/** Return a number with three digits: 0.00123, 1.20, 38,700 and, from a million on, 3.87e+6. */
function decimal(value) {
  const large = Math.abs(value) >= 999.5 && Math.abs(value) < 999500;
  return (large ? thousands.format(value) : value.toPrecision(3)).replace(/^-/, "−");
}

/* ------------------------------------------------------------------------------------ the data */

function bytes(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  return Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
}

/** Return what an element holds, decoded once; null if it is not (yet) in the page. */
const decoded = new Map();
function content(name, decode) {
  if (!decoded.has(name)) {
    const element = $(name);
    if (!element) return null;
    decoded.set(name, decode(element.textContent));
  }
  return decoded.get(name);
}

const array = (name, Kind) => content(name, (base64) => new Kind(bytes(base64).buffer));
const floats = (name) => array(name, Float32Array);

/** Return what one row has in its block. Only texts, which are searched, stay in memory. */
function ofRow(kind, row, decode) {
  const name = `${kind}-${Math.floor(row / meta.block)}`;
  const block = content(name, decode);
  if (kind !== "texts" && decoded.size > 1000) decoded.delete(name);
  return block?.[row % meta.block] ?? null;
}

const textOf = (row) => ofRow("texts", row, JSON.parse);
const pictureOf = (row) => ofRow("pictures", row, (lines) => lines.split("\n"));

function half(bits) {
  const size = bits & 0x7fff;
  const value = size < 1024 ? size * 2 ** -24 : (1024 + (size & 1023)) * 2 ** ((size >> 10) - 25);
  return bits & 0x8000 ? -value : value;
}

/** Return the code of a row as pairs of an axis and a value, the largest value first. */
function codeOf(row) {
  return ofRow("codes", row, (base64) => {
    const raw = bytes(base64);
    const Index = meta.axes <= 65536 ? Uint16Array : Uint32Array;
    const rows = raw.length / (8 + meta.k * (Index.BYTES_PER_ELEMENT + 2));
    const scales = new Float64Array(raw.buffer, 0, rows);
    const axes = new Index(raw.buffer, 8 * rows, rows * meta.k);
    const halves = new Uint16Array(raw.buffer, axes.byteOffset + axes.byteLength, rows * meta.k);
    const codes = [];
    for (let row = 0; row < rows; row++) {
      const code = [];
      for (let place = row * meta.k; place < (row + 1) * meta.k; place++) {
        if (halves[place] & 0x7fff) code.push([axes[place], half(halves[place]) * scales[row]]);
      }
      codes.push(code.sort((one, other) => Math.abs(other[1]) - Math.abs(one[1])));
    }
    return codes;
  });
}

/* `end` is 0 for the positive end of an axis, and 1 for the negative one. */
const nameOf = (axis, end) => meta.names?.[axis][end] ?? null;
const wordOf = (axis, end) => nameOf(axis, end)?.[0] ?? null;
const wordsOf = (axis) => [wordOf(axis, 0), wordOf(axis, 1)].filter((word) => word !== null);
const folded = (text) => text.normalize("NFC").toLowerCase();
const confirmation = array("confirmed", Uint8Array);
const CONFIRMED = [["no", "✗ not confirmed"], ["yes", "✓ confirmed"], ["", "? not tested"]];

/* -------------------------------------------------------------------------------- the elements */

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Text of a stranger: in its own direction, which does not reach what stands around it. */
const isolated = (text, kind = "") => make("bdi", kind ? { class: kind } : {}, text);

function badge(axis) {
  const [kind, text] = CONFIRMED[confirmation[axis]];
  return make("span", { class: `badge ${kind}` }, text);
}

/** The list. Only the items in view are in the page, so that it may be as long as it likes. */
const list = {
  element: $("list"), inside: $("items"), items: [], active: 0, item: null, current: () => false,

  show(items, item, current) {
    Object.assign(this, { items, item, current, active: 0 });
    this.inside.style.height = `${ITEM * items.length}px`;
    this.element.scrollTop = 0;
    this.render();
  },

  render() {
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / ITEM) - 4);
    const last = Math.min(this.items.length, Math.ceil((scrollTop + clientHeight) / ITEM) + 4);
    const options = [];
    for (let place = first; place < last; place++) {
      const item = this.items[place];
      const option = make("div", { role: "option", id: `option-${place}`,
        class: place === this.active ? "option active" : "option", "aria-posinset": place + 1,
        "aria-setsize": this.items.length, "aria-selected": this.current(item) },
      ...this.item(item));
      option.style.transform = `translateY(${place * ITEM}px)`;
      options.push(option);
    }
    this.inside.replaceChildren(...options);
    if (this.active >= first && this.active < last) {
      this.element.setAttribute("aria-activedescendant", `option-${this.active}`);
    } else {
      this.element.removeAttribute("aria-activedescendant");
    }
  },

  move(place) {
    this.active = Math.max(0, Math.min(this.items.length - 1, place));
    const top = this.active * ITEM;
    const { scrollTop, clientHeight } = this.element;
    if (top < scrollTop) this.element.scrollTop = top;
    else if (top + ITEM > scrollTop + clientHeight) {
      this.element.scrollTop = top + ITEM - clientHeight;
    }
    this.render();
  },
};

/* ---------------------------------------------------------------------- searching and sorting */

const mode = () => ($("mode-rows").checked ? "row" : "axis");
const keys = Array.from({ length: meta.axes }, (_, axis) => folded(wordsOf(axis).join("\n")));
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/* Counts, so that equal frequencies are equal. */
const count = (axis, end) => array("counts", Uint32Array)[end * meta.axes + axis];
const measure = {
  energy: (axis) => floats("share")[axis],
  stability: (axis) => floats("stability")[axis],
  frequency: (axis) => (count(axis, 0) + count(axis, 1)) / meta.rows,
};

function compared(kind) {
  if (kind === "number") return () => 0;
  if (kind in measure) return (one, other) => measure[kind](other) - measure[kind](one);
  const first = keys.map((_, axis) => wordsOf(axis)[0] ?? null);
  return (one, other) =>
    first[one] !== null && first[other] !== null
      ? collator.compare(first[one], first[other])
      : (first[one] === null) - (first[other] === null);
}

/* The order by energy comes with the page, and the others are computed once. */
const orders = new Map([["energy", Array.from(array("order", Uint32Array))]]);
function order(kind) {
  if (!orders.has(kind)) orders.set(kind, Array.from(keys.keys()).sort(compared(kind)));
  return orders.get(kind);
}

function axisItem(axis) {
  const kind = $("sort").value in measure ? $("sort").value : "energy"; // others have no number
  const value = kind === "stability" ? decimal(measure[kind](axis)) : percent(measure[kind](axis));
  const words = wordsOf(axis);
  const named = words.length
    ? [0, 1].flatMap((end) => {
        const word = wordOf(axis, end);
        const sign = make("span", { class: "sign" }, end ? "−" : "+");
        return word === null ? [] : [make("span", { class: end ? "down" : "up" }, sign,
          isolated(word, "name"))];
      })
    : [make("span", { class: "none" }, meta.names ? "no name" : "")];
  return [
    make("div", { class: "first" }, make("span", { class: "number" }, `Axis ${axis}`), ...named),
    make("div", { class: "second" }, badge(axis), make("span", {}, `${kind} ${value}`)),
  ];
}

function rowItem(row) {
  return [
    make("div", { class: "first" }, make("span", { class: "number" }, `Row ${whole.format(row)}`)),
    make("div", { class: "second" }, isolated(textOf(row) ?? "")),
  ];
}

const opened = (kind) => (number) => shown.kind === kind && shown.number === number;
const say = (found, total, what) =>
  ($("status").textContent = `${whole.format(found)} of ${whole.format(total)} ${what}`);

/** Return the number that a query asks for, written as in the list or alone; -1 if there is none. */
const numberIn = (query) =>
  Number(new RegExp(`^(?:${mode()}\\s*)?(\\d+)$`).exec(query.replaceAll(",", ""))?.[1] ?? -1);

function searchAxes(query) {
  const number = numberIn(query);
  const found = order($("sort").value).filter((axis) =>
    (!query || axis === number || keys[axis].includes(query))
    && (!$("named").checked || keys[axis] !== "")
    && (!$("confirmed-only").checked || confirmation[axis] === 1));
  if (number >= 0 && found.includes(number)) {
    found.splice(found.indexOf(number), 1);
    found.unshift(number);
  }
  list.show(found, axisItem, opened("axis"));
  say(found.length, meta.axes, "axes");
}

let latest = 0; // the search that counts: a later one ends the earlier ones
async function searchRows(query) {
  const mine = latest;
  if (!query) {
    list.show(Array.from({ length: meta.rows }, (_, row) => row), rowItem, opened("row"));
    return say(meta.rows, meta.rows, "rows");
  }
  const found = [];
  const number = numberIn(query);
  if (number >= 0 && number < meta.rows) found.push(number);
  let pause = performance.now() + 10;
  for (let row = 0; row < meta.rows && meta.texts; row++) {
    if (row !== found[0] && folded(textOf(row) ?? "").includes(query)) found.push(row);
    if (row % 64 === 0 && performance.now() > pause) {
      await new Promise((after) => setTimeout(after)); // keystrokes come first
      if (mine !== latest) return undefined;
      pause = performance.now() + 10;
    }
  }
  list.show(found, rowItem, opened("row"));
  return say(found.length, meta.rows, "rows");
}

function search() {
  const query = folded($("query").value.trim());
  $("of-axes").hidden = mode() === "row";
  latest++;
  return mode() === "row" ? searchRows(query) : searchAxes(query);
}

/* ------------------------------------------------------------------------------ axes and rows */

function fact(term, ...about) {
  return make("div", {}, make("dt", {}, term), make("dd", {}, ...about));
}

function histogram(axis) {
  const bins = meta.bins;
  const counts = array("histograms", Uint32Array).subarray(axis * bins, (axis + 1) * bins);
  const limit = floats("limits")[axis];
  const most = Math.max(1, ...counts);
  const [up, down] = [count(axis, 0), count(axis, 1)];
  const bars = Array.from(counts, (one, bin) => draw("rect", {
    x: bin + 0.06, width: 0.88, y: 30 - (30 * one) / most, height: (30 * one) / most,
    class: bin < bins / 2 ? "down" : "up",
  }));
  const about = `Histogram of the coefficients of axis ${axis}: ${whole.format(down)} below 0 and `
    + `${whole.format(up)} above 0, up to ${decimal(limit)} in size`;
  return make("figure", {},
    draw("svg", { viewBox: `0 0 ${bins} 30`, preserveAspectRatio: "none", role: "img",
      "aria-label": about }, ...bars),
    make("div", { class: "ticks" }, make("span", {}, decimal(-limit)), make("span", {}, "0"),
      make("span", {}, decimal(limit))),
    make("figcaption", { class: "note" }, `${whole.format(down)} coefficients are below 0 and `
      + `${whole.format(up)} above 0. The highest bar stands for ${whole.format(most)}.`));
}

function picture(row) {
  const base64 = pictureOf(row);
  if (!base64) return null;
  const image = make("img", { alt: "", src: `data:image/webp;base64,${base64}` });
  if (meta.rough) image.className = "rough";
  return image;
}

function example(row, value) {
  const text = textOf(row);
  const about = `Row ${whole.format(row)}, value ${decimal(value)}${text ? `: ${text}` : ""}`;
  const link = make("a", { href: `#row-${row}`, title: about });
  if (meta.pictures) {
    link.setAttribute("aria-label", about);
    link.append(picture(row) ?? "", make("span", { class: "note" }, decimal(value)));
    return link;
  }
  link.append(isolated(text || `row ${whole.format(row)}`));
  return make("li", {}, make("span", { class: "code" }, decimal(value)), link);
}

function endOf(axis, end) {
  const name = nameOf(axis, end);
  const rows = array("example-rows", Int32Array);
  const values = floats("example-values");
  const start = (2 * axis + end) * meta.examples;
  const found = [];
  for (let place = start; place < start + meta.examples && rows[place] >= 0; place++) {
    found.push(example(rows[place], values[place]));
  }
  const kind = meta.pictures ? ["div", { class: "pictures" }] : ["ul", { class: "texts" }];
  const unnamed = meta.names ? "no name" : `${end ? "negative" : "positive"} end`;
  return make("div", { class: `end ${end ? "down" : "up"}` },
    make("h3", {}, make("span", { class: "sign" }, end ? "−" : "+"),
      name ? isolated(name[0], "name") : make("span", { class: "none" }, unnamed),
      name ? make("span", { class: "note" }, `score ${name[1]}, margin ${name[2]} over “`,
        isolated(name[3]), "”") : null),
    make("p", { class: "note" },
      `in the code of ${percent(count(axis, end) / meta.rows)} of the rows`),
    found.length ? make(...kind, ...found) : make("p", { class: "note" }, "no examples"));
}

function axisPage(axis) {
  const stability = floats("stability");
  const similar = array("similar", Int32Array);
  const cosines = floats("similar-cosines");
  const alike = [];
  for (let place = axis * meta.similar; place < (axis + 1) * meta.similar; place++) {
    if (similar[place] < 0) continue;
    alike.push(make("li", {}, make("span", { class: "code" }, cosines[place].toFixed(2)),
      make("a", { href: `#axis-${similar[place]}` }, `Axis ${similar[place]}`,
        ...wordsOf(similar[place]).flatMap((word) => [" · ", isolated(word)]))));
  }
  return [
    make("h2", { tabindex: -1 }, `Axis ${axis} `, badge(axis)),
    make("dl", { class: "facts" },
      fact("Energy", percent(measure.energy(axis)), " of the codes"),
      fact("Frequency", "in ", percent(measure.frequency(axis)), " of the codes"),
      stability ? fact("Stability", `cosine ${decimal(stability[axis])}`) : null,
      stability ? fact("Adjusted p-value", decimal(floats("q")[axis])) : null),
    make("h3", {}, "Coefficients"), histogram(axis),
    make("div", { class: "ends" }, endOf(axis, 0), endOf(axis, 1)),
    make("h3", {}, "Axes that are large in the same rows"),
    alike.length ? make("ul", { class: "texts" }, ...alike)
      : make("p", { class: "note" }, "There are none."),
  ];
}

function rowPage(row) {
  const code = codeOf(row);
  const text = textOf(row);
  const most = Math.max(...(code ?? []).map(([, value]) => Math.abs(value)), 1e-300);
  const lines = (code ?? []).map(([axis, value]) => {
    const end = value < 0 ? 1 : 0;
    const bar = make("div", { class: `bar-of ${end ? "down" : "up"}` });
    bar.style.width = `${(100 * Math.abs(value)) / most}%`;
    const word = wordOf(axis, end);
    const link = make("a", { href: `#axis-${axis}` }, `Axis ${axis}`);
    return make("tr", {}, make("td", {}, link), make("td", {}, decimal(value)),
      make("td", {}, bar), make("td", { class: "word" }, word === null ? "" : isolated(word)));
  });
  const head = ["Axis", "Value", "Size", "Name of this end"].map((name) =>
    make("th", { scope: "col" }, name));
  return [
    make("h2", { tabindex: -1 }, `Row ${whole.format(row)}`),
    picture(row), text === null ? null : make("p", { dir: "auto", class: "text" }, text),
    code === null ? make("p", { class: "note" }, "The page is still being read.")
      : make("div", { class: "wide", tabindex: 0, role: "group", "aria-label": "Code of the row" },
          make("table", {}, make("thead", {}, make("tr", {}, ...head)),
            make("tbody", {}, ...lines))),
  ];
}

let shown = { kind: "", number: -1 };
/** Show what the fragment of the address names: #axis-12, #row-345, or the introduction. */
function show({ focus = true } = {}) {
  const [, kind, digits] = /^#(axis|row)-(\d{1,10})$/.exec(location.hash) ?? [];
  const number = Number(digits);
  const there = number < (kind === "axis" ? meta.axes : meta.rows);
  shown = there ? { kind, number } : { kind: "", number: -1 };
  $("about").hidden = there;
  const page = there ? (kind === "axis" ? axisPage(number) : rowPage(number)) : [];
  $("shown").replaceChildren(...page.filter((element) => element !== null));
  document.title = there ? `${kind === "axis" ? "Axis" : "Row"} ${number} – ${meta.title}` : meta.title;
  const place = mode() === kind ? list.items.indexOf(number) : -1;
  if (place < 0) list.render();
  else list.move(place);
  if (!there) return;
  $("detail").scrollTop = 0;
  if (getComputedStyle($("detail")).overflowY === "visible") $("detail").scrollIntoView();
  if (focus) $("shown").querySelector("h2").focus();
  else $("said").textContent = `${kind === "axis" ? "Axis" : "Row"} ${number} is shown`;
}

let pointer = false; // whether the list was clicked: then it keeps the focus
function open(place) {
  const hash = `#${mode()}-${list.items[place]}`;
  if (list.items[place] === undefined) return;
  if (location.hash === hash) show({ focus: !pointer });
  else location.hash = hash;
}

/* ----------------------------------------------------------------------------------- the keys */

const MOVES = {
  ArrowDown: (place) => place + 1, ArrowUp: (place) => place - 1, PageDown: (place) => place + 8,
  PageUp: (place) => place - 8, Home: () => 0, End: () => list.items.length - 1,
};

$("list").addEventListener("keydown", (event) => {
  if (event.key in MOVES) list.move(MOVES[event.key](list.active));
  else if (event.key === "Enter" || event.key === " ") open(list.active);
  else return;
  event.preventDefault();
});
$("query").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown") $("list").focus();
  else if (event.key === "Enter") open(list.active);
  else if (event.key === "Escape" && $("query").value) { $("query").value = ""; search(); }
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=search], select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.key === "/" || event.key === "Escape") {
    event.preventDefault();
    $("query").focus();
    $("query").select();
  }
});
$("list").addEventListener("click", (event) => {
  const option = event.target.closest("[role=option]");
  if (!option) return;
  pointer = true;
  list.active = Number(option.getAttribute("aria-posinset")) - 1;
  open(list.active);
});
let frame = 0;
$("list").addEventListener("scroll", () => {
  frame ||= requestAnimationFrame(() => { frame = 0; list.render(); });
}, { passive: true });
addEventListener("resize", () => list.render());
addEventListener("hashchange", () => { show({ focus: !pointer }); pointer = false; });
$("query").addEventListener("input", search);
$("controls").addEventListener("change", (event) => {
  if (event.target !== $("query")) search();
});
$("controls").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("DOMContentLoaded", () => { // the rows are there now
  show({ focus: false });
  if (mode() === "row") search();
});

search();
show({ focus: false });
performance.mark("ready");
})();
