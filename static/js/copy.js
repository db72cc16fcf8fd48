// A "Copy" button for every snippet. Without JavaScript, or without the clipboard, one click on the text selects it.
"use strict";

for (const snippet of document.querySelectorAll("pre.snippet")) {
  const text = snippet.querySelector("code");
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy: ${snippet.getAttribute("aria-label")}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  const frame = document.createElement("div");
  frame.className = "snippet-frame";
  snippet.replaceWith(frame);
  frame.append(snippet, button);
}
