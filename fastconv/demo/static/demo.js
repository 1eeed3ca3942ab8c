// The demo's page: sends pictures, shows what comes back. No library, nothing from elsewhere.
"use strict";

const ATONCE = 3; // uploads at a time
const PATIENCE = 8; // times that a busy server is asked again
const byId = (id) => document.getElementById(id);
const list = byId("pictures");
const waiting = [];
let sending = 0;
let done = 0;
let refused = 0;
let asked = 0;

class Problem extends Error {}

// The server's answer; a Problem with its reason where it refuses.
async function ask(url, options = {}) {
  for (let attempt = 1; ; attempt++) {
    let answer;
    try {
      answer = await fetch(url, options);
    } catch {
      throw new Problem("The server cannot be reached.");
    }
    if (answer.ok) return answer;
    if (answer.status === 503 && attempt < PATIENCE) {
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((resume) => setTimeout(resume, 1000 * seconds));
      continue;
    }
    const body = await answer.json().catch(() => ({}));
    throw new Problem(typeof body.detail === "string" ? body.detail : `Error ${answer.status}.`);
  }
}

// -- adding ------------------------------------------------------------------------------------

function add(files) {
  if (sending === 0 && waiting.length === 0) {
    byId("problems").replaceChildren();
    done = refused = asked = 0;
  }
  asked += files.length;
  waiting.push(...files);
  say();
  while (sending < ATONCE && waiting.length) sendNext();
}

async function sendNext() {
  const file = waiting.shift();
  sending++;
  try {
    show(await send(file));
    done++;
  } catch (error) {
    refused++;
    refuse(file.name, error instanceof Problem ? error.message : String(error));
  }
  sending--;
  say();
  if (waiting.length) sendNext();
}

async function send(file) {
  const limit = Number(document.body.dataset.fileBytes);
  if (file.size > limit) throw new Problem(`The file is larger than ${limit / 1e6} MB.`);
  const form = new FormData();
  form.append("image", file);
  return (await ask("/api/images", { method: "POST", body: form })).json();
}

function refuse(name, reason) {
  const line = document.createElement("li");
  line.textContent = `${name}: ${reason}`;
  byId("problems").append(line);
}

function say() {
  const left = asked - done - refused;
  const parts = [];
  if (left) parts.push(`${left} on the way`);
  if (done) parts.push(`${done} done`);
  if (refused) parts.push(`${refused} refused`);
  byId("status").textContent = parts.join(", ");
}

// -- showing -----------------------------------------------------------------------------------

const percent = (p) => `${(100 * p).toFixed(p >= 0.0995 ? 0 : 1)} %`;

function show(picture) {
  const card = byId("card").content.firstElementChild.cloneNode(true);
  const url = `/api/images/${picture.id}`;
  const image = card.querySelector("img");
  card.dataset.id = picture.id;
  card.dataset.created = picture.created;
  card.querySelector("h3").textContent = picture.name;
  image.src = `${url}/picture.png`;
  image.alt = `The middle of ${picture.name}`;
  card.querySelector(".bars").append(...picture.predictions.map(bar));
  const remove = card.querySelector(".remove");
  remove.setAttribute("aria-label", `Remove ${picture.name}`);
  remove.addEventListener("click", () => removeOne(card, url));
  for (const button of card.querySelectorAll(".look")) {
    button.addEventListener("click", () => look(card, button, url, picture.name));
  }
  const form = card.querySelector("form");
  form.elements.label.value = picture.label;
  form.elements.note.value = picture.note;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    saveNote(form, url);
  });
  // The newest first: uploads of one time may be answered in another order than they were kept.
  const later = (other) => Number(other.dataset.created) > picture.created;
  const before = [...list.children].findLast(later);
  before ? before.after(card) : list.prepend(card);
  count();
}

