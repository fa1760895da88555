// Two rows beside each other, setting by setting.

function drawComparison() {
  const [a, b] = state.pair.map(rowOf);
  $("compare").hidden = !board().pairs || board().rows.filter((row) => row.mad).length < 2;
  if (!a || !b) return $("verdict").replaceChildren();
  $("verdict").replaceChildren(h("p", { class: "note" }, "..."));
}
