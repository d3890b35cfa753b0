// The page: its parts, the key, and how the service is.

import { askJson, key, setKey } from "./api.js";
import * as cases from "./cases.js";
import { $, attempt, say } from "./dom.js";
import * as jobs from "./jobs.js";
import * as picture from "./picture.js";
import * as results from "./results.js";

const parts = ["search", "cases", "jobs"];

function open(part) {
  say(null);
  jobs.leave();
  for (const name of parts) {
    $(`view-${name}`).hidden = name !== part;
    const button = document.querySelector(`[data-view=${name}]`);
    if (name === part) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  if (part === "cases") attempt(cases.refresh);
  if (part === "jobs") attempt(jobs.refresh);
}

async function health() {
  const told = await fetch(new URL("readyz", document.baseURI)).then((answer) => answer.json()).catch(() => null);
  const ready = told?.status === "ready";
  $("health").textContent = ready ? "" : `Not ready: ${told?.detail ?? "the service does not answer"}`;
  setTimeout(health, ready ? 30_000 : 2_000);
}

async function begin() {
  await attempt(async () => {
    document.body.dataset.role = (await askJson("stats")).role;
    results.showCameras(await askJson("cameras"));
    await cases.refresh();
  });
}

for (const part of parts) document.querySelector(`[data-view=${part}]`).onclick = () => open(part);
$("key-open").onclick = () => { $("key-form").elements.key.value = key(); $("key").showModal(); };
$("key").onclose = () => {
  if ($("key").returnValue !== "save") return;
  setKey($("key-form").elements.key.value.trim());
  begin();
};
for (const part of [picture, results, cases, jobs]) part.install();
health();
begin();
