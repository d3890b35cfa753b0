// Asks, and shows what is similar: ranked, on a line of time, with the frames behind it.

import { askJson, post, showPicture } from "./api.js";
import { $, attempt, button, make, released, say, time, utc } from "./dom.js";
import { chosen } from "./picture.js";

const wanted = new Map(); // box id -> crop url: more like these
const unwanted = new Map(); // not like these
let running = null;
let last = null;

export function install() {
  $("search").onsubmit = (event) => { event.preventDefault(); search(); };
}

export function showCameras(cameras) {
  $("cameras").hidden = cameras.length < 2;
  $("cameras").querySelector("div").replaceChildren(...cameras.map(({ name }) =>
    make("label", {}, make("input", { type: "checkbox", name: "camera", value: name }), ` ${name}`)));
}

export function showCases(cases) {
  const choice = $("case-choice");
  const before = choice.value;
  choice.replaceChildren(make("option", { value: "", textContent: "none" }),
    ...cases.map(({ id, name }) => make("option", { value: name, textContent: name, "data-id": id })));
  choice.value = cases.some(({ name }) => name === before) ? before : "";
}

function form() {
  const fields = new FormData($("search"));
  const body = new FormData();
  const picture = chosen();
  if (picture?.box) {
    body.append("scene", picture.file);
    body.append("box", picture.box.join(","));
  } else if (picture) {
    body.append("crop", picture.file);
  }
  for (const id of wanted.keys()) body.append("box_id", id);
  for (const id of unwanted.keys()) body.append("not_box_id", id);
  if (!picture && !wanted.size) throw new Error("Give a picture of the person first.");
  for (const name of fields.getAll("camera")) body.append("camera", name);
  for (const name of ["after", "before"]) if (fields.get(name)) body.append(name, utc(fields.get(name)));
  for (const name of ["k", "min_score", "group_by", "reason", "case"]) if (fields.get(name)) body.append(name, fields.get(name));
  return body;
}

export async function search() {
  await attempt(async () => {
    const body = form();
    running?.abort();
    running = new AbortController();
    const { signal } = running;
    status("Searching…", true);
    let found;
    try {
      found = await askJson("search", { method: "POST", body, signal });
    } catch (error) {
      if (error.name !== "AbortError") status("The search failed; the message above says why.");
      throw error;
    }
    await released();
    if (signal.aborted) return; // another search has begun meanwhile
    last = found;
    show(last);
  });
}

function status(text, busy = false) {
  $("status").textContent = text;
  $("status").classList.toggle("busy", busy);
  $("results").setAttribute("aria-busy", busy);
}

function show(found) {
  const groups = found.groups.length ? found.groups : found.results.map((result) => ({
    score: result.score, camera: result.frame.camera, begin: result.frame.captured_at,
    end: result.frame.captured_at, results: [result],
  }));
  $("list").replaceChildren(...groups.map(card));
  timeline(groups);
  if (!groups.length) status("Nobody similar was found. Widen the filters, lower the similarity, or take another picture.");
  else status(`${found.results.length} similar boxes in ${groups.length} results, ${Math.round(found.took_ms)} ms. Similar, not identified.`);
}

function card(group, rank) {
  const best = group.results[0];
  const when = group.begin === group.end ? time(group.begin) : `${time(group.begin)} to ${time(group.end).slice(11)}`;
  const picture = make("img", { alt: `Result ${rank + 1}, camera ${group.camera}`, loading: "lazy" });
  showPicture(picture, best.crop_url);
  const more = group.results.length - 1;
  return make("li", { id: `result-${rank}`, tabIndex: -1 },
    picture,
    make("h3", { textContent: `${rank + 1}. ${group.camera}` }),
    make("p", { textContent: when }),
    make("p", { className: "score", textContent: `similar ${group.score.toFixed(2)}` }),
    best.same_person === null ? null : make("p", { className: "hint", textContent: `${Math.round(100 * best.same_person)} % of such results were the same person in the benchmark` }),
    make("meter", { min: 0, max: 1, value: Math.max(0, group.score), ariaLabel: "similarity" }),
    more ? make("p", { className: "hint", textContent: `and ${more} more` }) : null,
    make("div", { className: "actions" },
      button("Frame", () => openFrame(best.frame, group.results.filter((r) => r.frame.id === best.frame.id)), { ariaLabel: `Frame of result ${rank + 1}` }),
      button("More like this", () => pick(wanted, unwanted, best), { ariaLabel: `More like result ${rank + 1}` }),
      button("Not this one", () => pick(unwanted, wanted, best), { ariaLabel: `Not like result ${rank + 1}` }),
      button("To the case", () => propose(best), { ariaLabel: `Put result ${rank + 1} into the case` })));
}

