// Asks the service, and polls its state. Paths are relative: a proxy may serve it under a prefix.
import { showAnswer, showError, showWaiting } from "./answer.js";
import { Live } from "./live.js";

const POLL_MS = 2000;
const PATIENCE_MS = 5000; // A service that takes longer to say how it fares is as good as away.
const $ = id => document.getElementById(id);
const live = new Live();
let models = [];
let described = "";
let repeat = null; // The last question, asked again once there is a key.
let asking = new AbortController();

function chosen() {
  const [name, version] = [$("model").value, $("version").value];
  return models.find(one => one.name === name && (!version || one.version === version));
}

function query() {
  const parameters = new URLSearchParams();
  if (!$("model-choice").hidden) parameters.set("model_name", $("model").value);
  if ($("version").value) parameters.set("model_version", $("version").value);
  return String(parameters) && `?${parameters}`;
}

function fill(select, entries) {
  const before = select.value;
  select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  if (entries.some(([value]) => value === before)) select.value = before;
  select.parentElement.hidden = entries.length < 2;
}

function offer() {
  fill($("model"), [...new Set(models.map(one => one.name))].map(name => [name, name]));
  offerVersions();
}

function offerVersions() {
  const versions = models.filter(one => one.name === $("model").value && one.version);
  const named = versions.map(({ version, aliases }) => [version, [version, ...aliases].join(", ")]);
  fill($("version"), versions.length > 1 ? [["", "as routed"], ...named] : [["", ""]]);
  offerForm();
}

function offerForm() {
  const takes = chosen()?.takes;
  $("image-form").hidden = takes !== "image";
  $("text-form").hidden = takes !== "text";
  $("tensors").hidden = takes !== "tensors";
  const body = takes === "text" ? `-H 'Content-Type: application/json' -d '{"text": "..."}'` : "-F file=@image.png";
  const key = $("key-form").hidden ? "" : "-H 'Authorization: Bearer KEY' ";
  $("curl").textContent = `curl ${key}${body} '${new URL(`predict${query()}`, document.baseURI)}'`;
  $("curl").parentElement.hidden = takes === "tensors";
}

function showStatus(status) {
  if ($("status").textContent === status) return; // Said again, it would be read out again.
  $("status").dataset.status = status;
  $("status").textContent = status;
}

async function poll() {
  if (document.hidden) return;
  try {
    const patience = { signal: AbortSignal.timeout(PATIENCE_MS) };
    const [health, metrics] = await Promise.all([fetch("health", patience), fetch("metrics", patience)]);
    const state = await health.json();
    showStatus(state.status);
    models = state.models;
    if (JSON.stringify(models) !== described) {
      described = JSON.stringify(models);
      offer();
    }
    live.update(performance.now() / 1000, await metrics.text(), models);
  } catch {
    showStatus("unreachable");
  }
}

async function ask(body, headers, text) {
  repeat = () => ask(body, headers, text);
  asking.abort();
  const { signal } = (asking = new AbortController());
  const key = $("key").value ? { Authorization: `Bearer ${$("key").value}` } : {};
  showWaiting();
  const started = performance.now();
  try {
    const sent = { method: "POST", body, headers: { ...headers, ...key }, signal };
    const response = await fetch(`predict${query()}`, sent);
    const answer = await response.json();
    const elapsed_ms = performance.now() - started;
    if (response.ok) return showAnswer(answer, { text, elapsed_ms, timing: response.headers.get("Server-Timing") });
    showError(answer.error, response);
    if (response.status === 401) askForKey();
  } catch (error) {
    if (!signal.aborted) showError({ message: `The service did not answer: ${error.message}` });
  }
}

function askForKey() {
  $("key-form").hidden = false;
  $("key").select();
  offerForm();
}

function askFile(file, text) {
  const form = new FormData();
  form.append("file", file);
  return ask(form, {}, text);
}

function askText() {
  const text = $("text").value;
  ask(JSON.stringify({ text }), { "Content-Type": "application/json" }, text);
}

async function take(file) {
  if (!file) return;
  if (!$("text-form").hidden) {
    // Places of entities count a byte order mark, which Blob.text() drops.
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(await file.arrayBuffer());
    $("text").value = text;
    askFile(file, text);
  } else if (!$("image-form").hidden) {
    URL.revokeObjectURL($("preview").src);
    $("preview").src = URL.createObjectURL(file);
    $("preview").hidden = false;
    askFile(file);
  }
}

$("model").onchange = offerVersions;
$("version").onchange = offerForm;
$("file").onchange = event => {
  take(event.target.files[0]);
  event.target.value = ""; // So that the same file can be chosen again.
};
$("preview").onerror = () => { $("preview").hidden = true; };
$("text-form").onsubmit = event => { event.preventDefault(); askText(); };
$("text").onkeydown = event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) askText(); };
$("key-form").onsubmit = event => { event.preventDefault(); repeat?.(); };
document.onpaste = ({ clipboardData: { files, types } }) => {
  // Programs that copy a text may add a picture of it.
  if ($("text-form").hidden || !types.includes("text/plain")) take(files[0]);
};
document.ondragover = event => { event.preventDefault(); document.body.classList.add("over"); };
document.ondragleave = event => { if (!event.relatedTarget) document.body.classList.remove("over"); };
document.ondrop = event => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files[0]);
};
document.onvisibilitychange = poll;
(async function watch() {
  await poll();
  setTimeout(watch, POLL_MS);
})();
