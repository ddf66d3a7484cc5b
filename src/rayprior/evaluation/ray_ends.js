// Where the samples of one pixel's ray lie in the other pictures, and along the ray.
const places = page.bins + page.kinds.length, NOWHERE = 65535, EMPTY = 0.02;  // opacity below which a ray has no end
const rays = page.views.map((view) => ({
  weights: unpacked(view.weights, Uint8Array),
  opacity: unpacked(view.opacity, Uint8Array),
  distances: unpacked(view.distances, Uint16Array),
  seen: view.seen.map((text) => text && unpacked(text, Uint16Array)),
}));

function answer(view, column, row) {
  const ray = row * page.views[view].grid[0] + column, {weights, opacity, distances, seen} = rays[view];
  const weight = [...weights.subarray(ray * page.bins, (ray + 1) * page.bins)].map((level) => level / 255);
  const heaviest = Math.max(...weight, 1e-9), total = weight.reduce((sum, w) => sum + w, 0);
  const opaque = opacity[ray] / 255;
  document.getElementById("more").replaceChildren();
  if (opaque < EMPTY) return "the ray ends nowhere, it passes through";
  seen.forEach((levels, other) => {
    if (levels === null) return;
    const [width, height] = page.views[other].size;
    let inside = 0;
    for (let i = 0; i < places; i++) {
      const from = 2 * (ray * places + i);
      if (levels[from] === NOWHERE) continue;
      const u = levels[from] / (NOWHERE - 1) * width, v = levels[from + 1] / (NOWHERE - 1) * height;
      if (i >= page.bins) mark(other, `k${i - page.bins}`, i === page.bins ? "cross" : "ring", u, v, 1, 2 + 2 * (i - page.bins));
      else if (weight[i] > 0) { mark(other, "sample", "dot", u, v, weight[i] / heaviest); inside++; }
    }
    lines[other].textContent = inside ? "" : "sees no end of this ray";
  });
  const distance = [...distances.subarray(ray * places, (ray + 1) * places)].map((level) => level * page.distance);
  drawRay(distance, weight, heaviest);
  const share = Math.min(total / opaque, 1);
  const words = page.kinds.map((kind, i) => `${kind} ${distance[page.bins + i].toPrecision(4)}`).join(", ");
  return `opacity ${opaque.toFixed(2)}, of which the samples shown hold ${(100 * share).toFixed(0)} %; ${words}`;
}

// The ray from left to right: a stem for each sample, as high as it is heavy.
function drawRay(distance, weight, heaviest) {
  const ends = distance.filter((value, i) => i >= page.bins || weight[i] > 0);
  const low = Math.min(...ends), room = (Math.max(...ends) - low || low || 1) * 0.06;
  const start = low - room, length = Math.max(...ends) + room - start;
  const x = (value) => 400 * (value - start) / length;
  const stems = weight.map((w, i) => w > 0 ? `<path class="stem" d="M${x(distance[i])} 40v${-34 * w / heaviest}"/>` : "");
  const kinds = page.kinds.map((kind, i) => `<path class="k${i}" d="M${x(distance[page.bins + i])} 44v10"/>`);
  document.getElementById("more").innerHTML =
    `<svg class="ray" viewBox="0 0 400 58" preserveAspectRatio="none" role="img" aria-label="samples along the ray">` +
    `<path class="axis" d="M0 40h400"/>${stems.join("")}${kinds.join("")}</svg>` +
    `<p class="soft ends"><span>${start.toPrecision(4)}</span><span>distance along the ray, the capture’s unit</span>` +
    `<span>${(start + length).toPrecision(4)}</span></p>`;
}
