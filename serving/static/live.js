// The service's metrics over the last minutes as small charts, three for each version.
import { element, pairs } from "./answer.js";

const SPAN_S = 300;
const LEAST_SPAN_S = 60; // Charts begin so long, and grow.
const RATE_S = 10; // A rate is over so long: over one poll it would jump.
const GAP_S = 15; // After so long without a poll (a hidden tab), what happened when is not known: a gap.
const WIDTH = 300;
const HEIGHT = 64;
const QUANTILES = { 0.5: "p50", 0.95: "p95", 0.99: "p99" };
const HUES = 6;

/** Samples of Prometheus' text format, each with the text that names its series. */
export function* parse(text) {
  for (const [, series, name, labels, value] of text.matchAll(/^(([a-zA-Z_:][\w:]*)(?:\{(.*)\})?) (\S+)/gm)) {
    const pairs = [...(labels ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)];
    const unescape = raw => raw.replace(/\\(.)/g, (_, one) => (one === "n" ? "\n" : one));
    yield { series, name, labels: Object.fromEntries(pairs.map(([, key, raw]) => [key, unescape(raw)])), value: Number(value) };
  }
}

const short = value => (value === null || Number.isNaN(value) ? "–" : value ? value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : 2) : "0");
const total = counts => Object.values(counts).reduce((sum, one) => sum + one, 0);
const titled = (model, version) => (version ? `${model} version ${version}` : model);

export class Live {
  #points = []; // {at, versions: {key: {model, version, requests, errors by type, rates, quantiles}}}
  #counters = new Map();
  #cards = new Map();
  #splits = new Map();

  /** Add what `/metrics` says at a time in seconds, and draw. */
  update(at, text, models) {
    this.#add(at, [...parse(text)]);
    const shown = this.#shown(models);
    this.#drawTotals();
    this.#drawVersions(shown);
    this.#drawSplits(shown);
  }

