// Small charts of the last minutes: three for each version, and how a model's requests are split between versions.
import { element, pairs } from "./answer.js";
import { History, keyOf } from "./history.js";

const LEAST_SPAN_S = 60; // Charts begin so long, and grow.
const WIDTH = 300;
const HEIGHT = 64;
const HUES = 6;
const $ = id => document.getElementById(id);

function short(value) {
  if (value === null) return "–";
  return value ? value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2) : "0";
}

export class Live {
  #history = new History();
  #cards = new Map();
  #splits = new Map();

  /** Add what /metrics says at a time in seconds, and draw it and the models of /health. */
  update(at, text, models) {
    this.#history.add(at, text);
    const shown = this.#shown(models);
    this.#drawTotals();
    keep(this.#cards, shown.map(one => one.key), $("versions"), newCard);
    for (const one of shown) this.#drawVersion(this.#cards.get(one.key), one);
    const several = [...new Set(shown.map(one => one.model))]
      .map(model => [model, shown.filter(one => one.model === model)])
      .filter(([, versions]) => versions.length > 1);
    keep(this.#splits, several.map(([model]) => model), $("splits"), newSplit);
    for (const [model, versions] of several) this.#drawSplit(this.#splits.get(model), model, versions);
  }

  #shown(models) {
    const loaded = new Map(models.map(one => [keyOf(one.name, one.version), `${one.precision} · ${one.provider}`]));
    const keys = [...new Set([...loaded.keys(), ...this.#history.keys])];
    return keys.sort((one, other) => one.localeCompare(other, "en", { numeric: true })).map(key => {
      const [model, version] = JSON.parse(key);
      return { key, model, version, how: loaded.get(key) ?? "not loaded" };
    });
  }

  #drawTotals() {
    const minutes = Math.round(this.#history.seconds / 60);
    $("live-title").textContent = `Live, the last ${minutes > 1 ? `${minutes} minutes` : "minute"}`;
    const { in_flight = 0, queue_rows } = this.#history.last.gauges;
    $("totals").replaceChildren(...pairs({
      "Requests a second": short(this.#history.rate("requests_rps")),
      "Errors a second": short(this.#history.rate("errors_rps")),
      "In flight": in_flight,
      ...(queue_rows === undefined ? {} : { "Rows queued": queue_rows }),
    }));
  }

  #drawVersion(card, { key, model, version, how }) {
    const history = this.#history;
    const title = version ? `${model} version ${version}` : model;
    card.querySelector("h3").replaceChildren(title, " ", element("small", how));
    const errors = Object.entries(history.errors(key)).filter(([, count]) => count);
    const types = errors.map(([type, count]) => `${count} ${type}`).join(", ");
    const latencies = ["p50", "p95", "p99"].map(name => [name, history.values(key, name)]);
    drawChart(card, "requests", "Requests a second", [["", history.values(key, "requests_rps", 0)]]);
    drawChart(card, "latency", "Milliseconds", latencies);
    drawChart(card, "errors", "Errors a second", [["", history.values(key, "errors_rps", 0)]], types);
  }

  #drawSplit(figure, model, versions) {
    const counts = versions.map(one => this.#history.requests(one.key));
    const all = counts.reduce((sum, one) => sum + one, 0);
    const words = versions.map(({ version }, index) => {
      const share = all ? `${((100 * counts[index]) / all).toFixed(1)} %` : "–";
      return `version ${version || "not registered"} ${share}`;
    });
    const legend = words.map((text, index) => {
      const part = element("b", text);
      part.dataset.hue = index % HUES;
      return part;
    });
    figure.querySelector("figcaption").replaceChildren(element("span", `Split of ${model}`), ...legend);
    const tracks = versions.map(one => this.#history.values(one.key, "requests_rps", 0));
    picture(figure, `Split of ${model}: ${words.join(", ")}`, bands(tracks));
  }
}

function newCard() {
  return $("version-card").content.firstElementChild.cloneNode(true);
}

function newSplit() {
  const figure = document.createElement("figure");
  figure.append(document.createElement("figcaption"), shape("svg", { role: "img" }));
  return figure;
}

/** Elements by key, in order, inside a parent: made where missing, removed where no longer wanted. */
function keep(elements, keys, parent, make) {
  if (keys.join() === [...elements.keys()].join()) return;
  const kept = keys.map(key => [key, elements.get(key) ?? make()]);
  elements.clear();
  for (const [key, value] of kept) elements.set(key, value);
  parent.replaceChildren(...elements.values());
}

function drawChart(card, chart, title, lines, note = "") {
  const figure = card.querySelector(`[data-chart=${chart}]`);
  const highest = Math.max(0, ...lines.flatMap(([, values]) => values.map(([, value]) => value ?? 0)));
  const now = lines.map(([name, values]) => [name, `${name} ${short(values.at(-1)[1])}`.trim()]);
  figure.querySelector("figcaption").replaceChildren(element("span", title), ...now.map(([name, text]) => {
    const part = element("b", text);
    part.dataset.line = name;
    return part;
  }));
  const paths = lines.map(([name, values]) => shape("path", { d: line(values, highest || 1), "data-line": name }));
  picture(figure, `${title}: now ${now.map(([, text]) => text).join(", ")}; at most ${short(highest)}`, paths);
  figure.dataset.below = [`at most ${short(highest)}`, note].filter(Boolean).join(" · ");
}

function shape(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function picture(figure, label, shapes) {
  const svg = figure.querySelector("svg");
  const attributes = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-label": label };
  for (const [name, value] of Object.entries(attributes)) svg.setAttribute(name, value);
  svg.replaceChildren(...shapes);
}

function across(values) {
  const [first, last] = [values[0][0], values.at(-1)[0]];
  const span = Math.max(LEAST_SPAN_S, last - first);
  return at => (WIDTH * (1 - (last - at) / span)).toFixed(1);
}

const up = share => (HEIGHT - 1 - (HEIGHT - 2) * share).toFixed(1);

function line(values, highest) {
  const x = across(values);
  let pen = "M";
  return values.map(([at, value]) => {
    const step = value === null ? "" : `${pen}${x(at)} ${up(value / highest)}`;
    pen = value === null ? "M" : "L";
    return step;
  }).join("");
}

/** One on top of the other, all of the height together: a bar for each point with traffic. */
function bands(tracks) {
  const x = across(tracks[0]);
  return tracks.map((values, index) => {
    const d = values.slice(1).map(([at, value], place) => {
      const rates = tracks.map(track => track[place + 1][1] ?? 0);
      const all = rates.reduce((sum, one) => sum + one, 0);
      if (!value) return "";
      const below = rates.slice(0, index).reduce((sum, one) => sum + one, 0) / all;
      const left = x(values[place][0]);
      return `M${left} ${up(below)}H${x(at)}V${up(below + value / all)}H${left}Z`;
    }).join("");
    return shape("path", { d, "data-hue": index % HUES });
  });
}
