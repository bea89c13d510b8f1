// Set the formulas: arithmatex leaves \(...\) in a span and \[...\] in a div.
for (const formula of document.querySelectorAll(".arithmatex")) {
  const tex = formula.textContent.trim().slice(2, -2);
  katex.render(tex, formula, { displayMode: formula.tagName === "DIV", throwOnError: false });
  if (formula.tagName === "SPAN") {
    keepPunctuation(formula);
  }
}

function inOne(...nodes) {
  const whole = document.createElement("span");
  whole.className = "unbroken";
  nodes[0].before(whole);
  whole.append(...nodes);
}

// No line ends between a formula and its comma. KaTeX ends lines between the parts of a formula: only its last part,
// and what holds formula and comma, are kept together.
function keepPunctuation(formula) {
  const after = formula.nextSibling;
  const marks = /^[.,;:!?)\]”’]+/.exec(after?.nodeValue ?? "");
  const last = formula.querySelector(".katex-html > .katex-base:last-child");
  if (marks && last) {
    after.splitText(marks[0].length);
    inOne(last);
    inOne(formula, after);
  }
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
