"use strict";
// The page answers already; now that it has been painted, plotly is taken in, which takes a moment, and charts are drawn.

requestAnimationFrame(() => setTimeout(() => {
  const script = document.createElement("script");
  script.textContent = $("plotly").textContent;
  document.head.append(script);
  G.begin();
}));
