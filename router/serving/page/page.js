// The page: asking and its answer, the specialists, and live figures.

import { Failed, askKey, events, json } from "./api.js";
import { accuracy, count, make, routeBars, share, sparkline } from "./charts.js";

const $ = (id) => document.getElementById(id);
const question = $("question");
const BARS = 8; // bars of a route; the rest are nearly nothing and would push the page down
const EXAMPLES = 5;
const KEPT = 8; // earlier questions on the page
const EVERY = 2000; // milliseconds between looks at the figures
const WINDOW = 120, BUCKET = 4; // seconds of the sparkline, and of one of its points
const byKeys = matchMedia("(pointer: fine)").matches; // no phone
let running = null; // the AbortController of the answer under way
let known = []; // the specialists, as last heard

const tell = (kind, text) => {
  $("answer").dataset.kind = kind;
  $("answer").textContent = text;
};

// --- Asking ---------------------------------------------------------------------------------------------------------

async function ask() {
  const text = question.value.trim();
  if (!text) return question.focus();
  running?.abort();
  const mine = (running = new AbortController());
  if (!byKeys) question.blur(); // puts the keyboard of a phone away
  const entry = { question: text, said: "", routed: false };
  $("send").textContent = "Stop";
  clear();
  try {
    await answer(text, mine, entry);
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (!stopped && !(error instanceof Failed)) console.error(error); // a fault of this page
    entry.said = stopped ? "Stopped." : error.message;
    if (running === mine) {
      tell(stopped ? "note" : "error", entry.said);
      if (!entry.routed) clearRoute(); // it was the one of the question before
    }
  }
  keep(entry);
  if (running !== mine) return; // a newer question has the page
  running = null;
  $("send").textContent = "Ask";
  specialists();
}

function clear() {
  tell("busy", "Working…");
  $("work").textContent = "";
  $("who").textContent = "";
  $("facts").textContent = "";
}

async function answer(text, mine, entry) {
  const body = {
    model: $("model").value,
    messages: [{ role: "user", content: text }],
    stream: true,
    stream_options: { include_usage: true },
  };
  let told = null, used = null;
  for await (const event of events("v1/chat/completions", body, mine.signal)) {
    if (running !== mine) return;
    if (event.router && !told) showRoute(event.router);
    if (event.router) told = event.router;
    entry.routed = told !== null;
    if (event.usage) used = event.usage;
    const piece = event.choices?.[0]?.delta?.content;
    if (piece) write(piece);
  }
  if (running === mine) finish(told || {}, used || {}, entry);
}

/** Add text to the worked solution, and follow its end unless the reader has scrolled up. */
function write(piece) {
  const work = $("work");
  const follows = work.scrollHeight - work.scrollTop - work.clientHeight < 40;
  work.append(piece);
  if (follows) work.scrollTop = work.scrollHeight;
}

function finish(told, used, entry) {
  const text = told.text || $("work").textContent;
  const kinds = {
    unparsed: "No answer could be read from what was written.",
    truncated: "The text was cut short before its answer.",
    refused: `Refused: ${(told.reason ?? "no specialist fits this question").replace(/\.$/, "")}.`,
  };
  if (!$("work").textContent) write(text);
  if (kinds[told.status]) tell("note", (entry.said = kinds[told.status]));
  else {
    const said = String(told.answer ?? text).trim();
    // A text of many words is below already, and would be a wall of large letters.
    if (!told.specialist && said.length > 120) tell("note", `${told.model || "The base"} answered, below.`);
    else tell(said.length > 24 ? "long" : "answer", said || "The answer is empty.");
    entry.said = said;
  }
  const tokens = told.tokens ?? used.completion_tokens;
  if (tokens === undefined) return;
  const facts = [`${count(tokens)} tokens`];
  if (told.seconds) facts.push(`${told.seconds.toFixed(2)} s`, `${count(tokens / told.seconds)} tokens/s`);
  $("facts").textContent = facts.join(" · ");
}

