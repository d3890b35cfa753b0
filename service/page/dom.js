// Small helpers: elements, times, and what everybody has to be told.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export const button = (text, onclick, more = {}) => make("button", { type: "button", textContent: text, onclick, ...more });

export const time = (moment) => new Date(moment).toISOString().replace("T", " ").replace(/\.000Z|Z/, " UTC");

// An input of type datetime-local, read as UTC.
export const utc = (value) => (value ? `${value}Z` : "");

export function say(error) {
  const place = $("problem");
  place.hidden = !error;
  place.textContent = error ? error.message : "";
  if (error?.status === 401) place.textContent += " The button Key is where to give one.";
  if (error) place.scrollIntoView({ block: "nearest" });
}

// A button that is replaced between press and release is never clicked: what replaces buttons waits for this.
let press = Promise.resolve();
let over = () => {};
export const released = () => press;
addEventListener("pointerdown", () => {
  over();
  press = new Promise((done) => { over = done; });
});
// The click comes right after the release: a task later it has been seen. A menu or another window may keep the release.
for (const name of ["pointerup", "pointercancel", "contextmenu", "blur"]) addEventListener(name, () => setTimeout(over));

// Runs what a button or form asks for; a failure is told, and nothing is lost.
export async function attempt(action) {
  say(null);
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") say(error);
    return undefined;
  }
}
