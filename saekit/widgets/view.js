// One widget for all: Python sends HTML, the page sends back what was done to it.
//   data-act="name" data-arg="x"   a click (or Enter, Space) sends name and x; on an input, a change sends its value
//                                  (a checkbox with data-arg sends x and whether it is checked)
//   data-live                      a range input that sends while it is dragged
//   data-names="a b c"             on a range input: what its output says at each step
//   data-shift="other"             with Shift held, a click or Enter sends this name instead
//   data-keys="ArrowLeft [ ]" data-on="name"   these keys, pressed inside, send name and the key; pressed on something
//                                  with a data-id, [key, id]
//   data-hover="name"              pointing at a data-arg inside sends name and it; pointing elsewhere sends name and ""
//   data-roving                    one Tab stop for all inside; without data-on, left and right arrows move it
//   data-sight                     the cursor of a figure: a click gives it the focus, and it stays in sight as keys move it
//   data-urgent                    on a button: without an answer, interrupt the kernel
//   data-scope="card"              acts inside are sent as card/name
//   data-point="x0 x1 y0 y1"       a click inside this SVG area sends its position in these coordinates
//   data-web                       see web.js, which stands before this script
const TEXT_WAIT = 350, DRAG_WAIT = 60, HOVER_WAIT = 40, STALE_AFTER = 150, URGENT_AFTER = 1500;

// Make `old` look like `fresh` and keep the nodes that stay: focus, caret, scroll and what is folded out survive.
// What the reader has set and Python has not answered yet (`held`) stays too.
function morph(old, fresh, held) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) { old.replaceWith(fresh); return }
  if (old.nodeType !== Node.ELEMENT_NODE) { if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue; return }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of [...fresh.attributes]) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.nodeName === "TEXTAREA") { // a text that was refused is not taken away
    if (old.textContent !== fresh.textContent) { old.textContent = fresh.textContent; if (!typing(old) && !held(old)) old.value = fresh.textContent }
    return;
  }
  if (old.nodeName === "INPUT" && !typing(old) && !held(old)) { old.value = fresh.getAttribute("value") ?? ""; old.checked = fresh.hasAttribute("checked") }
  const kept = [...old.childNodes], next = [...fresh.childNodes];
  next.forEach((node, i) => kept[i] ? morph(kept[i], node, held) : old.append(node));
  kept.slice(next.length).forEach(node => node.remove());
  if (old.nodeName === "SELECT" && !held(old)) old.value = [...old.options].find(o => o.hasAttribute("selected"))?.value ?? old.value;
}
const typing = node => node === document.activeElement && /^(text|search|number|textarea)$/.test(node.type);

function value(node) {
  if (node.type === "checkbox") return node.dataset.arg ? [node.dataset.arg, node.checked] : node.checked;
  return node.type === "range" || node.type === "number" ? Number(node.value) : node.value;
}

const acts = (node, event) => (event.shiftKey && node.dataset.shift) || node.dataset.act;

function scoped(node, act) {
  for (let box = node.closest("[data-scope]"); box; box = box.parentElement?.closest("[data-scope]")) act = `${box.dataset.scope}/${act}`;
  return act;
}

