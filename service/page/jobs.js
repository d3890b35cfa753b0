// Index jobs: begin, follow, cancel.

import { ask, askJson, post } from "./api.js";
import { $, attempt, button, make, released, time, utc } from "./dom.js";

const OVER = ["done", "failed", "cancelled"];
const followed = new Map(); // job id -> AbortController

export function install() {
  $("new-job").onsubmit = (event) => {
    event.preventDefault();
    attempt(async () => {
      const fields = new FormData(event.target);
      await post("jobs", {
        source: fields.get("source"),
        camera: fields.get("camera") || null,
        start: utc(fields.get("start")) || null,
        fps: fields.get("fps") ? Number(fields.get("fps")) : null,
      });
      event.target.reset();
      await refresh();
    });
  };
}

export function leave() {
  for (const follower of followed.values()) follower.abort();
  followed.clear();
}

export async function refresh() {
  const [stats, jobs] = await Promise.all([askJson("stats"), askJson("jobs")]);
  $("stats").textContent = `${stats.boxes} boxes in ${stats.frames} frames of ${stats.sources} sources, ${stats.cameras} cameras.`;
  $("job-list").replaceChildren(...jobs.map((job) => {
    const place = make("li");
    show(place, job);
    if (!OVER.includes(job.state)) follow(place, job.id);
    return place;
  }));
  if (!jobs.length) $("job-list").replaceChildren(make("li", { textContent: "Nothing was indexed through the service yet: name a source above, or run binet index." }));
}

function show(place, job) {
  const over = OVER.includes(job.state);
  const share = job.discovered ? (job.indexed + job.failed) / job.discovered : 0;
  place.replaceChildren(
    make("h3", { textContent: `${job.sources.join(", ")}${job.camera ? `, camera ${job.camera}` : ""}` }),
    make("p", { textContent: `${job.state}, ${time(job.created_at)}: ${job.indexed} files indexed, ${job.failed} failed, of ${job.discovered}${job.reason ? `. ${job.reason}` : ""}` }),
    over ? "" : make("progress", { value: share, max: 1, ariaLabel: "Progress" }),
    over ? "" : button("Cancel", () => attempt(() => ask(`jobs/${job.id}`, { method: "DELETE" })), { ariaLabel: `Cancel job ${job.id}`, className: "operator" }),
    job.failures.length ? make("details", {}, make("summary", { textContent: `${job.failures.length} failures` }),
      make("ul", {}, ...job.failures.map(({ name, reason }) => make("li", { textContent: `${name}: ${reason}` })))) : "");
}

// EventSource cannot send a key, so the stream is read by hand.
async function follow(place, id) {
  followed.get(id)?.abort();
  const control = new AbortController();
  followed.set(id, control);
  await attempt(async () => {
    const answer = await ask(`jobs/${id}/events`, { signal: control.signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (text + value).split("\n\n");
      text = events.pop();
      await released();
      for (const event of events) show(place, JSON.parse(event.split("\n").find((line) => line.startsWith("data: ")).slice(6)));
    }
  });
}
