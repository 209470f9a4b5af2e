// Talking to the server: the API key, what went wrong as a sentence, and a streamed answer.

const KEY = "router-api-key";
const dialog = document.getElementById("dialog");
const secret = document.getElementById("secret");
let asking = null; // the promise of the dialog while it is open, so that requests at once share one dialog
let declined = false; // the dialog was cancelled: only what the user does opens it again

export class Failed extends Error {}

const DEFAULTS = {
  400: "The server did not understand the request.",
  401: "The server wants an API key.",
  403: "The key does not allow this.",
  404: "The server does not know this model.",
  413: "The question is too long.",
  429: "Too many requests are waiting.",
  503: "The server cannot answer now.",
};

/** One sentence: what the server said, or what its status means; and when to come back. */
export function sentence(status, error, retry) {
  let said = String(error?.message || DEFAULTS[status] || `The server failed with status ${status}.`).trim();
  if (!/[.!?]$/.test(said)) said += ".";
  return /^\d+$/.test(retry || "") ? `${said} Try again in ${retry} s.` : said;
}

document.getElementById("cancel").addEventListener("click", () => dialog.close("cancel"));

/** Ask for a key; true when one was given, or the kept one was taken away by an empty one. */
export function askKey(why) {
  asking ??= new Promise((done) => {
    document.getElementById("dialog-why").textContent = why;
    secret.value = "";
    dialog.returnValue = "cancel"; // what Esc leaves
    dialog.showModal();
    dialog.addEventListener("close", () => {
      asking = null;
      const given = dialog.returnValue === "use";
      const key = secret.value.replace(/[^\x21-\x7e]/g, ""); // what a header cannot hold came along in copying
      secret.value = "";
      if (given && key) sessionStorage.setItem(KEY, key);
      else if (given) sessionStorage.removeItem(KEY);
      declined = !given;
      done(given);
    }, { once: true });
  });
  return asking;
}

/** The response to a request when it is good. Throws Failed with a sentence, or AbortError when it was stopped. */
export async function request(path, { byUser = false, ...options } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failed("The server cannot be reached.");
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    const said = sentence(response.status, body?.error, response.headers.get("Retry-After"));
    if (response.status !== 401 || (declined && !byUser)) throw new Failed(said);
    // Another request may have brought a key while this one was under way: then that is tried first.
    if (sessionStorage.getItem(KEY) === key && !(await askKey(said))) throw new Failed(said);
  }
}

export const json = async (path) => (await request(path)).json();

/** The events of a streamed answer, up to `[DONE]`. Throws as `request` does, and when the stream breaks. */
export async function* events(path, body, signal) {
  const response = await request(path, {
    byUser: true,
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        return { done: true };
      });
      if (done) throw new Failed("The connection ended before the answer did.");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new Failed(sentence(500, event.error));
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // closes the connection when the reader of the events stops early
  }
}
