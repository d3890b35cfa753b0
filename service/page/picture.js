// The query's picture: the people in it, and the box that was chosen or drawn.

import { askJson } from "./api.js";
import { $, attempt, make } from "./dom.js";

// A box that covers so much of the picture is the picture: it is a crop already.
const WHOLE = 0.6;

let file = null;
let bitmap = null;
let people = [];
let box = null; // null is the whole picture
let decided = false; // by whoever sits there
let drawing = null;

export const chosen = () => (file ? { file, box } : null);

export async function take(picked) {
  if (!picked) return;
  await attempt(async () => {
    let opened;
    try {
      opened = await createImageBitmap(picked, { imageOrientation: "from-image" });
    } catch {
      throw new Error("This file is no picture that can be shown: take a JPEG, PNG or WebP.");
    }
    [file, bitmap, people, box, decided] = [picked, opened, [], null, false];
    $("canvas").width = bitmap.width;
    $("canvas").height = bitmap.height;
    $("picture").hidden = false;
    list();
    await find(picked);
  });
}

async function find(picked) {
  const form = new FormData();
  form.append("scene", picked);
  for (const name of ["reason", "case"]) form.append(name, $("search").elements[name].value);
  $("people").setAttribute("aria-busy", "true");
  try {
    const found = await askJson("search", { method: "POST", body: form });
    if (file !== picked) return;
    people = found.people.map((person) => person.box);
    const area = ([x1, y1, x2, y2]) => ((x2 - x1) * (y2 - y1)) / (bitmap.width * bitmap.height);
    // The best one is offered; a crop of one person is taken as it is.
    if (!decided) box = people.length && area(people[0]) < WHOLE ? people[0] : null;
  } finally {
    $("people").removeAttribute("aria-busy");
    list();
  }
}

function list() {
  const choices = [["the whole picture", null], ...people.map((one, i) => [`person ${i + 1}`, one])];
  if (box && !people.includes(box)) choices.push(["the drawn box", box]);
  $("people").replaceChildren(...choices.map(([name, of]) => {
    const radio = make("input", { type: "radio", name: "person", checked: of === box });
    radio.onchange = () => choose(of);
    return make("label", {}, radio, ` ${name}`);
  }));
  draw();
}

function choose(of) {
  [box, decided] = [of, true];
  (of ?? ["", "", "", ""]).forEach((value, i) => { $(["x1", "y1", "x2", "y2"][i]).value = of ? Math.round(value) : ""; });
  list();
}

function draw() {
  const canvas = $("canvas");
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  const width = Math.max(2, canvas.width / 200);
  const outline = ([x1, y1, x2, y2], colour, dash) => {
    pen.setLineDash(dash);
    pen.lineWidth = width * 2; pen.strokeStyle = "#000"; pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    pen.lineWidth = width; pen.strokeStyle = colour; pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  };
  for (const one of people) outline(one, "#fff", [width * 3, width * 2]);
  if (drawing ?? box) outline(drawing ?? box, "#ffd23f", []);
  canvas.setAttribute("aria-label", `Your picture, ${people.length} people found in it`);
}

function usable([x1, y1, x2, y2]) {
  const inside = [Math.max(0, x1), Math.max(0, y1), Math.min(bitmap.width, x2), Math.min(bitmap.height, y2)];
  return inside[2] - inside[0] >= 4 && inside[3] - inside[1] >= 4 ? inside.map(Math.round) : null;
}

export function install() {
  const drop = $("drop");
  $("file").onchange = (event) => take(event.target.files[0]);
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) {
    document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
  }
  document.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0]));
  $("remove-picture").onclick = () => {
    [file, bitmap, people, box] = [null, null, [], null];
    $("file").value = "";
    $("picture").hidden = true;
    $("file").focus();
  };
  $("use-numbers").onclick = () => attempt(async () => {
    const numbers = ["x1", "y1", "x2", "y2"].map((id) => Number($(id).value));
    const good = usable(numbers);
    if (!good) throw new Error("This box has no extent inside the picture: right and bottom are larger than left and top.");
    choose(good);
  });
  const canvas = $("canvas");
  const at = (event) => {
    const place = canvas.getBoundingClientRect();
    return [((event.clientX - place.left) * canvas.width) / place.width, ((event.clientY - place.top) * canvas.height) / place.height];
  };
  let start = null;
  canvas.onpointerdown = (event) => { start = at(event); canvas.setPointerCapture(event.pointerId); };
  canvas.onpointermove = (event) => {
    if (!start) return;
    const [x, y] = at(event);
    drawing = [Math.min(start[0], x), Math.min(start[1], y), Math.max(start[0], x), Math.max(start[1], y)];
    draw();
  };
  canvas.onpointerup = () => {
    const made = drawing && usable(drawing);
    [start, drawing] = [null, null];
    if (made) choose(made);
    else draw();
  };
}
