// The page: takes in epochs and statuses as they come, and draws what has changed.

const KEPT = 1000, TOP = 20, SILENCE_MS = 6000;
const find = (id) => document.getElementById(id);
const make = (name, text, attributes = {}) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const set = (id, text) => { const element = find(id); if (element.textContent !== text) element.textContent = text; };

const whole = new Intl.NumberFormat("en-US");
const count = (value) => whole.format(Math.round(value));
function short(value) {
  if (value < 1000) return String(Math.round(value * 10) / 10);
  const units = ["", "k", "M", "G", "T"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(value) / 3));
  const scaled = value / 1000 ** power;
  const digits = scaled.toFixed(scaled < 10 ? 2 : scaled < 100 ? 1 : 0);
  return (digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits) + " " + units[power];
}
function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = value < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(value) / 10));
  const scaled = value / 1024 ** power;
  return (power && scaled < 100 ? scaled.toFixed(1) : Math.round(scaled)) + " " + units[power];
}
function time(ms) {
  if (ms < 1) return "0 ms";
  if (ms < 1000) return Math.round(ms) + " ms";
  if (ms < 60000) return (ms / 1000).toFixed(ms < 10000 ? 2 : 1).replace(/\.?0+$/, "") + " s";
  if (ms < 7200000) return Math.round(ms / 60000) + " min";
  return Math.round(ms / 3600000) + " h";
}
const plural = (number, one, more = one + "s") => `${count(number)} ${number === 1 ? one : more}`;

// The time of day at which an epoch ends, with its fraction where epochs are short.
function clock(ms) {
  const text = new Date(ms).toLocaleTimeString([], { hour12: false });
  return run.status && run.status.interval_ms % 1000 ? `${text}.${String(ms % 1000).padStart(3, "0")}` : text;
}

const run = { epochs: [], status: null, heard: 0, before: null, busy: new Map(), skew: 0, rate: null };

// --- charts -------------------------------------------------------------------------------------

const interval = () => (run.status ? run.status.interval_ms : null);
// An epoch is as long as the time since the one before, or the interval after a gap.
function lineRate(epoch) {
  return epoch.lines / ((epoch.length_ms || interval() || 1000) / 1000);
}
const when = (epoch, is_chosen) => (is_chosen ? clock(epoch.epoch) + ": " : "");
const charts = [
  new Chart(find("chart-rate"), {
    label: "Input rate", format: short,
    stacks: [{ value: lineRate }],
    summary: (epoch, chosen) => `${when(epoch, chosen)}${short(lineRate(epoch))} lines/s`,
  }),
  new Chart(find("chart-delay"), {
    label: "Total delay from the end of an epoch to its commit", format: time, limit: interval,
    stacks: [{ value: (epoch) => epoch.total_ms }],
    summary: (epoch, chosen) => `${when(epoch, chosen)}${time(epoch.total_ms)}`,
  }),
  new Chart(find("chart-stages"), {
    label: "Stages of an epoch", format: time, limit: interval,
    stacks: ["count", "write", "commit"].map((name) => ({ class: "stage-" + name, value: (epoch) => epoch[name + "_ms"] })),
    summary: (epoch, chosen) => `${when(epoch, chosen)}${[epoch.count_ms, epoch.write_ms, epoch.commit_ms].map(time).join(" · ")}`,
  }),
];

// --- epochs -------------------------------------------------------------------------------------

function takeEpochs(epochs) {
  const rows = [];
  for (const epoch of epochs) {
    const last = run.epochs[run.epochs.length - 1];
    if (last && epoch.epoch <= last.epoch) continue;
    const step = last ? epoch.epoch - last.epoch : interval();
    epoch.length_ms = step && interval() && step > 100 * interval() ? interval() : step;
    run.epochs.push(epoch);
    rows.unshift(row(epoch));
  }
  if (!rows.length) return;
  const body = find("rows");
  body.prepend(...rows.slice(0, KEPT));
  run.epochs.splice(0, Math.max(0, run.epochs.length - KEPT));
  while (body.children.length > KEPT) body.lastElementChild.remove();
  find("rows-empty").hidden = true;
  later(drawEpochs);
  later(fetchTop);
}

