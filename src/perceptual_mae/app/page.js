// The parts of the page that gradio has no component for. Each gets the element to live in; what it says goes into
// `props.value`, and `trigger("input")` tells gradio to ask the server.

const pmae = (() => {
  // A person drops, pastes or chooses a file, or picks an example. The value is {example} or {name, size, data}.
  function picker(element, trigger, props) {
    const say = (picked) => {
      props.value = JSON.stringify(picked);
      trigger("input");
    };
    const read = (file) => {
      if (!file) return;
      const picked = { name: file.name, size: file.size };
      element.querySelectorAll("[data-example]").forEach((button) => button.removeAttribute("aria-pressed"));
      // What is too large is not worth the way to the server, which will say so.
      if (file.size > props.most) return say(picked);
      const reader = new FileReader();
      reader.onload = () => say({ ...picked, data: reader.result.split(",")[1] ?? "" });
      reader.onerror = () => say({ ...picked, data: "" });
      reader.readAsDataURL(file);
    };
    element.addEventListener("click", (event) => {
      const button = event.target.closest("[data-example]");
      if (!button) return;
      element.querySelectorAll("[data-example]").forEach((each) => each.removeAttribute("aria-pressed"));
      button.setAttribute("aria-pressed", "true");
      say({ example: Number(button.dataset.example) });
    });
    element.addEventListener("change", (event) => {
      read(event.target.files[0]);
      event.target.value = ""; // the same file can be chosen again
    });
    // Anywhere on the page: a file that misses the field would else be opened in place of the page.
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      element.classList.add("dragging");
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget || element.classList.remove("dragging"));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      element.classList.remove("dragging");
      read(event.dataTransfer.files[0]);
    });
    document.addEventListener("paste", (event) => read(event.clipboardData.files[0]));
  }

  // Patches over a picture. `show` says which are marked by the value, `touch` makes the new value.
  function board(element, trigger, props, watch, { marked, touch, drags }) {
    const cells = () => [...element.querySelectorAll("[data-cell]")];
    const columns = () => Number(element.querySelector("[data-columns]")?.dataset.columns ?? 1); // no image: no board
    const show = () => {
      const now = marked(props.value ?? "", columns());
      cells().forEach((cell, index) => cell.setAttribute("aria-checked", String(now(index))));
    };
    const act = (index, to) => {
      const value = touch(props.value ?? "", index, columns(), to);
      if (value === props.value) return;
      props.value = value;
      show();
      trigger("input");
    };
    const at = (event) => cells().indexOf(document.elementFromPoint(event.clientX, event.clientY));
    let drawing = null; // what the stroke makes of every patch it meets

    element.addEventListener("pointerdown", (event) => {
      const index = cells().indexOf(event.target.closest("[data-cell]"));
      if (index < 0 || event.button !== 0) return;
      drawing = !marked(props.value ?? "", columns())(index);
      event.target.releasePointerCapture?.(event.pointerId);
      act(index, drawing);
      if (!drags) drawing = null;
    });
    window.addEventListener("pointermove", (event) => {
      if (drawing === null) return;
      // A fast stroke is told in few events, which hold the places between.
      for (const each of event.getCoalescedEvents?.() ?? [event]) {
        const index = at(each);
        if (index >= 0) act(index, drawing);
      }
    });
    const end = () => (drawing = null);
    window.addEventListener("pointerup", end);
    window.addEventListener("pointercancel", end);

    element.addEventListener("keydown", (event) => {
      const all = cells();
      const index = all.indexOf(event.target);
      if (index < 0) return;
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() };
      if (event.key === " " || event.key === "Enter") {
        act(index, !marked(props.value ?? "", columns())(index));
      } else if (event.key in steps) {
        const sideways = Math.abs(steps[event.key]) === 1;
        const next = index + steps[event.key];
        const sameRow = Math.floor(next / columns()) === Math.floor(index / columns());
        if (!all[next] || (sideways && !sameRow)) return event.preventDefault();
        all[index].tabIndex = -1;
        all[next].tabIndex = 0; // one stop of the Tab key, at the patch where one was last
        all[next].focus();
      } else return;
      event.preventDefault();
    });
    watch(["value", "body"], show);
    show();
  }

  // The value is rows of 0 and 1, with a comma between them; 1 is hidden.
  const painted = {
    marked: (value) => ((flat) => (index) => flat[index] === "1")(value.replaceAll(",", "")),
    touch: (value, index, columns, to) => {
      const flat = [...value.replaceAll(",", "")];
      flat[index] = to ? "1" : "0";
      return flat.join("").match(new RegExp(`.{1,${columns}}`, "g")).join(",");
    },
    drags: true,
  };
  // The value is "row,column", or empty for the class token.
  const pointed = {
    marked: (value, columns) => (index) => value === `${Math.floor(index / columns)},${index % columns}`,
    touch: (value, index, columns) => `${Math.floor(index / columns)},${index % columns}`,
    drags: false,
  };

  return {
    picker,
    paint: (element, trigger, props, watch) => board(element, trigger, props, watch, painted),
    point: (element, trigger, props, watch) => board(element, trigger, props, watch, pointed),
  };
})();
