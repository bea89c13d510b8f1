// Set the formulas: arithmatex leaves \(...\) in a span and \[...\] in a div.
for (const formula of document.querySelectorAll(".arithmatex")) {
  const tex = formula.textContent.trim().slice(2, -2);
  katex.render(tex, formula, { displayMode: formula.tagName === "DIV", throwOnError: false });
}

// A value and its error stay on one line: wide tables scroll.
for (const cell of document.querySelectorAll("article td")) {
  if (/^[-+−]?[\d.,]+ ± [\d.,]+( \?)?$/.test(cell.textContent)) {
    cell.style.whiteSpace = "nowrap";
  }
}

// What scrolls is reached with the keyboard too.
addEventListener("load", () => {
  for (const region of document.querySelectorAll("article table, div.arithmatex")) {
    if (region.scrollWidth > region.clientWidth) {
      region.tabIndex = 0;
    }
  }
});