  #add(at, samples) {
    const before = this.#points.at(-1);
    const point = { at, known: before !== undefined && at - before.at < GAP_S, versions: {}, gauges: {} };
    const counters = new Map();
    const entry = ({ model, version }) => (point.versions[JSON.stringify([model, version])] ??= { model, version, requests: 0, errors: {} });
    const grown = ({ series, value }) => {
      counters.set(series, value);
      const last = this.#counters.get(series) ?? 0;
      // One that fell began anew: the service was started again.
      return !point.known ? 0 : value < last ? value : value - last;
    };
    for (const sample of samples) {
      const { name, labels, value } = sample;
      if (name === "tfpipe_requests_total") entry(labels).requests += grown(sample);
      else if (name === "tfpipe_errors_total") {
        const { errors } = entry(labels);
        errors[labels.type] = (errors[labels.type] ?? 0) + grown(sample);
      } else if (name === "tfpipe_latency_quantile_seconds" && QUANTILES[labels.quantile]) entry(labels)[QUANTILES[labels.quantile]] = 1000 * value;
      else if (name === "tfpipe_in_flight" || name === "tfpipe_queue_rows") point.gauges[name] = (point.gauges[name] ?? 0) + value;
    }
    this.#counters = counters;
    this.#points = [...this.#points.filter(one => one.at > at - SPAN_S), point];
    this.#addRates(point);
  }

  #addRates(point) {
    const window = this.#points.filter(one => one.known && one.at > point.at - RATE_S);
    const first = this.#points[this.#points.indexOf(window[0]) - 1] ?? window[0];
    const seconds = window.length ? point.at - first.at : 0;
    for (const [key, entry] of Object.entries(point.versions)) {
      const rate = count => (seconds > 0 ? window.reduce((sum, one) => sum + (one.versions[key] ? count(one.versions[key]) : 0), 0) / seconds : null);
      entry.requests_rps = rate(one => one.requests);
      entry.errors_rps = rate(one => total(one.errors));
    }
  }

  #shown(models) {
    const keys = new Set(models.map(one => JSON.stringify([one.name, one.version ?? ""])));
    for (const point of this.#points) {
      for (const [key, entry] of Object.entries(point.versions)) if (entry.model && entry.requests) keys.add(key);
    }
    return [...keys].sort((one, other) => one.localeCompare(other, "en", { numeric: true })).map(key => {
      const [model, version] = JSON.parse(key);
      const loaded = models.find(one => one.name === model && (one.version ?? "") === version);
      return { key, model, version, how: loaded ? [loaded.precision, loaded.provider].join(" · ") : "not loaded" };
    });
  }

  #values(key, field, missing = null) {
    return this.#points.map(({ at, known, versions }) => [at, known ? (versions[key]?.[field] ?? missing) : null]);
  }

  #drawTotals() {
    const { versions, gauges } = this.#points.at(-1);
    const sum = field => short(Object.values(versions).reduce((all, one) => all + (one[field] ?? 0), 0));
    const queue = gauges.tfpipe_queue_rows === undefined ? {} : { "Rows queued": gauges.tfpipe_queue_rows };
    document.getElementById("totals").replaceChildren(
      ...pairs({ "Requests a second": sum("requests_rps"), "Errors a second": sum("errors_rps"), "In flight": gauges.tfpipe_in_flight ?? 0, ...queue }),
    );
  }

  #drawVersions(shown) {
    keep(this.#cards, shown.map(one => one.key), document.getElementById("versions"), newCard);
    for (const { key, model, version, how } of shown) {
      const card = this.#cards.get(key);
      card.querySelector("h3").replaceChildren(titled(model, version), " ", element("small", how));
      const latencies = Object.fromEntries(Object.values(QUANTILES).map(name => [name, this.#values(key, name)]));
      this.#draw(card, "requests", "Requests a second", { "": this.#values(key, "requests_rps", 0) });
      this.#draw(card, "latency", "Milliseconds", latencies);
      this.#draw(card, "errors", "Errors a second", { "": this.#values(key, "errors_rps", 0) }, this.#errorTypes(key));
    }
  }

  #errorTypes(key) {
    const counts = {};
    for (const { versions } of this.#points) {
      for (const [type, count] of Object.entries(versions[key]?.errors ?? {})) counts[type] = (counts[type] ?? 0) + count;
    }
    return Object.entries(counts).filter(([, count]) => count).map(([type, count]) => `${count} ${type}`).join(", ");
  }

  #draw(card, chart, title, lines, note = "") {
    const figure = card.querySelector(`[data-chart=${chart}]`);
    const highest = Math.max(0, ...Object.values(lines).flat().map(([, value]) => value ?? 0));
    const now = Object.entries(lines).map(([name, values]) => [name, `${name} ${short(values.at(-1)[1])}`.trim()]);
    figure.querySelector("figcaption").replaceChildren(element("span", title), ...now.map(([name, text]) => {
      const part = element("b", text);
      part.dataset.line = name;
      return part;
    }));
    const paths = Object.entries(lines).map(([name, values]) => shape("path", { d: line(values, highest || 1), "data-line": name }));
    picture(figure.querySelector("svg"), `${title}: now ${now.map(([, text]) => text).join(", ")}; at most ${short(highest)}`, paths);
    figure.dataset.below = [`at most ${short(highest)}`, note].filter(Boolean).join(" · ");
  }

  #drawSplits(shown) {
    const several = Map.groupBy(shown, one => one.model);
    for (const [model, versions] of several) if (versions.length < 2) several.delete(model);
    keep(this.#splits, [...several.keys()], document.getElementById("splits"), newSplit);
    for (const [model, versions] of several) this.#drawSplit(this.#splits.get(model), model, versions.map(one => one.key));
  }

  #drawSplit(figure, model, keys) {
    const counts = keys.map(key => this.#points.reduce((sum, one) => sum + (one.versions[key]?.requests ?? 0), 0));
    const all = counts.reduce((sum, one) => sum + one, 0);
    const words = keys.map((key, index) => `version ${JSON.parse(key)[1]} ${all ? `${((100 * counts[index]) / all).toFixed(1)} %` : "–"}`);
    figure.querySelector("figcaption").replaceChildren(element("span", `Split of ${model}`), ...words.map((text, index) => {
      const part = element("b", text);
      part.dataset.hue = index % HUES;
      return part;
    }));
    const tracks = keys.map(key => this.#values(key, "requests_rps", 0));
    picture(figure.querySelector("svg"), `Split of ${model}: ${words.join(", ")}`, bands(tracks));
  }
}

function newCard() {
  return document.getElementById("version-card").content.firstElementChild.cloneNode(true);
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

function shape(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function picture(svg, label, shapes) {
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-label", label);
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

/** One on top of the other, at each time all of the height: a bar for each point with traffic. */
function bands(tracks) {
  const x = across(tracks[0]);
  return tracks.map((values, index) => {
    const d = values.slice(1).map(([at, value], place) => {
      const rates = tracks.map(track => track[place + 1][1] ?? 0);
      const all = rates.reduce((sum, one) => sum + one, 0);
      if (!all || !value) return "";
      const below = rates.slice(0, index).reduce((sum, one) => sum + one, 0) / all;
      const left = x(values[place][0]);
      return `M${left} ${up(below)}H${x(at)}V${up(below + value / all)}H${left}Z`;
    }).join("");
    return shape("path", { d, "data-hue": index % HUES });
  });
}