function row(epoch) {
  const tr = make("tr", undefined, { "data-epoch": epoch.epoch });
  const cell = (text, name, title) => {
    const td = make("td", text, name ? { class: name } : {});
    if (title) td.title = title;
    tr.append(td);
    return td;
  };
  cell(clock(epoch.epoch), "", `${new Date(epoch.epoch).toISOString()} (${epoch.epoch})`);
  cell(count(epoch.lines), "");
  cell(count(epoch.words), "");
  cell(count(epoch.rows), "wide");
  cell(bytes(epoch.bytes), "wide");
  cell(time(epoch.total_ms), interval() && epoch.total_ms > interval() ? "late" : "");
  cell([epoch.count_ms, epoch.write_ms, epoch.commit_ms].map(time).join(" · "), "wide");
  // The end of a path is what differs; the whole is its title.
  const place = epoch.path.includes("/") ? "…/" + epoch.path.split("/").pop() : epoch.path;
  cell(place || "nothing stored", epoch.path ? "path stored" : "path", epoch.path).dataset.path = epoch.path;
  tr.children[1].dataset.lines = epoch.lines;
  tr.children[2].dataset.words = epoch.words;
  tr.children[3].dataset.rows = epoch.rows;
  return tr;
}

function drawEpochs() {
  charts.forEach((chart) => chart.show(run.epochs));
  const last = run.epochs[run.epochs.length - 1];
  if (!last) return;
  set("delay", time(last.total_ms));
  set("delay-of", interval() ? `interval ${time(interval())}` : "");
  set("committed", `last ${clock(last.epoch)}`);
  set("kept", run.epochs.length >= KEPT ? `the last ${count(KEPT)}` : plural(run.epochs.length, "epoch"));
}

// --- top words ----------------------------------------------------------------------------------

let topAsked = 0, topWaits = false;
async function fetchTop() {
  const wait = topAsked + 1000 - Date.now();
  if (wait > 0) {
    if (!topWaits) setTimeout(() => { topWaits = false; later(fetchTop); }, wait);
    topWaits = true;
    return;
  }
  topAsked = Date.now();
  try {
    const answer = await fetch(`api/v1/top?k=${TOP}`);
    if (answer.ok) drawTop(await answer.json());
  } catch {
    // The stream of events notices that the run is away.
  }
}

function drawTop({ epoch, words }) {
  const list = find("top");
  find("top-empty").hidden = words.length > 0;
  list.dataset.epoch = epoch ?? "";
  set("top-of", epoch ? `of the epoch ending ${clock(epoch)}` : "");
  const most = words.length ? words[0].count : 1;
  list.replaceChildren(...words.map(({ word, count: times }) => {
    const item = make("li", undefined, { "data-word": word, "data-count": times });
    const bar = make("i");
    bar.style.width = `${Math.max(1, (100 * times) / most)}%`;
    const shown = word === "" ? make("span", "the empty word", { class: "none" }) : make("span", word, { title: word });
    item.append(bar, shown, make("b", count(times)));
    return item;
  }));
}

// --- status -------------------------------------------------------------------------------------

const TITLES = {
  store_away: "The output is out of reach", source_down: "A source is not connected",
  journal_full: "The journal is full", peer_lost: "Another process is lost",
};

function takeStatus(status) {
  const { before } = run;
  if (run.status && run.status.job !== status.job && run.status.job) location.reload();
  const seconds = before ? (performance.now() - before.at) / 1000 : 0;
  if (before && seconds > 0.2) {
    const same = status.started === before.status.started;
    run.rate = same ? {
      lines: Math.max(0, status.lines - before.status.lines) / seconds,
      words: Math.max(0, status.words - before.status.words) / seconds,
    } : null;
    const known = new Map(before.status.workers.map((worker) => [worker.worker, worker.busy_seconds]));
    for (const worker of status.workers) {
      if (known.has(worker.worker) && same) {
        run.busy.set(worker.worker, Math.max(0, Math.min(1, (worker.busy_seconds - known.get(worker.worker)) / seconds)));
      }
    }
  }
  if (!before || seconds > 0.5) run.before = { at: performance.now(), status };
  const was = run.status ? run.status.phase : "";
  run.status = status;
  run.skew = Date.now();
  if (was !== status.phase) find("live").textContent = status.sentence;
  later(drawStatus);
}

