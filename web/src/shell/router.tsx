import { createRootRoute, createRoute, createRouter, lazyRouteComponent, Outlet, type AnyRouter } from "@tanstack/react-router";
import { pages } from "../pages/pages";
import { ErrorPage } from "./ErrorPage";
import { NotFoundPage } from "./NotFoundPage";
import { formatSearch, parseSearch } from "./search";
import { Shell } from "./Shell";
import { RowsSkeleton } from "../components/RowsSkeleton";

/** The routes: the login on its own, everything else inside the shell. */
export function newRouter(basePath: string): AnyRouter {
  const root = createRootRoute({ component: Outlet });
  const login = createRoute({ getParentRoute: () => root, path: "/login", component: lazyRouteComponent(() => import("./LoginPage"), "LoginPage") });
  const shell = createRoute({ getParentRoute: () => root, id: "shell", component: Shell });
  const inside = pages.map((page) => createRoute({
    getParentRoute: () => shell, path: page.path, component: lazyRouteComponent(page.load),
  }));
  const nowhere = createRoute({ getParentRoute: () => shell, path: "$", component: NotFoundPage });
  return createRouter({
    routeTree: root.addChildren([login, shell.addChildren([...inside, nowhere])]),
    basepath: basePath === "" ? "/" : basePath,
    parseSearch, stringifySearch: formatSearch,
    defaultPendingComponent: RowsSkeleton, defaultErrorComponent: ErrorPage, defaultNotFoundComponent: NotFoundPage,
    defaultPreload: "intent",
  });
}
