"use strict";
// Plotly's figures, and one clock for everything of a recording: pictures, curves, scale and strip.
const failed = (text) => { const box = document.getElementById("failed"); box.textContent = text; box.style.display = "block"; };

const unpacked = async () => {
  const packed = Uint8Array.from(atob(document.getElementById("plotly-library").textContent), (c) => c.charCodeAt(0));
  const library = document.createElement("script");
  library.textContent = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(library);
};

const dressed = (layout) => {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: colour("--line"), linecolor: colour("--line"), tickcolor: colour("--line") };
  return { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--text"), size: 12, family: "system-ui, sans-serif" },
    hoverlabel: { bgcolor: colour("--card"), font: { color: colour("--text") } },
    xaxis: { ...layout.xaxis, ...axis }, yaxis: { ...layout.yaxis, ...axis } };
};

// One recording's clock. `at(time_s)` moves the line in every plot and shows the nearest pictures.
class Player {
  constructor(episode) {
    this.episode = episode;
    const source = episode.querySelector(".shots-data");
    this.shots = source ? JSON.parse(source.textContent) : { times_s: [], cameras: {} };
    this.bar = episode.querySelector(".shots");
    this.end_s = Number(episode.dataset.end);
    this.time_s = 0;
    this.lines = new Map();
    if (!this.bar) return;
    this.range = this.bar.querySelector("input");
    this.range.max = String(this.end_s);
    this.range.addEventListener("input", () => this.at(Number(this.range.value)));
    this.play = this.bar.querySelector(".play");
    this.play.addEventListener("click", () => this.toggle());
    this.at(0);
  }
  at(time_s) {
    this.time_s = Math.min(Math.max(time_s, 0), this.end_s);
    if (this.bar) {
      this.range.value = String(this.time_s);
      this.bar.querySelector("output").textContent = `${this.time_s.toFixed(2)} s`;
      const times = this.shots.times_s;
      const nearest = times.reduce((best, t, i) => Math.abs(t - this.time_s) < Math.abs(times[best] - this.time_s) ? i : best, 0);
      for (const image of this.bar.querySelectorAll("img")) image.src = this.shots.cameras[image.dataset.camera][nearest];
    }
    for (const place of this.lines.keys()) this.mark(place);
  }
  mark(place) {
    const { xaxis, yaxis } = place._fullLayout;
    const x = xaxis.l2p(this.time_s), line = this.lines.get(place);
    line.hidden = x < 0 || x > xaxis._length;
    Object.assign(line.style, { left: `${xaxis._offset + x}px`, top: `${yaxis._offset}px`, height: `${yaxis._length}px` });
  }
  follow(place) {
    if (this.lines.has(place)) return this.mark(place);
    const line = document.createElement("div");
    line.className = "cursor";
    place.append(line);
    this.lines.set(place, line);
    place.on("plotly_hover", (event) => {
      const point = event.points[0];  // a bar of the strip lies along time: its x is how long it is
      this.at(point.data.base ? point.data.base[point.pointNumber] : point.x);
    });
    place.on("plotly_relayout", () => this.mark(place));
    place.on("plotly_afterplot", () => this.mark(place));
    this.mark(place);
  }
  toggle() {
    this.playing = !this.playing;
    this.play.textContent = this.playing ? "❚❚" : "▶";
    if (!this.playing) return;
    if (this.time_s >= this.end_s) this.at(0);
    let last_ms = performance.now();
    const step = (now_ms) => {
      if (!this.playing) return;
      this.at(this.time_s + Number(this.bar.querySelector("select").value) * Math.min(Math.max(now_ms - last_ms, 0), 100) / 1000);
      last_ms = now_ms;
      if (this.time_s >= this.end_s) this.toggle(); else requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
  key(event) {
    const moves = { ArrowLeft: -0.1, ArrowRight: 0.1, ",": -1 / 30, ".": 1 / 30, Home: -this.end_s, End: this.end_s };
    if (event.key === " ") this.toggle();
    else if (event.key in moves) this.at(this.time_s + moves[event.key]);
    else return;
    event.preventDefault();
  }
}

(async () => {
  if (typeof DecompressionStream === "undefined") {
    failed("The plots need a browser from 2023 or newer; the tables and pictures are complete.");
    return;
  }
  await unpacked();
  const figures = new Map([...document.querySelectorAll("script[data-figure]")].map((s) => [s.dataset.figure, JSON.parse(s.textContent)]));
  const players = new Map([...document.querySelectorAll("details.episode")].map((episode) => [episode, new Player(episode)]));
  const hidden = new Set();
  const image = (place, format) => Plotly.downloadImage(place, { format, filename: place.id, width: 900, height: place.clientHeight * 1.5 });
  const exported = (place) => {
    const card = place.closest(".card");
    if (!card || card.querySelector(".export")) return;
    const bar = document.createElement("div");
    bar.className = "export";
    bar.append(button("PNG", () => image(place, "png")), button("SVG", () => image(place, "svg")));
    card.append(bar);
  };
  const draw = async (place) => {
    const figure = figures.get(place.id);
    if (place.classList.contains("joint"))
      figure.data.forEach((trace, i) => { trace.visible = !hidden.has(String(i)); });
    await Plotly.react(place, figure.data, dressed(figure.layout), { responsive: true, displaylogo: false, displayModeBar: false });
    players.get(place.closest("details.episode"))?.follow(place);
    exported(place);
  };
  const drawn = (scope) => Promise.all([...scope.querySelectorAll(".plot")].filter((place) => !place.closest("details:not([open])")).map(draw));
  await drawn(document);
  for (const details of document.querySelectorAll("details")) details.addEventListener("toggle", () => drawn(details));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn(document));
  for (const switched of document.querySelectorAll("[data-series]")) switched.addEventListener("click", () => {
    const pressed = switched.getAttribute("aria-pressed") === "true";
    switched.setAttribute("aria-pressed", String(!pressed));
    if (pressed) hidden.add(switched.dataset.series); else hidden.delete(switched.dataset.series);
    drawn(document);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, button, textarea, summary, a") || event.ctrlKey || event.metaKey || event.altKey) return;
    const open = [...players.keys()].filter((episode) => episode.open);
    const near = open.find((episode) => episode.getBoundingClientRect().bottom > innerHeight / 2) ?? open[0];
    const place = near?.getBoundingClientRect();
    if (place && place.top < innerHeight && place.bottom > 0) players.get(near).key(event);
  });
  document.documentElement.dataset.plots = String(document.querySelectorAll(".js-plotly-plot").length);
})();
