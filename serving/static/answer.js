// Shows one answer or one error; all text goes through textContent.
const SHOWN = 10;
const HUES = 6;
const $ = id => document.getElementById(id);
const percent = share => `${(100 * share).toFixed(1)} %`;
const milliseconds = value => `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;

export function element(tag, content) {
  const made = document.createElement(tag);
  made.append(content);
  return made;
}

function say(text, kind) {
  $("said").textContent = text;
  $("answer").dataset.kind = kind;
}

function clear() {
  for (const id of ["marked", "bars", "more", "timing", "facts"]) $(id).hidden = true;
}

export function showWaiting() {
  $("answer").setAttribute("aria-busy", "true");
}

export function showError(error, response) {
  $("answer").removeAttribute("aria-busy");
  clear();
  const seconds = response?.headers.get("Retry-After");
  say(error.message + (seconds ? ` Try again in ${seconds} s.` : ""), "error");
  if (response) facts({ Status: response.status, Code: error.code, Request: error.request_id });
}

export function showAnswer(answer, { text, elapsed_ms, timing }) {
  $("answer").removeAttribute("aria-busy");
  clear();
  const [prediction] = answer.predictions;
  if (prediction.entities) mark(prediction.entities, text);
  else bars(prediction.probabilities);
  say(summary(prediction), "answer");
  showTiming(timing ?? "", elapsed_ms);
  const version = answer.model_version ?? "not registered";
  facts({
    Model: answer.model_name, Version: version, Precision: answer.precision, Provider: answer.provider,
    Bundle: answer.bundle, Request: answer.request_id,
  });
}

function summary({ entities, labels, label, score }) {
  if (entities) return entities.length === 1 ? "1 entity" : `${entities.length || "No"} entities`;
  if (labels) return labels.map(one => one.label).join(", ") || "No label of at least 50 %";
  return `${label}, ${percent(score)}`;
}

function bars(probabilities) {
  // Best first as sent, but JavaScript puts keys that are integers in their own order.
  const all = Object.entries(probabilities).sort((one, other) => other[1] - one[1]);
  $("bars").tBodies[0].replaceChildren(...all.slice(0, SHOWN).map(([label, probability]) => {
    const row = document.createElement("tr");
    const name = element("th", label);
    name.scope = "row";
    const value = element("td", element("span", percent(probability)));
    value.style.setProperty("--share", probability);
    row.append(name, value);
    return row;
  }));
  $("bars").hidden = false;
  $("more").hidden = all.length <= SHOWN;
  const rest = all.slice(SHOWN);
  if (rest.length) $("more").textContent = `and ${rest.length} more, none above ${percent(rest[0][1])}`;
}

function mark(entities, text) {
  // Places count code points, strings of JavaScript UTF-16 units.
  const characters = Array.from(text);
  const kinds = [...new Set(entities.map(one => one.label))].sort();
  const parts = [];
  let end = 0;
  for (const entity of entities) {
    const marked = element("mark", characters.slice(entity.start, entity.end).join(""));
    marked.dataset.hue = kinds.indexOf(entity.label) % HUES;
    marked.append(element("small", ` ${entity.label} ${percent(entity.score)}`));
    parts.push(characters.slice(end, entity.start).join(""), marked);
    end = entity.end;
  }
  $("marked").replaceChildren(...parts, characters.slice(end).join(""));
  $("marked").hidden = false;
}

function showTiming(header, elapsed_ms) {
  const stages = [...header.matchAll(/([\w-]+);dur=([\d.]+)/g)].map(([, name, raw]) => [name, Number(raw)]);
  const total = stages.find(([name]) => name === "total")?.[1] ?? 0;
  const shown = stages.filter(([name]) => name !== "total");
  shown.push(["other", Math.max(0, total - shown.reduce((sum, [, value]) => sum + value, 0))]);
  $("timing-title").textContent = `${milliseconds(total)} in the service, ${milliseconds(elapsed_ms)} as seen from here`;
  $("stages").replaceChildren(...shown.map(([name, value]) => {
    const part = element("span", "");
    part.dataset.stage = name;
    part.style.flexGrow = value;
    return part;
  }));
  $("legend").replaceChildren(...shown.map(([name, value]) => {
    const item = element("li", name);
    item.dataset.stage = name;
    item.append(element("b", milliseconds(value)));
    return item;
  }));
  $("timing").hidden = false;
}

function facts(entries) {
  $("facts").replaceChildren(...pairs(entries));
  $("facts").hidden = false;
}

export function pairs(entries) {
  return Object.entries(entries).map(([name, value]) => {
    const pair = element("div", element("dt", name));
    pair.append(element("dd", String(value ?? "")));
    return pair;
  });
}
