"use strict";
// Three slices of a map on a background, moved by pointer, keys and sliders; and tables that sort.

const PLANES = [
  { name: "sagittal", cut: 0, across: 1, up: 2, sides: ["P", "A"] },
  { name: "coronal", cut: 1, across: 0, up: 2, sides: ["L", "R"] },
  { name: "axial", cut: 2, across: 0, up: 1, sides: ["L", "R"] },
];
const WARM = [[253, 208, 162], [230, 85, 13], [127, 0, 0]];
const COLD = [[198, 219, 239], [49, 130, 189], [8, 29, 88]];

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function colour(share, stops) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((value, channel) => value + (at - low) * (stops[low + 1][channel] - value));
}

class Viewer {
  constructor(root, told, values, background) {
    Object.assign(this, { root, told, values, background, at: told.start.slice() });
    this.readout = root.querySelector("output");
    this.scale = Math.max(1, Math.floor(300 / Math.max(...told.shape.map((size, axis) => size * told.steps[axis])) *
      Math.min(...told.steps))) / Math.min(...told.steps);  // pixels of the canvas a mm
    this.canvases = PLANES.map((plane) => root.querySelector(`canvas.${plane.name}`));
    this.sliders = [...root.querySelectorAll("input.place")];
    this.level = root.querySelector("input.level");
    this.canvases.forEach((canvas, number) => this.listen(canvas, PLANES[number]));
    this.sliders.forEach((slider, axis) => slider.addEventListener("input", () => this.move(axis, Number(slider.value))));
    this.level.addEventListener("input", () => this.draw());
    this.legend(root.querySelector("canvas.bar"));
    this.draw();
  }

  index([i, j, k]) {
    return i + this.told.shape[0] * (j + this.told.shape[1] * k);
  }

  value(place) {
    const code = this.values[this.index(place)];
    return code === 0 ? null : ((code - 32768) / 32767) * this.told.largest;
  }

  mm(place) {
    return this.told.affine.slice(0, 3).map((row) => row[0] * place[0] + row[1] * place[1] + row[2] * place[2] + row[3]);
  }

  move(axis, to) {
    this.at[axis] = Math.min(Math.max(Math.round(to), 0), this.told.shape[axis] - 1);
    this.draw();
  }

  goto(mm) {
    const place = this.told.inverse.slice(0, 3).map((row) => row[0] * mm[0] + row[1] * mm[1] + row[2] * mm[2] + row[3]);
    place.forEach((to, axis) => this.move(axis, to));
    this.root.scrollIntoView({ block: "nearest" });
  }

  listen(canvas, plane) {
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const width = this.told.shape[plane.across], height = this.told.shape[plane.up];
      this.move(plane.across, ((event.clientX - box.left) / box.width) * width - 0.5);
      this.move(plane.up, height - 0.5 - ((event.clientY - box.top) / box.height) * height);
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); point(event); });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
    const keys = {
      ArrowLeft: [plane.across, -1], ArrowRight: [plane.across, 1], ArrowDown: [plane.up, -1], ArrowUp: [plane.up, 1],
      PageDown: [plane.cut, -1], PageUp: [plane.cut, 1],
    };
    canvas.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      const [axis, step] = keys[event.key];
      this.move(axis, this.at[axis] + step);
    });
  }

  paint(canvas, plane) {
    const width = this.told.shape[plane.across], height = this.told.shape[plane.up], least = Number(this.level.value);
    const image = new ImageData(width, height), place = this.at.slice();
    for (let up = 0; up < height; up++) {
      for (let across = 0; across < width; across++) {
        place[plane.across] = across;
        place[plane.up] = up;
        const grey = this.background ? this.background[this.index(place)] : 0;
        const value = this.value(place);
        let shade = [grey, grey, grey];
        if (value !== null && Math.abs(value) >= least && value !== 0) {
          const share = (Math.abs(value) - least) / Math.max(this.told.largest - least, 1e-9);
          shade = colour(share, value > 0 ? WARM : COLD);
        } else if (!this.background && value !== null) {
          shade = [60, 60, 60];
        }
        image.data.set([...shade, 255], 4 * (across + width * (height - 1 - up)));
      }
    }
    const whole = new OffscreenCanvas(width, height);
    whole.getContext("2d").putImageData(image, 0, 0);
    const wide = this.told.steps[plane.across] * this.scale, high = this.told.steps[plane.up] * this.scale;
    canvas.width = Math.round(width * wide);
    canvas.height = Math.round(height * high);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(whole, 0, 0, canvas.width, canvas.height);
    context.strokeStyle = "rgba(120, 220, 120, 0.8)";
    const x = (this.at[plane.across] + 0.5) * wide, y = (height - 0.5 - this.at[plane.up]) * high;
    context.beginPath();
    context.moveTo(x, 0); context.lineTo(x, canvas.height);
    context.moveTo(0, y); context.lineTo(canvas.width, y);
    context.stroke();
    context.fillStyle = "#ffffff";
    context.font = "600 14px system-ui, sans-serif";
    context.fillText(plane.sides[0], 4, 16);
    context.textAlign = "right";
    context.fillText(plane.sides[1], canvas.width - 4, 16);
  }

  draw() {
    PLANES.forEach((plane, number) => this.paint(this.canvases[number], plane));
    const value = this.value(this.at), mm = this.mm(this.at).map((one) => String(Math.round(one * 100) / 100));
    const text = `${mm.join(", ")} mm: ${value === null ? "no value" : value.toPrecision(3)}`;
    this.readout.textContent = text;
    this.sliders.forEach((slider, axis) => {
      slider.value = this.at[axis];
      slider.setAttribute("aria-valuetext", text);
    });
    this.root.querySelector(".least").textContent = Number(this.level.value).toPrecision(3);
  }

  legend(canvas) {
    const context = canvas.getContext("2d");
    for (let x = 0; x < canvas.width; x++) {
      const share = this.told.signed ? (2 * x) / (canvas.width - 1) - 1 : x / (canvas.width - 1);
      context.fillStyle = `rgb(${colour(Math.abs(share), share < 0 ? COLD : WARM).map(Math.round).join(",")})`;
      context.fillRect(x, 0, 1, canvas.height);
    }
  }
}

function sortable(table) {
  table.querySelectorAll("th button").forEach((button) => {
    button.addEventListener("click", () => {
      const header = button.closest("th"), column = header.cellIndex, body = table.tBodies[0];
      const falling = header.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        if (a === "" || b === "") return (a === "") - (b === "");  // what is empty comes last
        const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return falling ? -order : order;
      };
      [...body.rows].sort((a, b) => compare(key(a), key(b))).forEach((row) => body.append(row));
    });
  });
}

async function start() {
  document.querySelectorAll("table.sortable").forEach(sortable);
  const data = JSON.parse(document.getElementById("volumes").textContent);
  const backgrounds = await Promise.all(data.backgrounds.map((text) => (text ? inflate(text) : null)));
  const viewers = {};
  for (const told of data.maps) {
    const root = document.getElementById(told.id);
    viewers[told.id] = new Viewer(root, told, new Uint16Array((await inflate(told.values)).buffer), backgrounds[told.background]);
  }
  document.querySelectorAll("button[data-mm]").forEach((button) => {
    button.addEventListener("click", () => viewers[button.dataset.viewer].goto(button.dataset.mm.split(" ").map(Number)));
  });
  document.documentElement.dataset.ready = "yes";
}

start();