function pick(into, outOf, result) {
  outOf.delete(result.box_id);
  into.set(result.box_id, result.crop_url);
  chips();
  search();
}

function chips() {
  const chip = (map, text) => ([id, url]) => {
    const picture = make("img", { alt: "" });
    showPicture(picture, url);
    return make("li", {}, picture, text, button("×", () => { map.delete(id); chips(); }, { ariaLabel: `Remove: ${text}` }));
  };
  $("chosen").replaceChildren(...[...wanted].map(chip(wanted, "like this")), ...[...unwanted].map(chip(unwanted, "not this")));
}

async function propose(result) {
  await attempt(async () => {
    const option = $("case-choice").selectedOptions[0];
    if (!option.value) throw new Error("Choose a case first; the part Cases is where to make one.");
    await post(`cases/${option.dataset.id}/reviews`, { box_id: result.box_id, audit_id: last.audit_id });
    status(`Proposed in the case ${option.value}.`);
  });
}

function timeline(groups) {
  const place = $("timeline");
  place.hidden = !groups.length;
  if (!groups.length) return;
  const begin = Math.min(...groups.map((g) => Date.parse(g.begin)));
  const end = Math.max(...groups.map((g) => Date.parse(g.end)), begin + 1);
  const share = (moment) => (100 * (Date.parse(moment) - begin)) / (end - begin);
  const lanes = [...new Set(groups.map((g) => g.camera))].sort().map((camera) => {
    const marks = groups.map((group, rank) => [group, rank]).filter(([g]) => g.camera === camera);
    const line = make("div", {}, ...marks.reverse().map(([group, rank]) => {
      const mark = button("", () => { const to = $(`result-${rank}`); to.scrollIntoView({ block: "center" }); to.focus(); },
        { ariaLabel: `Result ${rank + 1}, ${time(group.begin)}`, title: `${rank + 1}. ${time(group.begin)}` });
      mark.style.left = `${Math.min(share(group.begin), 97)}%`;
      mark.style.width = `${share(group.end) - share(group.begin)}%`;
      mark.style.opacity = String(Math.max(0.25, 1 - rank / groups.length));
      return mark;
    }));
    return make("div", { className: "lane" }, make("span", { textContent: camera }), line);
  });
  place.replaceChildren(make("h3", { textContent: `When: ${time(begin)} to ${time(end)}` }), ...lanes);
}

async function openFrame(frame, results) {
  await attempt(async () => {
    const told = await askJson(frame.image_url.replace(/\/image$/, ""));
    $("frame-title").textContent = `${told.camera}, ${time(told.captured_at)}`;
    const picture = $("frame-picture");
    picture.removeAttribute("src");
    picture.alt = `Frame of camera ${told.camera} with ${results.length} boxes`;
    const drawn = results.map((r) => `draw=${r.box_id}`).join("&");
    showPicture(picture, `${frame.image_url}?${drawn}`, true);
    $("frame-people").replaceChildren(...told.boxes.map((person, i) => {
      const crop = make("img", { alt: `Person ${i + 1} of this frame` });
      showPicture(crop, person.crop_url);
      return make("li", {}, crop, button("Look for this one", () => {
        wanted.clear();
        unwanted.clear();
        $("frame").close();
        if (chosen()) $("remove-picture").click();
        pick(wanted, unwanted, person);
      }));
    }));
    $("frame").showModal();
  });
  if ($("frame").open) say(null);
}