function drawStatus() {
  const { status } = run;
  if (!status) return;
  set("facts", [status.dataflow, `to ${status.output}`, `every ${time(status.interval_ms)}`].join(" · "));
  set("version", `wordtide ${status.version}`);
  document.title = `${status.phase === "counting" && !status.conditions.length ? "" : "● "}wordtide: ${status.dataflow}`;
  if (run.rate) {
    set("rate-lines", short(run.rate.lines));
    set("rate-words", `${short(run.rate.words)} words/s`);
  }
  set("in-flight", String(status.epochs_in_flight));
  set("total-words", short(status.words));
  set("total-lines", `in ${short(status.lines)} lines, ${bytes(status.bytes)}`);
  set("memory", bytes(status.memory_bytes));
  set("processes", plural(status.processes.length, "process", "processes"));
  const { journal } = status;
  set("journal", journal.max_bytes ? bytes(journal.bytes) : "none");
  set("journal-of", journal.max_bytes ? `of ${bytes(journal.max_bytes)}, ${bytes(journal.unsynced_bytes)} not synced` : "no state is kept");
  const share = journal.max_bytes ? journal.bytes / journal.max_bytes : 0;
  find("journal-bar").style.width = `${Math.min(100, 100 * share)}%`;
  find("journal-bar").classList.toggle("high", share > 0.8);
  drawBanners(status.conditions);
  drawSources(status);
  drawWorkers(status.workers);
  drawSentence();
  fetchOperators();
}

function drawBanners(conditions) {
  const key = (condition) => `${condition.kind} ${condition.since}`;
  const place = find("banners"), kept = new Map([...place.children].map((banner) => [banner.dataset.key, banner]));
  const wanted = new Set(conditions.map(key));
  for (const [known, banner] of kept) if (!wanted.has(known)) banner.remove();
  for (const condition of conditions) {
    let banner = kept.get(key(condition));
    if (!banner) {
      banner = make("div", undefined, { class: "banner", "data-wt": "banner", "data-kind": condition.kind, "data-key": key(condition) });
      banner.append(make("b", TITLES[condition.kind] ?? condition.kind), make("span"));
      place.append(banner);
    }
    const since = new Date(condition.since).toLocaleTimeString([], { hour12: false });
    const text = `since ${since}: ${condition.detail}`;
    if (banner.lastElementChild.textContent !== text) banner.lastElementChild.textContent = text;
  }
}

function drawSources({ sources }) {
  find("sources").replaceChildren(...sources.map((source) => {
    const item = make("li", undefined, { "data-source": source.id, "data-connected": String(source.connected) });
    const state = source.connected ? "" : "not connected, ";
    item.append(make("b", source.name, { title: `${source.kind}, read by process ${source.process}` }));
    item.append(make("span", `${state}${short(source.lines)} lines, ${bytes(source.bytes)}`));
    if (source.error) item.append(make("em", source.error));
    return item;
  }));
}

function drawWorkers(workers) {
  const list = find("workers");
  if (list.children.length !== workers.length) {
    list.replaceChildren(...workers.map((worker) => {
      const item = make("li", undefined, { "data-worker": worker.worker });
      const bar = make("div", undefined, { class: "bar", "aria-hidden": "true" });
      bar.append(make("i"));
      item.append(make("span", `worker ${worker.worker}`, { title: `in process ${worker.process}` }), bar, make("span", "–"));
      return item;
    }));
  }
  const shares = workers.map((worker) => run.busy.get(worker.worker) ?? 0);
  workers.forEach((worker, at) => {
    const item = list.children[at];
    item.dataset.busy = shares[at].toFixed(3);
    item.querySelector("i").style.width = `${100 * shares[at]}%`;
    item.lastElementChild.textContent = `${Math.round(100 * shares[at])} %`;
  });
  const mean = shares.reduce((sum, share) => sum + share, 0) / (shares.length || 1);
  const most = Math.max(0, ...shares);
  set("skew", shares.length > 1 && mean > 0.05 ? `busiest ${(most / mean).toFixed(1)} times the mean` : "");
}

// --- operators ----------------------------------------------------------------------------------

const OPERATORS = 8, OPERATORS_EVERY_MS = 2000, OPERATORS_OVER_MS = 10000;
const looks = [];
let operatorsAsked = 0;
async function fetchOperators() {
  if (document.hidden || Date.now() - operatorsAsked < OPERATORS_EVERY_MS) return;
  operatorsAsked = Date.now();
  try {
    const answer = await fetch("api/v1/operators");
    if (answer.ok) drawOperators((await answer.json()).operators);
  } catch {
    // The stream of events notices that the run is away.
  }
}

