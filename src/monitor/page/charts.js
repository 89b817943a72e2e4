"use strict";
// Timelines of epochs with a histogram beside them that shares their scale. Plain SVG.

const svg = (name, attributes = {}, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

const round = (value) => Math.round(value * 10) / 10;

// The least of 1, 2, 2.5, 5 times a power of ten that is not below `value`.
function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

class Chart {
  // `stacks` are named functions of an epoch whose values are drawn on each other.
  constructor(figure, { label, stacks, format, limit, summary }) {
    Object.assign(this, { figure, label, stacks, format, limit, summary });
    this.output = figure.querySelector("output");
    this.image = svg("svg", { role: "img", tabindex: "0" });
    figure.append(this.image);
    this.epochs = [];
    this.at = null;
    new ResizeObserver(() => this.draw()).observe(figure);
    this.image.addEventListener("pointermove", (event) => this.point(event));
    this.image.addEventListener("pointerleave", () => this.select(null));
    this.image.addEventListener("blur", () => this.select(null));
    this.image.addEventListener("keydown", (event) => this.key(event));
  }

  show(epochs) {
    this.epochs = epochs;
    if (this.at !== null && this.at >= epochs.length) this.at = null;
    this.draw();
  }

  total(epoch) {
    return this.stacks.reduce((sum, stack) => sum + stack.value(epoch), 0);
  }

  point(event) {
    if (!this.xs || !this.xs.length) return;
    const x = event.clientX - this.image.getBoundingClientRect().left;
    let best = 0;
    this.xs.forEach((other, at) => { if (Math.abs(other - x) < Math.abs(this.xs[best] - x)) best = at; });
    this.select(best);
  }

  key(event) {
    const last = this.epochs.length - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -last, End: last };
    if (!(event.key in steps) || last < 0) return;
    event.preventDefault();
    const from = this.at === null ? last + (event.key === "ArrowLeft" ? 1 : 0) : this.at;
    this.select(Math.max(0, Math.min(last, from + steps[event.key])));
  }

  select(at) {
    if (this.at === at) return;
    this.at = at;
    this.draw();
  }

  draw() {
    const width = Math.max(200, this.figure.clientWidth - 28), height = 154;
    const [left, top, bottom, side, gap] = [44, 16, 20, Math.min(70, width * 0.17), 12];
    const inner = { width: width - left - side - gap, height: height - top - bottom };
    const { epochs, image } = this;
    const totals = epochs.map((epoch) => this.total(epoch));
    const limit = this.limit ? this.limit() : null;
    // A limit far above everything would press the rest flat: it is then drawn at the upper edge.
    const most = Math.max(...totals, 1e-9);
    const isFar = limit !== null && epochs.length > 0 && limit > 4 * most;
    const highest = ceiling(isFar ? most * 1.25 : Math.max(most, limit ?? 0));
    const first = epochs.length ? epochs[0].epoch : 0;
    const span = epochs.length > 1 ? epochs[epochs.length - 1].epoch - first : 1;
    const x = (epoch) => left + (epochs.length > 1 ? (epoch.epoch - first) / span : 1) * inner.width;
    const y = (value) => top + (1 - value / highest) * inner.height;
    this.xs = epochs.map(x);
    image.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const value = highest * share;
      parts.push(svg("line", { class: "grid", x1: left, x2: left + inner.width, y1: y(value), y2: y(value) }));
      parts.push(svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, this.format(value)));
    }
    if (epochs.length) {
      const time = (epoch) => new Date(epoch.epoch).toLocaleTimeString([], { hour12: false });
      parts.push(svg("text", { x: left, y: height - 4 }, time(epochs[0])));
      if (epochs.length > 1) {
        parts.push(svg("text", { x: left + inner.width, y: height - 4, "text-anchor": "end" }, time(epochs[epochs.length - 1])));
      }
      parts.push(...this.areas(x, y));
      parts.push(...this.shares(totals, highest, { x: left + inner.width + gap, y, width: side }));
    }
    if (limit !== null) {
      const level = isFar ? top - 7 : y(limit);
      parts.push(svg("line", { class: "limit", x1: left, x2: left + inner.width, y1: level, y2: level }));
      const name = isFar ? `interval, ${this.format(limit)}: off the scale` : "interval";
      const side = { x: left + inner.width, "text-anchor": "end" };
      parts.push(svg("text", { class: "limit-text", ...side, y: level < top + 14 ? level + 13 : level - 4 }, name));
    }
    const chosen = this.at === null ? null : epochs[this.at];
    if (chosen) {
      parts.push(svg("line", { class: "cursor", x1: x(chosen), x2: x(chosen), y1: top, y2: top + inner.height }));
      parts.push(svg("circle", { class: "spot", cx: x(chosen), cy: y(this.total(chosen)), r: 3.5 }));
    }
    image.replaceChildren(...parts);
    const shown = chosen ?? epochs[epochs.length - 1];
    this.output.textContent = shown ? this.summary(shown, chosen !== null && chosen !== undefined) : "";
    image.setAttribute("aria-label", `${this.label}, ${epochs.length} epochs. ${this.output.textContent}`);
  }

  // One stack is a line with its area; several are areas on each other.
  areas(x, y) {
    const { epochs, stacks } = this;
    const below = epochs.map(() => 0);
    return stacks.flatMap((stack) => {
      const floor = epochs.map((epoch, at) => [x(epoch), y(below[at])]);
      epochs.forEach((epoch, at) => { below[at] += stack.value(epoch); });
      const line = epochs.map((epoch, at) => [x(epoch), y(below[at])]);
      if (epochs.length === 1) {
        const [[at, level]] = line;
        return [svg("circle", { class: stacks.length > 1 ? stack.class : "spot", cx: at, cy: level, r: 3 })];
      }
      const path = (points) => points.map(([px, py]) => `${round(px)} ${round(py)}`).join("L");
      const area = svg("path", { class: stacks.length > 1 ? stack.class : "area", d: `M${path(line)}L${path(floor.reverse())}Z` });
      return stacks.length > 1 ? [area] : [area, svg("path", { class: "trace", d: `M${path(line)}` })];
    });
  }

  // How often each height occurs: bars that share the scale of the timeline.
  shares(totals, highest, place) {
    const bins = 12, counts = new Array(bins).fill(0);
    totals.forEach((total) => { counts[Math.min(bins - 1, Math.floor((total / highest) * bins))] += 1; });
    const most = Math.max(...counts);
    return counts.flatMap((count, bin) => {
      if (!count) return [];
      const [low, high] = [place.y((bin * highest) / bins), place.y(((bin + 1) * highest) / bins)];
      const bar = svg("rect", { class: "share", x: place.x, y: high + 1, width: Math.max(2, (count / most) * place.width), height: Math.max(1, low - high - 2), rx: 1.5 });
      bar.append(svg("title", {}, `${this.format((bin * highest) / bins)} to ${this.format(((bin + 1) * highest) / bins)}: ${count} epochs`));
      return [bar];
    });
  }
}
