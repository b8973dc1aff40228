// A web of nodes and edges: what is pointed at or focused is marked with all that hangs on it, and arrows lead along the
// edges. Nothing is asked of a kernel, so that a saved page does the same.
//   data-web data-at="7"             the figure; the node that is marked while none is pointed at
//   data-id="7" data-to="12 3 - 9"   a node; where up, down, left and right lead from it, - for nowhere
//   data-of="7 12"                   marked (is-near) with nodes 7 and 12: an edge and its ends, a node and its neighbours
function webs(root) {
  const ARROWS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"];
  const of = target => target?.closest?.("[data-web] [data-id]");
  const mark = web => {
    const at = of(pointed) ?? of(document.activeElement), id = at && web.contains(at) ? at.dataset.id : web.dataset.at;
    const near = new Set(id ? web.querySelectorAll(`[data-of~="${CSS.escape(id)}"]`) : []);
    web.querySelectorAll(".is-near").forEach(node => near.has(node) || node.classList.remove("is-near"));
    near.forEach(node => node.classList.add("is-near"));
  };
  const seen = new WeakSet();
  const begin = web => { // the target stands at the right end
    const box = web.closest(".sk-scroll");
    if (box && !seen.has(web)) { seen.add(web); box.scrollLeft = box.scrollWidth }
    mark(web);
  };
  const all = () => root.querySelectorAll("[data-web]").forEach(begin);
  let pointed = null;
  root.addEventListener("pointerover", event => { const was = of(pointed); pointed = event.target; if (of(pointed) !== was) all() });
  root.addEventListener("pointerleave", () => { pointed = null; all() });
  root.addEventListener("focusin", event => { pointed = null; of(event.target) && all() });
  root.addEventListener("focusout", event => of(event.target) && queueMicrotask(all));
  root.addEventListener("keydown", event => {
    const node = of(event.target), way = ARROWS.indexOf(event.key);
    if (!node?.dataset.to || way < 0) return;
    event.preventDefault();
    const id = node.dataset.to.split(" ")[way], next = id !== "-" && node.closest("[data-web]").querySelector(`[data-id="${CSS.escape(id)}"]`);
    if (!next) return;
    node.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus({ preventScroll: true });
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  });
  return all;
}
