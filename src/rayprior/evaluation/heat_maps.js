// Heat maps of one pixel's descriptor over all other pictures, and its best match there.
const dimension = page.low.length, SHADES = 2048, REACH = 7;  // heat is nothing beyond so many widths
const descriptors = page.views.map((view) => {
  const levels = unpacked(view.descriptors, page.bits === 8 ? Uint8Array : Uint16Array);
  return Float32Array.from(levels, (level, at) => page.low[at % dimension] + page.step[at % dimension] * level);
});
const shades = shadesOfDistance();
const pictures = page.views.map((view, number) => {
  [canvases[number].width, canvases[number].height] = view.grid;
  const image = new ImageData(...view.grid);
  return {image, words: new Uint32Array(image.data.buffer), context: canvases[number].getContext("2d")};
});
document.getElementById("width").textContent = page.width;

// The colour of each distance: hot is bright and hides the picture, cold is dark and lets it shine through.
function shadesOfDistance() {
  const colours = unpacked(page.colours, Uint8Array), bytes = new Uint8Array(4 * SHADES);
  for (let shade = 0; shade < SHADES; shade++) {
    const heat = Math.exp(-shade * REACH / SHADES), colour = 3 * Math.round(255 * heat);
    bytes.set([colours[colour], colours[colour + 1], colours[colour + 2], Math.round(255 * (0.62 + 0.3 * heat))], 4 * shade);
  }
  return new Uint32Array(bytes.buffer);
}

function answer(view, column, row) {
  const from = dimension * (row * page.views[view].grid[0] + column);
  const query = descriptors[view].slice(from, from + dimension);
  pictures.forEach((picture, other) => {
    canvases[other].hidden = other === view;
    if (other === view || figures[other].hidden) return;
    const [best, distance] = spread(descriptors[other], query, picture.words);
    picture.context.putImageData(picture.image, 0, 0);
    const columns = page.views[other].grid[0];
    const [u, v] = pixel(other, best % columns, Math.floor(best / columns));
    mark(other, "match", "cross", u, v, 1, 5);
    lines[other].textContent = `${distance.toFixed(3)} at (${u.toFixed(1)}, ${v.toFixed(1)})`;
  });
  return `descriptor (${[...query].map((number) => number.toFixed(3)).join(", ")})`;
}

// Fill a picture with the heat of a query; [index, distance] of the best match.
function spread(grid, query, words) {
  const scale = SHADES / REACH / page.width;
  let best = 0, least = Infinity;
  for (let at = 0, from = 0; at < words.length; at++) {
    let square = 0;
    for (let channel = 0; channel < dimension; channel++, from++) {
      const difference = grid[from] - query[channel];
      square += difference * difference;
    }
    if (square < least) { least = square; best = at; }
    const shade = Math.sqrt(square) * scale;
    words[at] = shades[shade < SHADES ? shade | 0 : SHADES - 1];
  }
  return [best, Math.sqrt(least)];
}
