"use strict";
// Draws the figures in #data, follows choices and the colour scheme, and lets arrow keys read points.
(() => {
  const panels = JSON.parse(document.getElementById("data").textContent);
  // Asked anew each time: Chromium tells no listener of a change that somebody has read from the same object before.
  const DARK = "(prefers-color-scheme: dark)", NARROW = "(max-width: 40rem)", TOUCH = "(pointer: coarse)";
  const is = (query) => matchMedia(query).matches;
  const live = document.getElementById("live");
  const all = (query, root = document) => [...root.querySelectorAll(query)];

  // Okabe and Ito's colours, where the paper would swallow them a little darker or lighter.
  const tuned = {
    light: { "#e69f00": "#c08400", "#56b4e9": "#2b97d6", "#cc79a7": "#bd5f94" },
    dark: { "#0072b2": "#4c9fd6", "#d55e00": "#f0813a", "#009e73": "#2fbf95", "#8a8a8a": "#a8a8a8" },
  };

  // A copy of what came from Python, with the page's colours of the moment.
  function coloured(value) {
    const styles = getComputedStyle(document.documentElement);
    const map = tuned[is(DARK) ? "dark" : "light"];
    const walk = (v) => {
      if (Array.isArray(v)) return v.map(walk);
      if (v && typeof v === "object") return Object.fromEntries(Object.entries(v).map(([k, w]) => [k, walk(w)]));
      if (typeof v !== "string") return v;
      const name = /^var\((--[\w-]+)\)$/.exec(v);
      return name ? styles.getPropertyValue(name[1]).trim() : map[v.toLowerCase()] || v;
    };
    return walk(value);
  }

  function axis(own = {}) {
    const title = typeof own.title === "string" ? { text: own.title } : own.title || {};
    return {
      automargin: true, gridcolor: "var(--grid)", linecolor: "var(--rule)", tickcolor: "var(--rule)", zerolinecolor: "var(--grid)",
      ...own, title: { standoff: 12, ...title, font: { size: 13, color: "var(--muted)", ...(title.font || {}) } },
    };
  }

  // Of a logarithmic axis: the values that occur, if they are few, else 1, 2 and 5; as many as there is room for.
  function ticks(found) {
    const values = [...new Set(found)].filter((v) => v > 0).sort((a, b) => a - b);
    if (!values.length) return {};
    const [low, high] = [Math.log10(values[0]), Math.log10(values.at(-1))];
    const steps = [];
    for (let p = Math.floor(low); p <= high; p++) for (const n of [1, 2, 5]) steps.push(n * 10 ** p);
    const kept = [];
    for (const v of values.length <= 9 ? values : steps.filter((v) => Math.log10(v) >= low - 0.05 && Math.log10(v) <= high + 0.05)) {
      if (!kept.length || Math.log10(v / kept.at(-1)) > 0.08 * (high - low)) kept.push(v);
    }
    const short = (v) => (v >= 1e9 ? `${+(v / 1e9).toPrecision(3)} G` : v >= 1e6 ? `${+(v / 1e6).toPrecision(3)} M` : v >= 1e4 ? `${+(v / 1e3).toPrecision(3)} k` : `${+v.toPrecision(3)}`);
    return { tickmode: "array", tickvals: kept, ticktext: kept.map(short), minor: { ticks: "" } };
  }

  // Room for a legend that wraps, and on a phone the names of rows above them, not beside.
  function fitted(figure, width) {
    const own = structuredClone(figure.layout), rows = own.meta && own.meta.rows;
    const wide = figure.traces.filter((t) => t.showlegend !== false && t.name && t.type !== "heatmap").map((t) => Math.max(90, 58 + 7 * t.name.length));
    const lines = wide.length > 1 || rows ? Math.max(1, Math.ceil(wide.reduce((a, b) => a + b, 0) / Math.max(200, width - 70))) : 1;
    own.height = (own.height || 400) + 22 * (lines - 1);
    for (const name of ["xaxis", "yaxis"]) {
      if (own[name] && own[name].type === "log" && !own[name].tickvals) own[name] = { ...own[name], ...ticks(figure.traces.flatMap((t) => t[name[0]] || [])) };
    }
    if (rows && is(NARROW)) {
      own.yaxis = { ...own.yaxis, ticklabelposition: "inside top", ticklabelshift: 5, ticks: "", range: [rows - 0.6, -0.9] };
      own.xaxis = { ...own.xaxis, nticks: 6 };
      own.margin = { l: 10, r: 10, t: 12, b: 48 };
      own.height += 12 * rows;
    }
    return own;
  }

  function layout(figure, width) {
    const own = fitted(figure, width);
    const made = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", bargap: 0.25, height: 400,
      margin: { l: 56, r: 12, t: 12, b: 48, pad: 4 }, dragmode: is(TOUCH) ? false : "zoom",
      ...own,
      font: { family: getComputedStyle(document.documentElement).getPropertyValue("--sans"), size: is(NARROW) ? 12 : 13, color: "var(--ink)" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: "var(--muted)", activecolor: "var(--ink)" },
      hoverlabel: { bgcolor: "var(--soft)", bordercolor: "var(--muted)", font: { color: "var(--ink)", size: 13 }, align: "left" },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)", ...(own.legend || {}) },
    };
    for (const name of new Set(["xaxis", "yaxis", ...Object.keys(own).filter((k) => /^[xy]axis\d*$/.test(k))])) made[name] = axis(own[name]);
    delete made.title;
    return coloured(made);
  }

  // What figures leave open: slim scales, whiskers that are seen in the dark.
  function dressed(trace) {
    if (trace.type === "heatmap") return { ...trace, colorbar: { outlinewidth: 0, thickness: 12, ...trace.colorbar } };
    if (trace.type === "bar" && trace.error_y) return { ...trace, error_y: { color: "var(--ink)", thickness: 1.4, width: 4, ...trace.error_y } };
    return trace;
  }

  const config = { displaylogo: false, responsive: true, modeBarButtons: [["toImage", "resetScale2d"]], displayModeBar: is(TOUCH) ? false : "hover" };

  function chosen(panel) {
    const choices = all(`#${panel} .choice`).map((c) => (c.querySelector("input:checked, select") || {}).value ?? c.dataset.value);
    return JSON.stringify(choices);
  }

  function figureOf(place) {
    const { panel, group, slot } = place.dataset;
    const shown = panels[panel].groups[group][chosen(panel)];
    return shown && shown[slot];
  }

  async function draw(place) {
    const figure = figureOf(place);
    place.hidden = !figure;
    if (!figure) return;
    const plot = place.querySelector(".plot");
    place.querySelector(".fig-title").textContent = figure.title;
    place.querySelector(".fig-words").textContent = figure.words.replace(/ %/g, "\u00a0%");
    plot.setAttribute("aria-label", `${figure.title}. ${figure.words} Arrow keys read its points.`);
    const empty = !figure.traces.length;
    plot.classList.toggle("empty", empty);
    place.querySelector("details").hidden = empty;
    if (empty) return;
    await Plotly.react(plot, coloured(figure.traces.map(dressed)), layout(figure, plot.clientWidth), config);
    plot.dataset.drawn = "yes";
    const details = place.querySelector("details");
    if (details.open) numbers(details, figure);
  }

  // The same figure as a table, for those who cannot see it or want to copy from it.
  const words = (text) => {
    const box = document.createElement("textarea");
    box.innerHTML = String(text).replace(/<br>/g, "; ").replace(/<\/?b>/g, "");
    return box.value;
  };
  const said = (trace) => trace.hovertext || trace.text;
  function numbers(details, figure) {
    const table = document.createElement("table");
    table.createCaption().textContent = figure.title;
    const line = (cells, kind) => {
      const row = table.insertRow();
      for (const cell of cells) row.appendChild(document.createElement(kind)).textContent = cell;
    };
    const axes = figure.layout, label = (a) => (axes[a] && axes[a].title && axes[a].title.text) || a[0];
    const told = figure.traces.every((t) => said(t) || t.meta === "reference");
    line(told ? ["series", "point"] : ["series", words(label("xaxis")), words(label("yaxis")), ...(figure.traces.some((t) => t.z) ? ["value"] : [])], "th");
    for (const trace of figure.traces) {
      const name = words(trace.name || "");
      if (trace.meta === "reference") {
        if (said(trace)) line([name, words(said(trace)[0])], "td");
      } else if (trace.z) {
        trace.z.forEach((row, i) => row.forEach((z, j) => {
          if (z === null) return;
          line(told ? [name, words(said(trace)[i][j])] : [name, trace.x ? trace.x[j] : j, trace.y ? trace.y[i] : i, z], "td");
        }));
      } else {
        const count = Math.max((trace.x || []).length, (trace.y || []).length);
        for (let i = 0; i < count; i++) line(told ? [name, words(said(trace)[i])] : [name, (trace.x || [])[i] ?? i, (trace.y || [])[i] ?? ""], "td");
      }
    }
    details.querySelector(".scroll").replaceChildren(table);
  }

  // Arrow keys: left and right along a series, up and down from one to the next.
  function keys(plot) {
    let curve = 0, point = -1;
    plot.addEventListener("keydown", (event) => {
      const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      const data = plot.data && plot.data.filter((t) => t.hoverinfo !== "skip" && t.type !== "heatmap");
      if (!move || !data || !data.length) return;
      event.preventDefault();
      if (move[0]) { curve = (curve + move[0] + data.length) % data.length; point = Math.max(point, 0); }
      const trace = data[curve % data.length], count = trace.x.length;
      point = ((move[1] ? point + move[1] : Math.min(point, count - 1)) + count) % count;
      Plotly.Fx.hover(plot, [{ curveNumber: plot.data.indexOf(trace), pointNumber: point }]);
      live.textContent = said(trace) ? words(said(trace)[point]) : `${words(trace.name || "")}: ${trace.x[point]}, ${trace.y[point]}`;
    });
    plot.addEventListener("blur", () => plot.data && Plotly.Fx.unhover(plot));
  }

  const places = all(".fig");
  let turn = 0, last = Promise.resolve(); // a later drawing of everything takes over from one that is under way
  function drawAll(which = places) {
    if (which === places) turn += 1;
    const mine = turn;
    last = last.then(() => drawEach(which, mine)); // one after another: plotly mixes two drawings of one plot
  }
  async function drawEach(which, mine) {
    for (const place of which) {
      if (mine !== turn) return;
      await draw(place);
      await new Promise((done) => setTimeout(done)); // the page stays awake between figures
    }
    if (which === places) document.documentElement.dataset.drawn = "yes";
  }

  for (const place of places) {
    keys(place.querySelector(".plot"));
    const details = place.querySelector("details");
    details.addEventListener("toggle", () => { const f = figureOf(place); if (details.open && f) numbers(details, f); });
  }
  for (const panel of all(".panel")) {
    panel.addEventListener("change", () => drawAll(all(".fig", panel)));
  }
  for (const button of all(".copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
  }
  for (const query of [matchMedia(DARK), matchMedia(NARROW)]) query.addEventListener("change", () => drawAll());
  drawAll();
})();
