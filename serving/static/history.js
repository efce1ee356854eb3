// What /metrics said over the last minutes, as rates and shares for each version; knows nothing of the page.
export const SPAN_S = 300;
const RATE_S = 10; // A rate is over so long: over one poll it would jump.
const GAP_S = 15; // After so long without a poll (a hidden tab), what happened when is not known.
const GAUGES = { tfpipe_in_flight: "in_flight", tfpipe_queue_rows: "queue_rows" };
const plain = raw => raw.replace(/\\(.)/g, (_, one) => (one === "n" ? "\n" : one));

/** Samples of Prometheus' text format; `series` is the text that names each. */
export function* parse(text) {
  for (const [, series, name, labels = "", value] of text.matchAll(/^(([a-zA-Z_:][\w:]*)(?:\{(.*)\})?) (\S+)/gm)) {
    const pairs = [...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, raw]) => [key, plain(raw)]);
    yield { series, name, labels: Object.fromEntries(pairs), value: Number(value) };
  }
}

const add = (counts, type, count) => (counts[type] = (counts[type] ?? 0) + count);
export const keyOf = (model, version) => JSON.stringify([model, version ?? ""]);
const sum = numbers => numbers.reduce((all, one) => all + one, 0);

export class History {
  // {at, known, gauges, versions: {key: {requests, errors: {type: count}, requests_rps, errors_rps, p50, p95, p99}}}
  #points = [];
  #counters = new Map();

  /** Add what was said at a time in seconds. */
  add(at, text) {
    const before = this.#points.at(-1);
    const point = { at, known: before !== undefined && at - before.at < GAP_S, gauges: {}, versions: {} };
    const counters = new Map();
    for (const { series, name, labels, value } of parse(text)) {
      const entry = () => (point.versions[keyOf(labels.model, labels.version)] ??= { requests: 0, errors: {} });
      const grown = () => {
        counters.set(series, value);
        const last = this.#counters.get(series) ?? 0;
        // One that fell began anew: the service was started again.
        return !point.known ? 0 : value < last ? value : value - last;
      };
      if (name === "tfpipe_requests_total") entry().requests += grown();
      else if (name === "tfpipe_errors_total") add(entry().errors, labels.type, grown());
      else if (name === "tfpipe_latency_quantile_seconds") entry()[`p${100 * labels.quantile}`] = 1000 * value;
      else if (name in GAUGES) add(point.gauges, GAUGES[name], value);
    }
    this.#counters = counters;
    this.#points = [...this.#points.filter(one => one.at > at - SPAN_S), point];
    this.#addRates(point);
  }

  #addRates(point) {
    const window = this.#points.filter(one => one.known && one.at > point.at - RATE_S);
    const seconds = window.length ? point.at - this.#points[this.#points.indexOf(window[0]) - 1]?.at : 0;
    for (const [key, entry] of Object.entries(point.versions)) {
      const those = window.flatMap(one => one.versions[key] ?? []);
      const rate = count => (seconds ? sum(those.map(count)) / seconds : null);
      entry.requests_rps = rate(one => one.requests);
      entry.errors_rps = rate(one => sum(Object.values(one.errors)));
    }
  }

  get last() {
    return this.#points.at(-1);
  }

  get seconds() {
    return this.last.at - this.#points[0].at;
  }

  /** [[seconds, value or null], ...] of one version. */
  values(key, field, missing = null) {
    return this.#points.map(({ at, known, versions }) => [at, known ? (versions[key]?.[field] ?? missing) : null]);
  }

  /** A rate now, of all versions and of what reached none. */
  rate(field) {
    return sum(Object.values(this.last.versions).map(one => one[field] ?? 0));
  }

  requests(key) {
    return sum(this.#points.map(one => one.versions[key]?.requests ?? 0));
  }

  /** {type: count} of one version. */
  errors(key) {
    const counts = {};
    for (const { versions } of this.#points) {
      for (const [type, count] of Object.entries(versions[key]?.errors ?? {})) add(counts, type, count);
    }
    return counts;
  }

  /** Keys of the versions that had requests. */
  get keys() {
    const seen = new Set(this.#points.flatMap(one => Object.keys(one.versions)));
    return [...seen].filter(key => JSON.parse(key)[0] && this.requests(key));
  }
}