export default {
  render({ model, el }) {
    const root = document.createElement("div");
    root.className = "sk-root";
    root.dataset.lmSuppressShortcuts = "true"; // keys pressed in here are not commands of the notebook
    el.append(root);
    const waits = new Map(), asked = new WeakMap(), before = model.get("served");
    let sent = 0, stale, urgent;
    const together = node => node.type === "radio" ? [...root.querySelectorAll("[type=radio]")].filter(o => o.name === node.name) : [node];
    const held = node => together(node).some(o => waits.has(o) || asked.get(o) > model.get("served") - before + 1);
    const send = (node, act, arg) => {
      model.send({ act: scoped(node, act), arg });
      asked.set(node, ++sent);
      clearTimeout(stale);
      stale = setTimeout(() => root.classList.add("is-stale"), STALE_AFTER);
      if ("urgent" in node.dataset) urgent = setTimeout(interrupt, URGENT_AFTER);
    };
    const interrupt = () => { // a kernel that reads no messages while it is busy; Ctrl-C means the same to it
      const manager = model.widget_manager;
      (manager?.kernel ?? manager?.context?.sessionContext?.session?.kernel)?.interrupt?.();
    };
    const later = (node, act, wait) => {
      clearTimeout(waits.get(node)?.timer);
      waits.set(node, { act, timer: setTimeout(tell, wait, node) });
    };
    const tell = node => {
      const { act, timer } = waits.get(node);
      clearTimeout(timer);
      waits.delete(node);
      send(node, act, value(node));
    };
    const now = (node, act, arg) => { [...waits.keys()].forEach(tell); send(node, act, arg) }; // in the order it was done
    const paint = () => {
      const page = document.createElement("template");
      page.innerHTML = model.get("html");
      const inside = root.contains(document.activeElement) ? document.activeElement : null;
      const group = inside?.closest("[data-roving]"), id = inside?.dataset.id, seen = inside && "sight" in inside.dataset ? inside : null;
      const old = root.firstElementChild, fresh = page.content.firstElementChild;
      if (old && fresh) { // a complaint stands above the picture, which stays the same node
        while (old.childElementCount > fresh.childElementCount) old.firstElementChild.remove();
        while (old.childElementCount < fresh.childElementCount) old.prepend(document.createElement("section"));
        morph(old, fresh, held);
      } else root.replaceChildren(page.content);
      if (seen?.isConnected) seen.scrollIntoView({ block: "nearest", inline: "nearest" });
      marked();
      if (!group?.isConnected) return;
      const stop = group.querySelector('[tabindex="0"]');
      const same = id && (group.querySelector(`[data-id="${CSS.escape(id)}"]`) ?? stop);
      if (same) { // the node that had the focus, wherever it is drawn now
        rove(stop, same);
        return same.focus({ preventScroll: true });
      }
      if (!inside.isConnected || inside.tabIndex === 0) return;
      group.dataset.on ? stop?.focus({ preventScroll: true }) : rove(stop, inside);
    };
    const settle = () => { clearTimeout(stale); clearTimeout(urgent); root.classList.remove("is-stale") };
    const marked = webs(root);
    model.on("change:html", paint);
    model.on("change:served", settle);
    model.on("msg:custom", message => message?.download && save(message));
    paint();

    let hovering, pointed = { arg: "" };
    const point = () => {
      const box = root.querySelector("[data-hover]:hover") ?? pointed.box;
      const arg = box?.querySelector("[data-arg]:hover")?.dataset.arg ?? "";
      if (box !== pointed.box && pointed.arg) send(pointed.box, pointed.box.dataset.hover, "");
      if (box && (arg || box === pointed.box) && arg !== pointed.arg) send(box, box.dataset.hover, arg);
      pointed = { box, arg };
    };
    for (const kind of ["pointerover", "pointerleave"]) root.addEventListener(kind, () => { clearTimeout(hovering); hovering = setTimeout(point, HOVER_WAIT) });

    root.addEventListener("click", event => {
      const area = event.target.closest("[data-point]");
      if (area) {
        const [x0, x1, y0, y1] = area.dataset.point.split(" ").map(Number), box = area.getBoundingClientRect();
        const x = x0 + (x1 - x0) * (event.clientX - box.left) / box.width, y = y1 + (y0 - y1) * (event.clientY - box.top) / box.height;
        area.closest("svg").querySelector("[data-sight]")?.focus({ preventScroll: true });
        return now(area, area.dataset.act, [x, y]);
      }
      const node = event.target.closest("[data-act]");
      if (!node || /^(INPUT|SELECT|TEXTAREA)$/.test(node.nodeName) || node.disabled) return;
      if (event.shiftKey && node.dataset.shift) node.focus({ preventScroll: true }); // Lab takes the focus of such a click
      now(node, acts(node, event), node.dataset.arg ?? "");
    });
    root.addEventListener("input", event => {
      const node = event.target;
      if (!node.dataset.act) return;
      if (/^(text|search|textarea)$/.test(node.type)) later(node, node.dataset.act, TEXT_WAIT);
      else if (node.type === "range") {
        const notch = Math.round((node.value - node.min) / node.step);
        node.closest(".sk-field")?.querySelector("output")?.replaceChildren(node.dataset.names?.split(" ")[notch] ?? node.value);
        if ("live" in node.dataset) later(node, node.dataset.act, DRAG_WAIT);
      }
    });
    root.addEventListener("change", event => {
      const node = event.target;
      if (node.dataset.act && !/^(text|search|textarea)$/.test(node.type)) later(node, node.dataset.act, 0);
    });
    root.addEventListener("keydown", event => {
      event.stopPropagation();
      const node = event.target, presses = event.key === "Enter" || event.key === " ";
      const writes = /^(text|search|number|textarea|range)$/.test(node.type) || node.nodeName === "SELECT";
      if (writes || event.ctrlKey || event.metaKey || event.altKey) return;
      if (presses && /^(BUTTON|INPUT|A|SUMMARY)$/.test(node.nodeName)) return; // the browser makes it a click
      for (let box = node.closest("[data-keys]"); box; box = box.parentElement?.closest("[data-keys]"))
        if (box.dataset.keys.split(" ").includes(event.key)) {
          if (presses && node.dataset.act) now(node, node.dataset.act, node.dataset.arg ?? ""); // this row, then its card
          now(box, box.dataset.on, node.dataset.id ? [event.key, node.dataset.id] : event.key);
          return event.preventDefault();
        }
      const stops = [...(node.closest("[data-roving]:not([data-on])")?.querySelectorAll("[tabindex]") ?? [])];
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step && stops.includes(node)) {
        const next = stops[(stops.indexOf(node) + step + stops.length) % stops.length];
        rove(node, next);
        next.focus();
        return event.preventDefault();
      }
      if (presses && node.dataset.act) {
        now(node, acts(node, event), node.dataset.arg ?? "");
        event.preventDefault();
      }
    });
    return () => { clearTimeout(stale); clearTimeout(hovering); waits.forEach(({ timer }) => clearTimeout(timer)) };
  },
};

function rove(from, to) {
  if (from) from.tabIndex = -1;
  to.tabIndex = 0;
}

function save({ download, text }) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/html" }));
  link.download = download;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
