"use strict";
// The page: paints the figures in its own colours, and unpacks, filters and shows the duels.
// Texts of models and data are put into text nodes alone, never into markup.
(() => {
  const PAGE = 25;
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  // A custom property keeps light-dark() as it is written; as the colour of an element it is resolved.
  const probe = document.body.appendChild(document.createElement("span"));
  probe.hidden = true;
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };

  function make(tag, className, ...content) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...content);
    return element;
  }

  // Figures

  const figures = JSON.parse(byId("figures").textContent);
  let looked = null; // the adapter that stands out in every chart

  function painted(trace) {
    const own = trace.meta.colour;
    if (own === "diverging") {
      const scale = [[0, colour("low")], [0.5, colour("middle")], [1, colour("high")]];
      return { ...trace, colorscale: scale, textfont: { color: colour("ink"), size: 11 } };
    }
    const color = colour(own);
    const faded = looked !== null && trace.meta.adapter !== undefined && trace.meta.adapter !== looked;
    const opacity = (trace.opacity ?? 1) * (faded ? 0.12 : 1);
    const result = { ...trace, opacity, marker: { ...trace.marker, color } };
    if (trace.line) result.line = { ...trace.line, color };
    for (const bar of ["error_x", "error_y"]) if (trace[bar]) result[bar] = { ...trace[bar], color };
    return result;
  }

  function layout(figure) {
    const ink = colour("ink"), faint = colour("faint"), rule = colour("rule");
    const narrow = window.innerWidth < 640;
    const axis = { gridcolor: rule, zerolinecolor: rule, linecolor: rule, tickfont: { color: faint } };
    const of = (given) => ({
      ...axis, ...given, title: { ...given.title, font: { color: faint, size: 13 }, standoff: 8 },
    });
    return {
      ...figure.layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, color: ink, size: narrow ? 11 : 13 },
      margin: { l: 8, r: 12, t: 12, b: 8 },
      hoverlabel: { bgcolor: colour("raised"), bordercolor: rule, font: { color: ink } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      xaxis: of(figure.layout.xaxis || {}),
      yaxis: of(figure.layout.yaxis || {}),
    };
  }

  function draw() {
    const settings = { displayModeBar: false, responsive: true };
    for (const [name, figure] of Object.entries(figures))
      Plotly.react(byId(`chart-${name}`), figure.data.map(painted), layout(figure), settings);
  }

  const keys = [...document.querySelectorAll("#key button")];
  for (const button of keys)
    button.addEventListener("click", () => {
      looked = looked === button.textContent ? null : button.textContent;
      for (const each of keys) each.setAttribute("aria-pressed", String(each.textContent === looked));
      draw();
    });

  // Light and dark

  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.style.colorScheme ? root.style.colorScheme === "dark" : prefersDark.matches);
  function repaint() {
    byId("theme").textContent = isDark() ? "Light" : "Dark";
    draw();
  }
  byId("theme").addEventListener("click", () => {
    root.style.colorScheme = isDark() ? "light" : "dark";
    repaint();
  });
  prefersDark.addEventListener("change", repaint);
  repaint();

  // Duels

  let tribe = [], duels = [], shown = [], page = 0;
  const form = byId("filters");

  async function unpack() {
    const text = byId("packed").textContent;
    if (!form || !text) return;
    if (!window.DecompressionStream) {
      byId("found").textContent = "This browser is too old to unpack the duels; the run's directory holds them.";
      return;
    }
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const data = await new Response(stream).json();
    tribe = data.tribe;
    duels = data.duels.map(([iteration, number, question, fighters, answers, tokens, votes, scores, winner]) => ({
      iteration, number, question, fighters, answers, tokens, votes, scores, winner,
      failed: votes.some((vote) => vote[1] === null || vote[2] === null),
      search: [question, ...answers].join("\n").toLowerCase(),
    }));
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    window.addEventListener("hashchange", recall);
    recall();
  }

  // A link such as #duels?text=paris&verdict=drawn opens the page with these filters; a duel that is
  // alone is shown open.
  function recall() {
    const [place, query] = location.hash.split("?");
    if (place === "#duels" && query !== undefined)
      for (const [name, value] of new URLSearchParams(query))
        if (form.elements[name]) form.elements[name].value = value;
    filter();
  }

  const VERDICTS = {
    won: (duel) => duel.winner !== null,
    drawn: (duel) => duel.scores !== null && duel.winner === null,
    none: (duel) => duel.scores === null,
    failed: (duel) => duel.failed,
  };

  function filter() {
    const wanted = Object.fromEntries(new FormData(form));
    const text = wanted.text.toLowerCase();
    const adapter = tribe.indexOf(wanted.adapter);
    const verdict = VERDICTS[wanted.verdict] || (() => true);
    shown = duels.filter((duel) =>
      (!text || duel.search.includes(text)) &&
      (adapter < 0 || duel.fighters.includes(adapter)) &&
      (!wanted.iteration || duel.iteration === Number(wanted.iteration)) &&
      verdict(duel));
    turn(0);
  }

  function turn(to) {
    page = to;
    const last = Math.max(Math.ceil(shown.length / PAGE) - 1, 0);
    byId("found").textContent =
      `${shown.length.toLocaleString("en")} of ${duels.length.toLocaleString("en")} duels; open one for its answers and votes.`;
    byId("list").replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(row));
    if (shown.length === 1) byId("list").firstChild.open = true;
    const back = make("button", "", "Back"), next = make("button", "", "Next");
    back.disabled = page === 0;
    next.disabled = page === last;
    back.addEventListener("click", () => turn(page - 1));
    next.addEventListener("click", () => turn(page + 1));
    byId("pages").replaceChildren(back, `page ${page + 1} of ${last + 1}`, next);
  }

  const named = (adapter, more = "") => make("span", `adapter a${adapter % 10} ${more}`, tribe[adapter]);
  const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));

  function row(duel) {
    const sides = make("span", "sides");
    duel.fighters.forEach((fighter, side) => {
      const won = duel.winner === side ? "winner" : "";
      sides.append(make("span", won, named(fighter), make("span", "", score(duel.scores && duel.scores[side]))));
    });
    const head = make("summary", "",
      make("span", "place", `${duel.iteration}.${duel.number + 1}`), make("span", "question", duel.question), sides);
    const details = make("details", "duel", head);
    details.addEventListener("toggle", () => details.childElementCount === 1 && details.append(...inside(duel)));
    return details;
  }

  function inside(duel) {
    const answers = make("div", "answers");
    duel.fighters.forEach((fighter, side) => {
      const tokens = `${duel.tokens[side].toLocaleString("en")} tokens`;
      const who = make("div", "who", named(fighter), make("span", "", tokens));
      answers.append(make("div", `answer ${duel.winner === side ? "winner" : ""}`, who, make("div", "text", duel.answers[side])));
    });
    const votes = make("div", "votes");
    for (const [judge, first, second] of duel.votes) {
      const vote = [first, second].map((value, side) => {
        const other = side ? first : second;
        return make(value !== null && other !== null && value > other ? "b" : "span", "", score(value));
      });
      votes.append(make("span", "", named(judge), " ", vote[0], " : ", vote[1]));
    }
    return [answers, votes];
  }

  unpack();
})();
