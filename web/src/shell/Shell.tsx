import { AppShell } from "@mantine/core";
import { useDisclosure } from "@mantine/hooks";
import { useQuery } from "@tanstack/react-query";
import { Outlet, useRouter } from "@tanstack/react-router";
import { lazy, Suspense, useEffect, type JSX } from "react";
import { can } from "../api/access";
import { ApiProblem } from "../api/problem";
import { meQuery } from "../api/queries";
import type { Me } from "../api/types";
import { Failed } from "../components/Failed";
import { RowsSkeleton } from "../components/RowsSkeleton";
import { pages } from "../pages/pages";
import { clock } from "./clock";
import { Header } from "./Header";
import { LineStrip } from "./LineStrip";
import { Navigation } from "./Navigation";
import { MeContext, useServices } from "./services";
import { useCommands } from "./useCommands";
import { useKeys } from "./useKeys";
import classes from "./Shell.module.css";

// Both come after the page: nobody opens them in the first second.
const Palette = lazy(async () => ({ default: (await import("./Palette")).Palette }));
const Help = lazy(async () => ({ default: (await import("./Help")).Help }));

/** What is around every page but the login. It finds out who looks, and opens the line for those who may read. */
export function Shell(): JSX.Element {
  const { api } = useServices();
  const me = useQuery(meQuery(api));
  if (me.error instanceof ApiProblem && me.error.status === 401 || me.data && !can(me.data, "read")) {
    return <ToLogin />;
  }
  if (me.error) {
    return <div className={classes["alone"]}><Failed error={me.error} onRetry={() => { void me.refetch(); }} what="The server does not answer" /></div>;
  }
  if (!me.data) {
    return <div className={classes["alone"]}><RowsSkeleton /></div>;
  }
  return <MeContext value={me.data}><Frame me={me.data} /></MeContext>;
}

/** Leads to the login, and remembers whence: once, since the address changes before the login page is there. */
function ToLogin(): JSX.Element {
  const router = useRouter();
  useEffect(() => {
    const { pathname, searchStr } = router.state.location as { pathname: string; searchStr: string };
    if (pathname !== "/login") {
      void router.navigate({ to: "/login", search: { from: pathname + searchStr }, replace: true });
    }
  }, [router]);
  return <div className={classes["alone"]}><RowsSkeleton /></div>;
}

function Frame({ me }: { me: Me }): JSX.Element {
  const { live, keys } = useServices();
  const router = useRouter();
  const [isMenuOpen, menu] = useDisclosure(false);
  const [isHelpOpen, help] = useDisclosure(false);
  const commands = useCommands();

  // Who logs in as somebody else has a socket of their own.
  useEffect(() => {
    live.start();
    return () => { live.stop(); };
  }, [live, me.name]);

  useEffect(() => {
    const handlePress = (event: KeyboardEvent): void => {
      if (!event.defaultPrevented && keys.press(event, performance.now())) {
        event.preventDefault();
      }
    };
    const handleSight = (): void => {
      live.pause("hidden", document.hidden);
      if (!document.hidden) {
        live.retryNow();
      }
    };
    const handleOnline = (): void => { live.retryNow(); };
    const unfollow = live.numbers.subscribe(() => { clock.setAhead(live.numbers.get()?.clockAheadMs ?? 0); });
    handleSight();
    document.addEventListener("keydown", handlePress);
    document.addEventListener("visibilitychange", handleSight);
    window.addEventListener("online", handleOnline);
    return () => {
      unfollow();
      document.removeEventListener("keydown", handlePress);
      document.removeEventListener("visibilitychange", handleSight);
      window.removeEventListener("online", handleOnline);
    };
  }, [live, keys]);

  useKeys([
    ...pages.flatMap(({ keys: name, title, path }) => name ? [{ keys: name, does: title, run: () => { void router.navigate({ to: path }); } }] : []),
    ...commands.filter((command) => command.keys).map(({ keys: name, label, run }) => ({ keys: name ?? "", does: label, run })),
    { keys: "?", does: "Show this help", run: help.open },
  ]);

  return (
    <AppShell header={{ height: 48 }} navbar={{ width: 184, breakpoint: "sm", collapsed: { mobile: !isMenuOpen } }} padding="md">
      <a className={classes["skip"]} href="#page" onClick={(event) => { event.preventDefault(); document.getElementById("page")?.focus(); }}>Skip to the page</a>
      <AppShell.Header>
        <Header isMenuOpen={isMenuOpen} onMenu={menu.toggle} onHelp={help.open} commands={commands} />
      </AppShell.Header>
      <AppShell.Navbar p="xs" aria-label="Pages">
        <Navigation onChosen={menu.close} />
      </AppShell.Navbar>
      <AppShell.Main id="page" tabIndex={-1} className={classes["main"]}>
        <LineStrip />
        <Outlet />
      </AppShell.Main>
      <Suspense fallback={null}>
        <Palette commands={commands} />
        <Help isOpen={isHelpOpen} onClose={help.close} />
      </Suspense>
    </AppShell>
  );
}
