import { NavLink } from "@mantine/core";
import { Link, useLocation } from "@tanstack/react-router";
import type { JSX } from "react";
import { Icon } from "../components/Icon";
import { pages } from "../pages/pages";
import classes from "./Shell.module.css";

export function Navigation({ onChosen }: { onChosen: () => void }): JSX.Element {
  const { pathname } = useLocation();
  return (
    <>
      {pages.filter(({ keys }) => keys).map(({ path, title, icon, keys }) => {
        const isHere = path === "/" ? pathname === "/" : pathname === path || pathname.startsWith(`${path}/`);
        return (
          <NavLink key={path} component={Link} to={path} label={title} leftSection={<Icon name={icon} />} active={isHere}
            aria-current={isHere ? "page" : undefined} rightSection={<kbd aria-hidden="true">{keys}</kbd>} className={classes["link"] ?? ""} onClick={onChosen} />
        );
      })}
    </>
  );
}
