/* Shows the states of trajectories step by step. elf_jax/pages/watch.py says what the data is.

   One slider moves all samples of all models. Its ticks are the steps; with several models they are
   network evaluations, and each model shows the last state that it reaches with so many.

   All text of the data comes into the page as text, never as HTML. */

const get = (id) => document.getElementById(id);
const SECONDS_OF_PLAY = 8; // for a whole trajectory

let axis = "step"; // the number that the ticks count: "step" or "evaluations"
let ticks = []; // its values, rising
let position = 0; // index into ticks
let panels = []; // one for each sample of each model: {element, show}
let timer = null; // of playing

// -------------------------------------------------------------------------------------- what changed

/* Adds to each state `fresh`, the set of positions that changed since the state before, and to the
   trajectory `settled`: for each position the index of the state in which it changed last. A
   position after the end of a text has no token; to get one, or to lose it, is a change too. */
function findChanges(trajectory, tokens) {
  const given = new Set(trajectory.given);
  const settled = [];
  let before = [];
  trajectory.states.forEach((state, index) => {
    state.fresh = new Set();
    for (let p = 0; p < Math.max(state.at.length, before.length); p++) {
      const same = p < state.at.length && p < before.length &&
        tokens[state.at[p]] === tokens[before[p]];
      if (given.has(p) || same) continue;
      settled[p] = index;
      state.fresh.add(p);
    }
    before = state.at;
  });
  trajectory.settled = settled;
  trajectory.isGiven = given;
}

// ---------------------------------------------------------------------------------------------- text

/* The element of one position in a state. */
function tokenElement(data, trajectory, index, p) {
  const state = trajectory.states[index];
  const piece = data.pieces[state.at[p]];
  if (piece === null) return make("span", { class: "open", role: "img", "aria-label": "gap" });
  const classes = ["token"];
  const element = make("span", {}, piece);
  if (trajectory.isGiven.has(p)) {
    classes.push("given");
    element.title = "given";
  } else if (trajectory.settled[p] > index) {
    classes.push("pending");
    element.title = "changes again later";
  } else {
    const value = trajectory.states[trajectory.settled[p]][axis];
    const rgb = colour(partOf(value));
    classes.push("settled");
    element.title = `settled at ${axis === "step" ? "step" : "evaluation"} ${value}`;
    element.style.backgroundColor = `rgb(${rgb})`;
    element.style.color = ink(rgb);
  }
  if (state.fresh.has(p)) classes.push("changed");
  element.className = classes.join(" ");
  return element;
}

// -------------------------------------------------------------------------------------------- panels

/* The last state that is reached with a value of the axis; -1: none yet. */
function stateAt(states, value) {
  let found = -1;
  while (found + 1 < states.length && states[found + 1][axis] <= value) found++;
  return found;
}

/* A text that gets shorter keeps its height, so that what is below it stays in place. */
function keepHeight(text) {
  text.style.minHeight = `${Math.max(parseFloat(text.style.minHeight) || 0, text.offsetHeight)}px`;
}

/* One sample of one model: its text, its numbers and its charts. */
function makePanel(data, model, trajectory, number) {
  const text = make("p", { class: "text", dir: "auto" });
  const numbers = make("dl", { class: "numbers" });
  const charts = [
    chart(trajectory.states, "entropy", "entropy", "nats"),
    chart(trajectory.states, "changed", "changed", "tokens"),
  ];
  const element = make("section", { class: "model", "aria-label": `${model.name}, sample ${number}` });
  if (data.models.length > 1) element.append(make("h3", { dir: "auto" }, model.name));
  element.append(make("div", { class: "texts" }, text), make("div", { class: "facts" }, numbers,
    make("div", { class: "charts" }, ...charts.map((one) => one.element))));
  let shown = null;
  const show = (value) => {
    const index = stateAt(trajectory.states, value);
    if (index === shown) return;
    shown = index;
    text.replaceChildren();
    charts.forEach((one) => one.mark(index));
    const state = trajectory.states[index];
    text.classList.toggle("waiting", !state);
    if (state) {
      const places = [...state.at.keys()];
      text.append(...places.map((p) => tokenElement(data, trajectory, index, p)));
    }
    const facts = state ? [["step", `${state.step} of ${trajectory.states.length}`],
      ["evaluations", state.evaluations], ["time t", three(state.time)],
      ["entropy", `${three(state.entropy)} nats`], ["changed", count(state.changed, "token")]]
      : [["step", "not reached yet"]];
    numbers.replaceChildren(...facts.slice(axis === "step" ? 1 : 0).map(([name, fact]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, String(fact)))));
    keepHeight(text);
  };
  return { element, show };
}

