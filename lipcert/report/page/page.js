"use strict";
// The value of the cell under the pointer, or of the cell that the arrow keys have come to.
for (const map of document.querySelectorAll("[data-map]")) {
  const grid = JSON.parse(document.getElementById(map.dataset.map).textContent);
  const out = document.getElementById(map.dataset.map + "-out");
  const cursor = map.querySelector(".cursor");
  const [left, right, top, bottom] = map.dataset.frame.split(" ").map(Number);
  const [xs, ys] = grid.edges;
  let cell = [0, 0];

  const across = (x) => left + ((x - xs[0]) / (xs[xs.length - 1] - xs[0])) * (right - left);
  const upward = (y) => bottom - ((y - ys[0]) / (ys[ys.length - 1] - ys[0])) * (bottom - top);
  const short = (value) => Number(value.toPrecision(4)).toString();
  const shown = (value) => (value === null ? "?" : value.toPrecision(6));

  function show(i, j) {
    cell = [Math.min(Math.max(i, 0), grid.shape[0] - 1), Math.min(Math.max(j, 0), grid.shape[1] - 1)];
    [i, j] = cell;
    const place = i * grid.shape[1] + j;
    out.textContent =
      `${grid.names[0]} ${short(xs[i])} to ${short(xs[i + 1])}, ${grid.names[1]} ${short(ys[j])} to ${short(ys[j + 1])}: ` +
      `${shown(grid.lower[place])} \u2264 L \u2264 ${shown(grid.upper[place])}`;
    cursor.setAttribute("x", across(xs[i]));
    cursor.setAttribute("y", upward(ys[j + 1]));
    cursor.setAttribute("width", across(xs[i + 1]) - across(xs[i]));
    cursor.setAttribute("height", upward(ys[j]) - upward(ys[j + 1]));
    cursor.setAttribute("visibility", "visible");
  }

  map.addEventListener("pointermove", (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
    const last = (edges, place) => edges.findLastIndex((edge) => place(edge));
    const i = last(xs, (x) => across(x) <= point.x);
    const j = last(ys, (y) => upward(y) >= point.y);
    if (i >= 0 && j >= 0 && i < grid.shape[0] && j < grid.shape[1]) show(i, j);
  });
  map.addEventListener("focus", () => show(...cell));
  map.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) return;
    event.preventDefault();
    show(cell[0] + move[0], cell[1] + move[1]);
  });
  map.addEventListener("blur", () => cursor.setAttribute("visibility", "hidden"));
  map.addEventListener("pointerleave", () => {
    if (document.activeElement !== map) cursor.setAttribute("visibility", "hidden");
  });
}
