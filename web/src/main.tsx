import "./styles";
import { localStorageColorSchemeManager, MantineProvider } from "@mantine/core";
import { QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { Api } from "./api/client";
import { meQuery, newQueryClient } from "./api/queries";
import { readConfig } from "./config";
import { Keys } from "./shell/keys";
import { newRouter } from "./shell/router";
import { ServicesContext, type Services } from "./shell/services";
import { Live } from "./store/live";
import { cssVariables, theme } from "./theme";

const config = readConfig(document);
// The library that keeps the page from scrolling under a dialog adds a style, and looks for the nonce here.
Object.assign(globalThis, { __webpack_nonce__: config.nonce });

const router = newRouter(config.basePath);
const queries = newQueryClient();
const api = new Api({
  basePath: config.basePath,
  onUnauthorized: () => {
    const { pathname, searchStr } = router.state.location;
    if (pathname !== "/login") {
      void router.navigate({ to: "/login", search: { from: pathname + searchStr } });
    }
  },
});
const live = new Live({
  url: `${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}${config.basePath}/api/v1/ws`,
  onDoubt: () => { void queries.invalidateQueries(meQuery(api)); }, // 401 leads to the login
});
const services: Services = { config, api, queries, live, keys: new Keys() };

// A server of another version has other files. The page that a lazy part is missing of is loaded again, once.
window.addEventListener("vite:preloadError", (event) => {
  const key = "miniasynq-reloaded";
  if (sessionStorage.getItem(key) !== location.href) {
    event.preventDefault();
    sessionStorage.setItem(key, location.href);
    location.reload();
  }
});

const root = document.getElementById("root");
if (!root) {
  throw new Error("start dashboard: the page has no place for it");
}
createRoot(root).render(
  <StrictMode>
    <MantineProvider theme={theme} cssVariablesResolver={cssVariables} defaultColorScheme="auto" getStyleNonce={() => config.nonce}
      colorSchemeManager={localStorageColorSchemeManager({ key: "miniasynq-theme" })}>
      <QueryClientProvider client={queries}>
        <ServicesContext value={services}>
          <RouterProvider router={router} />
        </ServicesContext>
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
);