function showRoute(route) {
  const chosen = route.specialist;
  const sure = route.confidence === null ? "" : `, confidence ${route.confidence.toFixed(2)}`;
  $("who").textContent = chosen ? `${chosen} ${route.version ?? ""}${sure}` : sure ? "no specialist fits" : "the base";
  $("reason").textContent = route.reason ?? "";
  const scores = { ...route.scores };
  if (!route.scores && route.confidence !== null) {
    if (chosen) scores[chosen] = route.confidence;
    if (route.runner_up) scores[route.runner_up.specialist] = route.runner_up.confidence;
  }
  showBars(scores, chosen, route.threshold);
  $("near").replaceChildren(...(route.exemplars ?? []).map((near) => make("li", {},
    make("q", { title: near.text }, near.text), make("span", {}, `${near.specialist} ${near.similarity.toFixed(2)}`))));
}

function clearRoute() {
  showBars({}, null, null);
  $("reason").textContent = "";
  $("near").replaceChildren();
}

function showBars(scores, chosen, threshold) {
  const names = new Set([...(chosen ? [chosen] : []), ...Object.keys(scores), ...known.map((one) => one.name)]);
  const rows = [...names].map((name) => [name, scores[name] ?? null, name === chosen]);
  rows.sort((a, b) => (b[1] ?? -1) - (a[1] ?? -1));
  $("bars").replaceChildren(routeBars(rows.slice(0, BARS), threshold));
  if (rows.length > BARS) $("bars").append(make("p", { class: "faint" }, `and ${rows.length - BARS} more`));
}

