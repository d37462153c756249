"use strict";
/* The parts of the page of trajectories that know nothing of its data: elements, colours, charts.
   watch.js comes after this file, in the same script, and has `axis` and `ticks`. */

/* The colours of the scale, from early to late: the colour map cividis. People with any kind of
   colour blindness see it go from dark blue to light yellow, and it gets lighter all the way. */
const SCALE = ["#00224e", "#35456c", "#666970", "#948e77", "#c8b866", "#fee838"];
const SVG = "http://www.w3.org/2000/svg";

// ---------------------------------------------------------------------------------------- elements

/* A new element. `children` are elements or texts. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/* A new element of a drawing. */
function draw(name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

const three = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))));
const count = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

// ------------------------------------------------------------------------------------------ colours

/* The colour at a part of the scale, from 0 to 1, as [red, green, blue]. */
function colour(part) {
  const place = part * (SCALE.length - 1);
  const low = Math.min(Math.floor(place), SCALE.length - 2);
  const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const [from, to] = [channels(SCALE[low]), channels(SCALE[low + 1])];
  return from.map((value, index) => Math.round(value + (to[index] - value) * (place - low)));
}

/* Black or white, whichever has more contrast to a colour: 4.5 or more (WCAG 2, 1.4.3). */
function ink(rgb) {
  const linear = rgb.map((value) => value / 255).map(
    (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return luminance > 0.179 ? "#000" : "#fff";
}

/* Where a value of the axis lies on the scale, from 0 to 1. */
function partOf(value) {
  const [first, last] = [ticks[0], ticks[ticks.length - 1]];
  return last > first ? (value - first) / (last - first) : 1;
}

// -------------------------------------------------------------------------------------------- charts

/* A round number that is not below `value`. */
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((factor) => factor * power).find((one) => one >= value * 0.999999);
}

/* A small chart of one number over the axis. Returns {element, mark}: mark(index) moves its mark to
   a state, or away if the index is -1. */
function chart(states, key, label, unit) {
  const [left, right, top, bottom] = [38, 312, 20, 92];
  const values = states.map((state) => state[key]);
  const most = roundUp(Math.max(...values.filter((value) => value !== null)));
  const x = (index) => left + (right - left) * partOf(states[index][axis]);
  const y = (value) => bottom - (bottom - top) * (value / most);
  const known = [...states.keys()].filter((index) => values[index] !== null);
  const ends = known.length ? [known[0], known[known.length - 1]].map((i) => three(values[i])) : [];
  const told = `${label} over ${axis}: from ${ends[0]} to ${ends[1]} ${unit}`;
  const svg = draw("svg", { viewBox: "0 0 320 122", role: "img", "aria-label": told });
  svg.append(
    draw("text", { x: 2, y: 11 }, `${label} (${unit})`),
    draw("text", { x: left - 5, y: top + 6, class: "end" }, three(most)),
    draw("text", { x: left - 5, y: bottom + 2, class: "end" }, "0"),
    draw("text", { x: left, y: bottom + 15 }, String(ticks[0])),
    draw("text", { x: right, y: bottom + 15, class: "end" }, String(ticks[ticks.length - 1])),
    draw("text", { x: (left + right) / 2, y: bottom + 26, class: "middle" },
      axis === "step" ? "step" : "network evaluations"),
    draw("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }),
    draw("path", { class: "grid", d: `M${left} ${top}H${right}` }),
  );
  const points = known.map((index) => `${x(index).toFixed(1)},${y(values[index]).toFixed(1)}`);
  const line = draw("line", { class: "now", y1: top, y2: bottom });
  const dot = draw("circle", { class: "dot", r: 4 });
  svg.append(draw("polyline", { class: "line", points: points.join(" ") }), line, dot);
  const mark = (index) => {
    line.style.display = index < 0 ? "none" : "";
    dot.style.display = index < 0 || values[index] === null ? "none" : "";
    if (index < 0) return;
    line.setAttribute("x1", x(index));
    line.setAttribute("x2", x(index));
    dot.setAttribute("cx", x(index));
    dot.setAttribute("cy", y(values[index] ?? 0));
  };
  return { element: svg, mark };
}
