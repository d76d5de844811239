// What is under the pointer is written in its data-tip; this shows it beside the pointer.
(() => {
  const tip = document.getElementById("tip");
  const show = (event) => {
    const over = event.target.closest && event.target.closest("[data-tip]");
    tip.hidden = !over;
    if (!over) return;
    tip.textContent = over.dataset.tip;
    const box = tip.getBoundingClientRect();
    const right = event.clientX + 14 + box.width < innerWidth;
    const x = right ? event.clientX + 14 : Math.max(4, event.clientX - 14 - box.width);
    const y = Math.min(event.clientY + 14, innerHeight - box.height - 4);
    tip.style.left = `${x}px`;
    tip.style.top = `${Math.max(4, y)}px`;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