/** Put a question at the head of the earlier ones; a click brings it back into the box. */
function keep({ question: text, said }) {
  const list = $("earlier").querySelector("ul");
  const again = make("button", { type: "button" }, make("span", {}, text), make("span", { class: "faint" }, said));
  again.addEventListener("click", () => {
    question.value = text;
    question.focus();
  });
  list.prepend(make("li", {}, again));
  while (list.children.length > KEPT) list.lastChild.remove();
  $("earlier").hidden = false;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running && event.submitter) running.abort();
  else ask();
});
question.addEventListener("keydown", (event) => {
  // An Enter that ends the composing of a character (Chinese, Japanese) is not the end of the question.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
document.addEventListener("keydown", (event) => {
  if ($("dialog").open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") running?.abort();
  if (event.key === "/" && !event.target.closest("input, textarea, select")) {
    event.preventDefault();
    question.focus();
  }
});
$("key").addEventListener("click", async () => {
  if (await askKey("It goes with every request of this page.")) specialists();
});

// --- Specialists ----------------------------------------------------------------------------------------------------

let drawn = ""; // what the cards show, without what changes with every answer

async function specialists() {
  try {
    known = await json("specialists");
  } catch (error) {
    if (!drawn) $("cards").replaceChildren(make("p", { class: "faint" }, error.message));
    return;
  }
  const lasting = JSON.stringify(known.map((one) => ({ ...one, served: 0 })));
  // Cards that stay the same stay where they are, so that an open list of examples is not shut.
  if (lasting !== drawn) {
    drawn = lasting;
    drawSpecialists();
  }
  known.forEach((one, at) => {
    $("cards").children[at].querySelector(".served").textContent = `${count(one.served)} answered`;
  });
}

function drawSpecialists() {
  $("cards").replaceChildren(...known.map(card));
  const seen = new Set(["auto", "base"]);
  const models = known.map((one) => (seen.has(one.name) ? `${one.name}@${one.version}` : (seen.add(one.name), one.name)));
  const before = $("model").value;
  $("model").replaceChildren(...["auto", "base", ...models].map((name) => make("option", {}, name)));
  $("model").value = [...$("model").options].some((option) => option.value === before) ? before : "auto";
  const short = known.map((one) => one.exemplars.filter((text) => text.length < 64));
  const examples = [0, 1, 2].flatMap((at) => short.map((texts) => texts[at]).filter(Boolean)); // of each in turn
  $("examples").replaceChildren(...[...new Set(examples)].slice(0, EXAMPLES).map((text) => make("li", {}, example(text))));
  if (!$("bars").firstChild) showBars({}, null, null);
}

function example(text) {
  const button = make("button", { type: "button", class: "chip" }, text);
  button.addEventListener("click", () => {
    question.value = text;
    ask();
  });
  return button;
}

function card(one) {
  const asked = make("details", {}, make("summary", {}, `${count(one.exemplars.length)} example questions`),
    make("ul", {}, ...one.exemplars.map((text) => make("li", {}, text))));
  return make("article", {},
    make("h3", {}, one.name, make("small", {}, ` ${one.version}${one.channel ? ` ${one.channel}` : ""}`),
      make("span", { class: "served" })),
    make("p", {}, one.description),
    make("p", { class: "measured" },
      one.accuracy === null ? "Not measured yet." : make("b", {}, share(one.accuracy)),
      one.interval ? ` (${one.interval.map((end) => (100 * end).toFixed(1)).join("–")})` : null,
      one.n ? ` right of ${count(one.n)}` : null),
    one.accuracy === null ? make("div") : accuracy(one),
    make("p", { class: "note" }, one.note ?? ""),
    asked);
}

// --- Live -----------------------------------------------------------------------------------------------------------

const dollars = (sum) => (sum > 0 && sum < 0.0001 ? "<$0.0001" : `$${sum.toFixed(sum < 1 ? 4 : 2)}`);

function duration(seconds) {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
}

/** Where a question goes: nobody should be surprised that one leaves this machine. */
function whereTo(fallback) {
  const ends = {
    base: ", or to the base model where none does.",
    none: ". Where none does, it is refused.",
  };
  return `A question goes to the specialist that fits${ends[fallback] ?? `. Where none does, it is sent to ${fallback} of Anthropic.`}`;
}

function showStats(stats) {
  if ($("goes").textContent !== whereTo(stats.fallback)) $("goes").textContent = whereTo(stats.fallback);
  const savings = stats.savings;
  const numbers = [
    ["under way", count(stats.under_way)], ["waiting", count(stats.waiting)], ["requests", count(stats.requests)],
    ["tokens", count(stats.tokens)], ["refused", count(stats.refused)], ["up", duration(stats.uptime_seconds)],
    [`saved, at ${savings.model}'s prices${savings.prices_as_of ? ` of ${savings.prices_as_of}` : ""}`, dollars(savings.dollars)],
    ...(stats.spent ? [["spent on answers from elsewhere", dollars(stats.spent)]] : []),
  ];
  $("numbers").replaceChildren(...numbers.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  const buckets = new Array(WINDOW / BUCKET).fill(0);
  for (const [ago, tokens] of stats.recent) {
    if (ago >= 0 && ago < WINDOW) buckets[buckets.length - 1 - Math.floor(ago / BUCKET)] += tokens / BUCKET;
  }
  $("speed").textContent = count(buckets.at(-1));
  $("spark").replaceChildren(sparkline(buckets));
  const rows = Object.entries(stats.per_specialist).map(([name, one]) => make("tr", {}, make("th", { scope: "row" }, name),
    ...[one.requests, one.tokens, one.tokens_per_second].map((value) => make("td", {}, value === null ? "–" : count(value)))));
  const head = ["", "requests", "tokens", "tokens/s"].map((title) => make("th", { scope: "col" }, title));
  $("shares").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
}

let timer = 0;

/** What is wrong with the server; the same again is not written again, or a screen reader would repeat it. */
function say(trouble) {
  if ($("trouble").textContent !== trouble) $("trouble").textContent = trouble;
}

async function watch() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const stats = await json("stats");
    showStats(stats);
    say((stats.problems ?? []).join(" "));
  } catch (error) {
    say(error.message);
  }
  clearTimeout(timer); // two may have been under way when the page was hidden and shown
  timer = setTimeout(watch, EVERY);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  watch();
  specialists();
});
if (byKeys) question.focus({ preventScroll: true });
specialists();
watch();
