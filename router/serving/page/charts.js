// Elements and small pictures. All text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (null and false: left out) and children (elements or texts). */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same of SVG. Lengths in per cent: a picture then takes its width from the page, and its text does not stretch. */
function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const percent = (share) => `${(100 * Math.min(1, Math.max(0, share))).toFixed(2)}%`;
const anchor = (share) => (share < 0.12 ? "start" : share > 0.88 ? "end" : "middle");
export const share = (value) => `${(100 * value).toFixed(1)} %`;
export const count = (value) => Math.round(value).toLocaleString("en");

const rule = (at, y1, y2, kind) => draw("line", { x1: percent(at), x2: percent(at), y1, y2, class: kind });
const words = (at, y, text) => draw("text", { x: percent(at), y, "text-anchor": anchor(at) }, text);

/** A bar for each specialist: `rows` are [name, confidence or null, chosen], `threshold` may be null. */
export function routeBars(rows, threshold) {
  const list = make("ol", { class: "bars" });
  for (const [name, confidence, chosen] of rows) {
    const bar = draw("svg", { "aria-hidden": "true" },
      draw("rect", { class: "track", width: "100%", height: "100%", rx: 3 }),
      confidence === null ? null : draw("rect", { class: "bar", width: percent(confidence), height: "100%", rx: 3 }),
      threshold === null ? null : rule(threshold, "0", "100%", "level"));
    list.append(make("li", chosen ? { class: "chosen", "aria-current": "true" } : {},
      make("span", { class: "name", title: name }, name), bar,
      make("span", { class: "value" }, confidence === null ? "–" : confidence.toFixed(2))));
  }
  const axis = draw("svg", { "aria-hidden": "true" },
    threshold === null ? null : rule(threshold, "0", "5", "level"),
    threshold === null ? null : words(threshold, 17, `enough: ${threshold.toFixed(2)}`));
  list.append(make("li", { class: "axis", "aria-hidden": "true" }, make("span"), axis, make("span")));
  return list;
}

// One shape a baseline, so that colour is not the only difference; drawn about (0, 0).
const SHAPES = ["M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0", "M0,-5L5,4H-5Z", "M0,-5.5L5.5,0L0,5.5L-5.5,0Z", "M-4,-4H4V4H-4Z"];
const shape = (index) => draw("path", { d: SHAPES[index % SHAPES.length], class: `shape k${index % SHAPES.length}` });

/** Accuracy as a bar with the whisker of its interval, the baselines beneath it. */
export function accuracy(one) {
  const said = `${share(one.accuracy)}${one.interval ? `, ${one.interval.map(share).join(" to ")}` : ""}`;
  const picture = draw("svg", { class: "accuracy", role: "img", "aria-label": `${one.name}: ${said}` });
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) picture.append(rule(tick, 2, 44, "grid"));
  picture.append(draw("rect", { class: "bar", y: 5, height: 16, width: percent(one.accuracy), rx: 2 }));
  if (one.interval) {
    const [low, high] = one.interval;
    picture.append(draw("line", { class: "whisker", x1: percent(low), x2: percent(high), y1: 13, y2: 13 }));
    for (const end of [low, high]) picture.append(rule(end, 8, 18, "whisker"));
  }
  const keys = make("ul", { class: "keys" });
  one.baselines.forEach((baseline, index) => {
    picture.append(draw("svg", { x: percent(baseline.accuracy), y: 34, overflow: "visible" }, shape(index)));
    keys.append(make("li", {},
      draw("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" }, shape(index)),
      `${baseline.name} ${share(baseline.accuracy)}`));
  });
  for (const tick of [0, 0.5, 1]) picture.append(words(tick, 57, `${100 * tick} %`));
  return make("figure", {}, picture, keys);
}

/** Tokens a second over time, oldest first. */
export function sparkline(values) {
  const top = Math.max(1, ...values);
  const points = values.map((value, at) => `${at},${(39 - (37 * value) / top).toFixed(2)}`);
  const last = values.length - 1;
  const said = `between ${count(Math.min(...values))} and ${count(Math.max(...values))} tokens a second`;
  return draw("svg", { class: "spark", viewBox: `0 0 ${last} 40`, preserveAspectRatio: "none", role: "img", "aria-label": said },
    draw("path", { class: "area", d: `M0,40L${points.join("L")}L${last},40Z` }),
    draw("polyline", { points: points.join(" "), "vector-effect": "non-scaling-stroke" }));
}