function bar({ name, probability }) {
  const line = document.createElement("li");
  const parts = ["name", "value", "track"].map((kind) => {
    const part = document.createElement(kind === "track" ? "div" : "span");
    part.className = kind;
    return part;
  });
  parts[0].textContent = name;
  parts[1].textContent = percent(probability);
  parts[2].setAttribute("aria-hidden", "true");
  const filled = document.createElement("div");
  filled.className = "bar";
  filled.style.width = `${100 * probability}%`;
  parts[2].append(filled);
  line.append(...parts);
  return line;
}

function count() {
  const number = list.children.length;
  byId("none").hidden = number > 0;
  byId("remove-all").hidden = number === 0;
}

// A picture on demand in the place of the original, and back again.
async function look(card, button, url, name) {
  const image = card.querySelector("img");
  const saved = card.querySelector(".saved");
  const others = card.querySelectorAll(".look");
  if (button.getAttribute("aria-pressed") === "true") {
    button.setAttribute("aria-pressed", "false");
    image.src = `${url}/picture.png`;
    image.alt = `The middle of ${name}`;
    return;
  }
  others.forEach((other) => (other.disabled = true));
  note(saved, "Working …");
  try {
    const blob = await (await ask(`${url}/${button.dataset.kind}.png`)).blob();
    const shown = URL.createObjectURL(blob);
    image.onload = () => URL.revokeObjectURL(shown);
    image.src = shown;
    image.alt = `${button.textContent}, for ${name}`;
    others.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    note(saved, "");
  } catch (error) {
    note(saved, error.message, true);
  }
  others.forEach((other) => (other.disabled = false));
  button.focus();
}

// -- notes and removing ------------------------------------------------------------------------

const saves = new WeakMap(); // of a form: its latest save

// A form's saves reach the server in their order, and only the latest one's answer is shown.
function saveNote(form, url) {
  const saved = form.querySelector(".saved");
  const body = JSON.stringify({ label: form.elements.label.value, note: form.elements.note.value });
  const headers = { "Content-Type": "application/json" };
  note(saved, "Saving …");
  const before = saves.get(form);
  const save = (async () => {
    await before;
    const [text, failed] = await ask(`${url}/note`, { method: "PUT", headers, body }).then(
      () => ["Saved", false],
      (error) => [error.message, true],
    );
    if (saves.get(form) === save) note(saved, text, failed);
  })();
  saves.set(form, save);
}

function note(place, text, failed = false) {
  place.textContent = text;
  place.classList.toggle("failed", failed);
}

async function removeOne(card, url) {
  try {
    await ask(url, { method: "DELETE" });
  } catch (error) {
    note(card.querySelector(".saved"), error.message, true);
    return;
  }
  card.remove();
  count();
  byId("status").textContent = "Removed";
  byId("heading").focus(); // what had the focus is gone
}

async function removeAll() {
  try {
    await ask("/api/images", { method: "DELETE" });
  } catch (error) {
    byId("status").textContent = error.message;
    return;
  }
  list.replaceChildren();
  count();
  byId("status").textContent = "All removed";
  byId("heading").focus();
}

// -- the page ----------------------------------------------------------------------------------

async function examples() {
  const files = [];
  for (let n = 0; n < Number(document.body.dataset.examples); n++) {
    const blob = await (await ask(`/examples/${n}.png`)).blob();
    files.push(new File([blob], `example ${n + 1}.png`, { type: "image/png" }));
  }
  add(files);
}

function filesOf(event) {
  return [...(event.dataTransfer ? event.dataTransfer.files : [])];
}

byId("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = ""; // the same file can be chosen again
});
byId("remove-all").addEventListener("click", removeAll);
byId("examples")?.addEventListener("click", examples);

// The whole window takes drops: a picture dropped beside the box would else replace the page.
addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  byId("drop").classList.remove("over");
  add(filesOf(event));
});

ask("/api/images")
  .then((answer) => answer.json())
  .then((pictures) => pictures.forEach(show))
  .catch((error) => (byId("status").textContent = error.message));
