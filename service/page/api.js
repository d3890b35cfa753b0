// The public interface, with the key of this tab; what goes wrong becomes an Error that says so.

const KEY = "binet-key";
const BASE = new URL("v1/", document.baseURI);

export const key = () => sessionStorage.getItem(KEY) ?? "";

export function setKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key()) headers.set("Authorization", `Bearer ${key()}`);
  if (options.json !== undefined) {
    headers.set("Content-Type", "application/json");
    options = { ...options, body: JSON.stringify(options.json) };
  }
  let answer;
  try {
    answer = await fetch(new URL(path.replace(/^\/v1\//, ""), BASE), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The service does not answer. Is it running?");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const wait = answer.headers.get("Retry-After");
  throw new Refusal(answer.status, (told.detail ?? answer.statusText) + (wait ? ` (in ${wait} s)` : ""));
}

export const askJson = async (path, options) => (await ask(path, options)).json();
export const post = (path, json) => askJson(path, { method: "POST", json });

// Pictures need the key too, so they are fetched and shown as blobs; a few at a time.
const waiting = [];
let running = 0;

export function showPicture(image, url, now = false) {
  if (now) waiting.unshift([image, url]);
  else waiting.push([image, url]);
  next();
}

async function next() {
  if (running >= 6 || !waiting.length) return;
  running += 1;
  const [image, url] = waiting.shift();
  try {
    const blob = await (await ask(url)).blob();
    const address = URL.createObjectURL(blob);
    image.onload = () => URL.revokeObjectURL(address);
    image.src = address;
  } catch (error) {
    image.alt = `${image.alt}: ${error.message}`;
  } finally {
    running -= 1;
    next();
  }
}
