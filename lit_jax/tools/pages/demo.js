"use strict";
// Sends a form and shows the answer of the server, escaped HTML, beside it. Pictures are dropped, pasted or chosen.

const most = Number(document.body.dataset.most);

function tell(form, sentence) {
  const line = document.createElement("p");
  line.className = "mistake words";
  line.setAttribute("role", "alert");
  line.textContent = sentence;
  form.querySelector(".result").replaceChildren(line);
}

// The answer to `data`, as HTML. Without a server, its own sentence.
async function ask(form, data) {
  const answer = await fetch(form.getAttribute("action"), { method: "POST", body: data });
  return answer.text();
}

async function send(form, data) {
  const place = form.querySelector(".result");
  const button = form.querySelector("button:not(.example)");
  const turn = (form.turn = (form.turn || 0) + 1);
  const picture = data.get("picture");
  if (picture && picture.size > most) {
    tell(form, document.body.dataset.tooLarge);
    return;
  }
  button.disabled = true;
  place.classList.add("busy");
  try {
    const html = await ask(form, data);
    if (turn === form.turn) place.innerHTML = html;
  } catch {
    if (turn === form.turn) tell(form, "The server does not answer; is lit-jax demo still running?");
  }
  if (turn === form.turn) {
    button.disabled = false;
    place.classList.remove("busy");
  }
}

function ready(form) {
  const drop = form.querySelector(".drop");
  const input = drop.querySelector("input");
  const image = drop.querySelector("img");
  const query = form.querySelector("input[name=query]");

  function classify() {
    if (input.files.length > 1) classifyAll();
    else send(form, new FormData(form));
  }

  // Several pictures: each with its answer, in turn.
  async function classifyAll() {
    const place = form.querySelector(".result");
    const turn = (form.turn = (form.turn || 0) + 1);
    place.replaceChildren();
    for (const file of input.files) {
      const row = document.createElement("section");
      const picture = document.createElement("img");
      const answer = document.createElement("div");
      row.className = "answer";
      picture.className = "picture";
      picture.alt = file.name;
      picture.addEventListener("error", () => { picture.hidden = true; });
      picture.addEventListener("load", () => URL.revokeObjectURL(picture.src));
      picture.src = URL.createObjectURL(file);
      row.append(picture, answer);
      const data = new FormData(form);
      data.set("picture", file);
      let html;
      try {
        html = await ask(form, data);
      } catch {
        tell(form, "The server does not answer; is lit-jax demo still running?");
        return;
      }
      if (turn !== form.turn) return;
      answer.innerHTML = html;
      place.append(row);
    }
  }

  function search(byPicture) {
    const data = new FormData();
    if (byPicture) data.set("picture", input.files[0]);
    else data.set("query", query.value);
    send(form, data);
  }

  function show() {
    const file = input.files[0];
    URL.revokeObjectURL(image.src);
    image.hidden = !file;
    if (!file) return;
    image.src = URL.createObjectURL(file);
    image.alt = file.name;
    if (query) search(true);
    else if (form.labels.value.trim()) classify();
  }

  function take(files) {
    if (!files.length) return;
    const taken = new DataTransfer();
    for (const file of input.multiple ? files : [files[0]]) taken.items.add(file);
    input.files = taken.files;
    show();
  }

  form.take = take;
  for (const example of form.querySelectorAll(".example")) {
    example.addEventListener("click", async () => {
      const content = await (await fetch(example.dataset.large)).blob();
      if (form.labels && !form.labels.value.trim()) form.labels.value = form.dataset.labels;
      take([new File([content], example.title, { type: content.type })]);
    });
  }
  image.addEventListener("error", () => { image.hidden = true; });  // What is no picture, the server says.
  input.addEventListener("change", show);
  drop.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); input.click(); }
  });
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (query) search(!query.value.trim() && input.files.length > 0);
    else classify();
  });
}

const forms = document.querySelectorAll("form");
forms.forEach(ready);
// A file dropped beside its place would take the page away.
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
window.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) forms[0].take(event.clipboardData.files);
});
