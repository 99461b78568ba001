import { createRoot } from "react-dom/client";
import { begin } from "./api/client";
import { App } from "./app";
import { installKeys } from "./keys";
import { listen } from "./router";
import "./style/tokens.css";
import "./style/base.css";
import "./style/shell.css";
import "./style/pages.css";
import "./style/phone.css";
import "./theme";

listen();
installKeys();
void begin();
createRoot(document.getElementById("root")!).render(<App />);