/* What a trajectory was made from: [name, text] of each part that it has. */
function givenTexts(trajectory) {
  return ["source", "reference", "template"].filter((name) => trajectory[name] !== null)
    .map((name) => [name, trajectory[name]]);
}

/* Sample `index` of all models, next to each other. */
function makeSample(data, index, many) {
  const element = make("article", { class: "sample" });
  element.append(make("h2", {}, `Sample ${index + 1}${many > 1 ? ` of ${many}` : ""}`));
  const models = data.models.filter((model) => index < model.trajectories.length);
  const texts = make("dl", { class: "sources" });
  for (const [name, text] of givenTexts(models[0].trajectories[index])) {
    texts.append(make("dt", {}, name), make("dd", { dir: "auto", "data-of": name }, text));
  }
  if (texts.children.length) element.append(texts);
  const row = make("div", { class: data.models.length > 1 ? "row several" : "row" });
  for (const model of models) {
    const panel = makePanel(data, model, model.trajectories[index], index + 1);
    panels.push(panel);
    row.append(panel.element);
  }
  element.append(row);
  return element;
}

// ---------------------------------------------------------------------------- head, legend, controls

function showModels(data) {
  get("models").replaceChildren(...data.models.map((model) => {
    const settings = Object.entries(model.settings).map(([name, value]) =>
      make("li", {}, `${name} ${value}`));
    const name = data.models.length > 1 ? [make("strong", { dir: "auto" }, model.name)] : [];
    return make("div", { class: "about" }, ...name,
      make("ul", { class: "settings" }, make("li", {}, model.method), ...settings));
  }));
}

function showLegend(data) {
  const all = data.models.flatMap((model) => model.trajectories);
  const isOpen = (state) => state.at.some((index) => data.pieces[index] === null);
  const what = axis === "step" ? "step" : "evaluation";
  const bar = make("span", { class: "scale", "aria-hidden": "true" });
  bar.style.backgroundImage = `linear-gradient(to right, ${SCALE.join(", ")})`;
  const entries = [
    make("li", {}, `settled at ${what} ${ticks[0]} `, bar, ` ${ticks[ticks.length - 1]}`),
    make("li", {}, make("span", { class: "token pending" }, "grey"), ": changes again later"),
    make("li", {}, make("span", { class: "token changed" }, "underlined"), `: changed at this ${what}`),
  ];
  if (all.some((one) => one.given.length)) {
    entries.push(make("li", {}, make("span", { class: "token given" }, "bold"), ": given"));
  }
  if (all.some((one) => one.states.some(isOpen))) {
    entries.push(make("li", {}, make("span", { class: "open", "aria-hidden": "true" }),
      ": no token yet"));
  }
  get("legend").replaceChildren(...(ticks.length ? entries : []));
}

/* The list of samples to choose from. It keeps what was chosen. */
function showChoice(many) {
  const chosen = get("sample").value || "all";
  const numbers = [...Array(many).keys()].map((index) => String(index + 1));
  get("sample").replaceChildren(...["all", ...numbers].map((value) =>
    make("option", { value }, value === "all" ? "all samples" : `sample ${value}`)));
  get("sample").value = numbers.includes(chosen) ? chosen : "all";
  get("choose").hidden = many < 2;
  choose();
}

