"use strict";

// Enter switches what Space switches.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("input[type=checkbox], input[type=radio]")) {
    event.target.click();
  }
});
