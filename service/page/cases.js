// Cases: what was proposed, who agreed, and the export.

import { ask, askJson, post, showPicture } from "./api.js";
import { $, attempt, button, make, released, time } from "./dom.js";
import { showCases } from "./results.js";

export function install() {
  $("new-case").onsubmit = (event) => {
    event.preventDefault();
    attempt(async () => {
      const made = await post("cases", { name: new FormData(event.target).get("name") });
      event.target.reset();
      await refresh();
      show(made);
    });
  };
}

export async function refresh() {
  const cases = await askJson("cases");
  await released();
  showCases(cases);
  $("case-list").replaceChildren(...cases.map((one) => {
    const counts = Object.entries(one.counts).map(([state, n]) => `${n} ${state}`).join(", ");
    return make("li", {}, button(one.name, () => open(one.id)), ` ${counts || "empty"}`);
  }));
  if (!cases.length) $("case-list").replaceChildren(make("li", { textContent: "There is no case yet: make one above, then put results of a search into it." }));
}

const open = (id) => attempt(async () => show(await askJson(`cases/${id}`)));

function show(one) {
  const place = $("case");
  place.hidden = false;
  place.replaceChildren(
    make("h2", { textContent: one.name, tabIndex: -1 }),
    make("p", {},
      button("Export as ZIP", () => save(one)), " ",
      button("Delete the case", () => drop(one), { className: "operator" })),
    make("p", { className: "hint", textContent: "A result is confirmed when two different keys have confirmed it." }),
    one.reviews.length
      ? make("ul", {}, ...one.reviews.map((review) => item(one, review)))
      : make("p", { textContent: "Nothing is in this case: choose it in the search, and press “To the case” at a result." }));
}

function item(one, review) {
  const crop = make("img", { alt: `Box ${review.box_id}` });
  if (review.result) showPicture(crop, review.result.crop_url);
  else crop.alt = "deleted";
  const step = (name) => () => attempt(async () => {
    show(await post(`cases/${one.id}/reviews/${review.box_id}/${name}`, { note: note.value || null }));
    await refresh();
  });
  const note = make("input", { maxLength: 500, value: review.note ?? "", ariaLabel: `Note to box ${review.box_id}`, placeholder: "note" });
  const frame = review.result?.frame;
  const by = [["proposed", review.proposed_by], ["first", review.first_by], ["second", review.second_by], ["rejected", review.rejected_by]]
    .filter(([, key]) => key !== null).map(([what, key]) => `${what}: ${key ? `key ${key}` : "this machine"}`).join(", ");
  return make("li", {}, crop, make("div", {},
    make("p", {}, make("span", { className: `state ${review.state.replace(" ", "-")}`, textContent: review.state }),
      review.score === null ? "" : `, similar ${review.score.toFixed(2)}`),
    make("p", { textContent: frame ? `${frame.camera}, ${time(frame.captured_at)}` : "deleted from the gallery" }),
    make("p", { className: "hint", textContent: by }),
    make("p", { className: "actions" }, note,
      button("Confirm", step("confirm"), { ariaLabel: `Confirm box ${review.box_id}` }),
      button("Reject", step("reject"), { ariaLabel: `Reject box ${review.box_id}` }))));
}

const save = (one) => attempt(async () => {
  const address = URL.createObjectURL(await (await ask(`cases/${one.id}/export`)).blob());
  const link = make("a", { href: address, download: `case-${one.id}.zip` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
});

const drop = (one) => attempt(async () => {
  if (!window.confirm(`Delete the case ${one.name}? Frames and the audit stay.`)) return;
  await ask(`cases/${one.id}`, { method: "DELETE" });
  $("case").hidden = true;
  await refresh();
});
