import { Anchor, type AnchorProps } from "@mantine/core";
import { Link } from "@tanstack/react-router";
import type { JSX, ReactNode } from "react";
import type { Search } from "../shell/search";

interface PageLinkProps extends AnchorProps {
  /** A page of the dashboard, without the base path. */
  to: string;
  search?: Search;
  "aria-label"?: string;
  children: ReactNode;
}

/** Leads to a page of the dashboard. */
export function PageLink({ search, ...rest }: PageLinkProps): JSX.Element {
  // Routes are made out of a table, so the compiler knows nothing of their search parts and would allow none.
  const reduce = (() => ({ ...search })) as never;
  return <Anchor component={Link} search={reduce} fz="inherit" {...rest} />;
}