/* Shows the chosen sample, or all. */
function choose() {
  const chosen = get("sample").value;
  [...get("samples").children].forEach((element, index) => {
    element.hidden = chosen !== "all" && chosen !== String(index + 1);
  });
}

/* Goes to a tick. */
function go(to) {
  position = Math.max(0, Math.min(to, ticks.length - 1));
  const said = !ticks.length ? "waiting for the first step" : axis === "step"
    ? `step ${ticks[position]} of ${ticks[ticks.length - 1]}`
    : `${ticks[position]} of ${count(ticks[ticks.length - 1], "network evaluation")}`;
  get("slider").value = String(position);
  get("slider").setAttribute("aria-valuetext", said);
  get("where").textContent = said;
  panels.forEach((panel) => panel.show(ticks[position]));
}

function setPlaying(on) {
  clearInterval(timer);
  timer = null;
  if (on && ticks.length > 1) {
    if (position === ticks.length - 1) go(0);
    const pause = Math.min(600, Math.max(60, (1000 * SECONDS_OF_PLAY) / ticks.length));
    timer = setInterval(() => {
      go(position + 1);
      if (position === ticks.length - 1) setPlaying(false);
    }, pause);
  }
  get("play").textContent = timer === null ? "Play" : "Pause";
  // A screen reader would fall behind if it read every step of a play.
  get("where").setAttribute("aria-live", timer === null ? "polite" : "off");
}

/* The keys, wherever the focus is, except where the focused element has its own use for them. */
function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
  const moves = { ArrowLeft: position - 1, ArrowRight: position + 1, Home: 0, End: ticks.length - 1 };
  if (event.key === " " && event.target.tagName !== "BUTTON") {
    setPlaying(timer === null);
  } else if (event.key in moves && !event.shiftKey) {
    setPlaying(false);
    go(moves[event.key]);
  } else {
    return;
  }
  event.preventDefault();
}

// ---------------------------------------------------------------------------------------------- data

/* Shows data. Who looks at the last state sees the new last one; else the place stays. */
function show(data) {
  const place = position < ticks.length - 1 ? ticks[position] : Infinity;
  const trajectories = data.models.flatMap((model) => model.trajectories);
  const states = trajectories.flatMap((trajectory) => trajectory.states);
  axis = data.models.length > 1 ? "evaluations" : "step";
  ticks = [...new Set(states.map((state) => state[axis]))].sort((a, b) => a - b);
  trajectories.forEach((trajectory) => findChanges(trajectory, data.tokens));
  const many = Math.max(0, ...data.models.map((model) => model.trajectories.length));
  panels = [];
  showModels(data);
  showLegend(data);
  get("samples").replaceChildren(
    ...[...Array(many).keys()].map((index) => makeSample(data, index, many)));
  showChoice(many);
  get("slider").max = String(Math.max(0, ticks.length - 1));
  get("slider").disabled = get("play").disabled = ticks.length < 2;
  get("slider").setAttribute("aria-label", axis === "step" ? "Step" : "Network evaluations");
  go(stateAt(ticks.map((tick) => ({ [axis]: tick })), place));
  setPlaying(timer !== null);
}

get("play").addEventListener("click", () => setPlaying(timer === null));
get("slider").addEventListener("input", () => {
  setPlaying(false);
  go(Number(get("slider").value));
});
get("sample").addEventListener("change", choose);
document.addEventListener("keydown", onKey);
window.addEventListener("resize", () => {
  document.querySelectorAll(".text").forEach((text) => { text.style.minHeight = ""; });
});
window.addEventListener("message", (event) => {
  if (event.source === window.parent && event.data && event.data.watch) show(event.data.watch);
});
show(JSON.parse(get("data").textContent));
if (window.parent !== window) {
  new ResizeObserver(() => window.parent.postMessage(
    { watchHeight: document.documentElement.offsetHeight }, "*")).observe(document.documentElement);
}
