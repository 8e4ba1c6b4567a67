"use strict";
// The page is painted and responsive; now load plotly, which takes a moment, and draw the charts.

requestAnimationFrame(() => setTimeout(() => {
  const script = document.createElement("script");
  script.textContent = $("plotly").textContent;
  document.head.append(script);
  G.begin();
}));
