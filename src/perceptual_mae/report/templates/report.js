"use strict";
// All of this is comfort: without it the page shows the newest picture, the film's dots, and every curve.

// Hovering over one curve shows the same step on all of them.
const panels = [...document.querySelectorAll(".panel")].map((panel) => {
  const plot = panel.querySelector(".plot");
  const cursor = plot.appendChild(document.createElement("div"));
  cursor.className = "cursor";
  cursor.hidden = true;
  const shown = [...panel.querySelectorAll(".legend b:not(.fixed)")];
  return { plot, cursor, shown, usual: shown.map((b) => b.textContent), where: panel.querySelector(".where"),
    numbers: JSON.parse(panel.dataset.numbers) };
});

const words = (value) => value === null ? "not finite" : value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e9)
  ? value.toExponential(2) : value.toLocaleString("en", { maximumSignificantDigits: Math.abs(value) < 1000 ? 4 : 9 });

function nearest(steps, step) {
  let best = 0;
  for (let i = 1; i < steps.length; i++) if (Math.abs(steps[i] - step) < Math.abs(steps[best] - step)) best = i;
  return best;
}

function point(step) {
  for (const { plot, cursor, shown, usual, where, numbers } of panels) {
    const { left, right, first, last, steps, values, unit } = numbers;
    const away = step === null || step < first || step > last;
    cursor.hidden = where.hidden = away;
    shown.forEach((b, i) => {
      b.textContent = away ? usual[i] : words(values[i][nearest(steps[i], step)]) + unit;
    });
    if (away) continue;
    const at = steps[0][nearest(steps[0], step)];
    cursor.style.left = `${(left + (at - first) / (last - first) * (right - left)) * 100}%`;
    where.textContent = `step ${at.toLocaleString("en")}`;
  }
}

for (const { plot, numbers } of panels) {
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const across = ((event.clientX - box.left) / box.width - numbers.left) / (numbers.right - numbers.left);
    point(numbers.first + Math.min(1, Math.max(0, across)) * (numbers.last - numbers.first));
  });
  plot.addEventListener("pointerleave", () => point(null));
}

// The film plays by itself when asked.
const film = document.querySelector(".film");
if (film) {
  const dots = [...film.querySelectorAll("input")];
  const button = document.createElement("button");
  button.type = "button";
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
  button.addEventListener("click", () => {
    if (timer) return stop();
    let next = dots[dots.length - 1].checked ? 0 : dots.findIndex((dot) => dot.checked) + 1;
    const show = () => { dots[next].checked = true; if (++next >= dots.length) stop(); };
    button.textContent = "Pause";
    timer = setInterval(show, 700);
    show();
  });
  for (const dot of dots) dot.addEventListener("change", stop);
  stop();
  film.prepend(button);
}

const command = document.querySelector(".command");
if (command && navigator.clipboard) {
  const button = command.appendChild(document.createElement("button"));
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// On paper everything is open but the list of skipped files, which may take many pages.
addEventListener("beforeprint", () => document.querySelectorAll("details:not(.skipped)").forEach((one) => { one.open = true; }));