// The time of the dataflow itself goes to the order in which operators run, and to progress.
const operatorName = (name) => (name === "wordtide" ? "scheduling and progress" : name);

// Shares of the operators' time in the last seconds; of a run that idles, since its start.
function drawOperators(operators) {
  const busy = new Map();
  for (const { name, busy_seconds } of operators) busy.set(name, (busy.get(name) ?? 0) + busy_seconds);
  const at = performance.now(), first = looks[0]?.busy;
  if (first && [...first].some(([name, seconds]) => (busy.get(name) ?? 0) < seconds)) looks.length = 0;
  while (looks.length > 1 && looks[1].at <= at - OPERATORS_OVER_MS) looks.shift();
  const since = (old) => [...busy].map(([name, seconds]) => [name, seconds - (old?.get(name) ?? 0)]);
  const sum = (times) => times.reduce((total, [, seconds]) => total + seconds, 0);
  let times = since(looks[0]?.busy);
  const is_idle = !looks.length || sum(times) < 0.01 * (at - looks[0].at) / 1000;
  if (is_idle) times = since(null);
  looks.push({ at, busy });
  const all = sum(times) || 1;
  times.sort((a, b) => b[1] - a[1]);
  find("operators-card").hidden = !times.length;
  find("operators").replaceChildren(...times.slice(0, OPERATORS).map(([name, seconds]) => {
    const item = make("li", undefined, { "data-operator": name, "data-share": (seconds / all).toFixed(3) });
    const bar = make("div", undefined, { class: "bar", "aria-hidden": "true" });
    bar.append(make("i"));
    bar.firstChild.style.width = `${(100 * seconds) / all}%`;
    item.append(make("span", operatorName(name), { title: operatorName(name) }), bar, make("span", `${Math.round((100 * seconds) / all)} %`));
    return item;
  }));
  const [name, seconds] = times[0] ?? ["", 0];
  set("busiest", name ? `${operatorName(name)} takes ${Math.round((100 * seconds) / all)} % of their time${is_idle ? " since the start" : ""}` : "");
}

function drawSentence() {
  const state = document.querySelector(".state"), { status } = run;
  const silent = Date.now() - run.heard;
  if (run.heard && silent > SILENCE_MS) {
    state.dataset.phase = "lost";
    set("sentence", `no answer from the run for ${time(silent)}: trying again`);
    return;
  }
  if (!status) return;
  state.dataset.phase = status.phase;
  state.dataset.needs = status.conditions.length ? "attention" : "";
  const last = run.epochs[run.epochs.length - 1];
  const is_calm = status.phase === "counting" && !status.conditions.length && last;
  if (is_calm) {
    const age = Math.max(0, Date.now() - last.committed_at);
    set("sentence", `counting: last epoch committed ${age < 60000 ? (age / 1000).toFixed(1) + " s" : time(age)} ago`);
  } else {
    set("sentence", status.sentence);
  }
}

// --- drawing, at most once a frame and not while hidden ------------------------------------------

const due = new Set();
function later(draw) {
  if (!due.size) (document.hidden ? setTimeout : requestAnimationFrame)(() => {
    const all = [...due];
    due.clear();
    all.forEach((one) => one());
  }, 200);
  due.add(draw);
}

// --- the stream of events -----------------------------------------------------------------------

let stream = null;
function listen() {
  if (stream) stream.close();
  const last = run.epochs[run.epochs.length - 1];
  // From the last epoch on that this page has; a browser that connects again by itself says which.
  stream = new EventSource(`api/v1/events?after=${last ? last.epoch : 0}`);
  stream.addEventListener("epoch", (event) => { run.heard = Date.now(); collect(JSON.parse(event.data)); });
  stream.addEventListener("status", (event) => { run.heard = Date.now(); takeStatus(JSON.parse(event.data)); });
  stream.addEventListener("error", () => { if (stream.readyState === EventSource.CLOSED) again(); });
}

let waiting = null;
function again() {
  if (!waiting) waiting = setTimeout(() => { waiting = null; listen(); }, 1500);
}

let batch = [];
function collect(epoch) {
  if (!batch.length) setTimeout(() => { const all = batch; batch = []; takeEpochs(all); }, 30);
  batch.push(epoch);
}

setInterval(() => {
  drawSentence();
  if (run.heard && Date.now() - run.heard > SILENCE_MS && !waiting) again();
}, 500);
listen();
later(fetchTop);
