"use strict";
// What needs no plots: the contents, explained terms, tables as CSV or LaTeX, pictures enlarged.
const save = (name, type, text) => {
  const link = document.createElement("a");
  link.href = `data:${type};charset=utf-8,${encodeURIComponent(text)}`;
  link.download = name;
  link.click();
};
const button = (label, act, title = "") => {
  const made = document.createElement("button");
  Object.assign(made, { type: "button", className: "small", textContent: label, title });
  made.addEventListener("click", act);
  return made;
};
const slug = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");

const contents = document.getElementById("contents");
for (const heading of document.querySelectorAll("main h2")) {
  heading.id = heading.id || slug(heading.textContent);
  const link = document.createElement("a");
  Object.assign(link, { href: `#${heading.id}`, textContent: heading.textContent });
  contents.append(link);
}
contents.hidden = contents.children.length < 2;

const rowsOf = (table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim().replace(/\s+/g, " ")));
const csv = (rows) => rows.map((row) => row.map((cell) => (/[",]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell)).join(",")).join("\n") + "\n";
const tex = (rows) => {
  const cell = (text) => text.replace(/[&%$#_{}]/g, "\\$&").replaceAll("−", "$-$").replaceAll("°", "$^\\circ$").replaceAll("…", "to");
  const width = Math.max(...rows.map((row) => row.length));
  const lines = rows.map((row) => row.map(cell).join(" & ") + " \\\\");
  return `\\begin{tabular}{l${"r".repeat(width - 1)}}\n\\toprule\n${lines[0]}\n\\midrule\n${lines.slice(1).join("\n")}\n\\bottomrule\n\\end{tabular}\n`;
};
document.querySelectorAll("main table").forEach((table, i) => {
  const bar = document.createElement("div");
  bar.className = "export";
  const name = `table-${i + 1}`;
  bar.append(
    button("CSV", () => save(`${name}.csv`, "text/csv", csv(rowsOf(table)))),
    button("LaTeX", () => save(`${name}.tex`, "application/x-tex", tex(rowsOf(table)))));
  (table.closest(".scroll") ?? table).after(bar);
});

const large = document.getElementById("large");
document.addEventListener("click", (event) => {
  if (event.target.matches(".frames img, .shots img")) {
    large.querySelector("img")?.remove();
    large.append(event.target.cloneNode());
    large.showModal();
  } else if (event.target === large) large.close();
});
