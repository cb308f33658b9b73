import { ActionIcon, Badge, Burger, Menu, Tooltip } from "@mantine/core";
import { spotlight } from "@mantine/spotlight";
import { Link } from "@tanstack/react-router";
import type { JSX } from "react";
import { isAnonymous } from "../api/access";
import { Icon } from "../components/Icon";
import { LineState } from "./LineStrip";
import { useMe } from "./services";
import type { Command } from "./useCommands";
import classes from "./Shell.module.css";

interface HeaderProps {
  isMenuOpen: boolean;
  commands: readonly Command[];
  onMenu: () => void;
  onHelp: () => void;
}

export function Header({ isMenuOpen, commands, onMenu, onHelp }: HeaderProps): JSX.Element {
  const me = useMe();
  const theme = commands.find(({ id }) => id === "theme");
  return (
    <div className={classes["bar"]}>
      <Burger opened={isMenuOpen} onClick={onMenu} hiddenFrom="sm" size="sm" aria-label={isMenuOpen ? "Close the menu" : "Open the menu"} />
      <Link to="/" className={classes["brand"] ?? ""} aria-label="Mini Asynq"><Icon name="jobs" size={18} /><span>Mini Asynq</span></Link>
      {me.environment && (
        <Badge variant="filled" color={/prod/i.test(me.environment) ? "red.8" : "gray.7"} tt="none">{me.environment}</Badge>
      )}
      <div className={classes["space"]} />
      <LineState />
      <Tooltip label="Search and commands (Ctrl or Cmd and K)">
        <ActionIcon variant="subtle" color="gray" aria-label="Search and commands" onClick={spotlight.open}><Icon name="search" /></ActionIcon>
      </Tooltip>
      {theme && (
        <Tooltip label={theme.label}>
          <ActionIcon variant="subtle" color="gray" aria-label={theme.label} onClick={theme.run}><Icon name={theme.icon} /></ActionIcon>
        </Tooltip>
      )}
      <Tooltip label="Keys (?)">
        <ActionIcon variant="subtle" color="gray" aria-label="Keys" onClick={onHelp}><Icon name="help" /></ActionIcon>
      </Tooltip>
      <Menu position="bottom-end" width={240} withInitialFocusPlaceholder={false}>
        <Menu.Target>
          <ActionIcon variant="subtle" color="gray" aria-label="Account"><Icon name="person" /></ActionIcon>
        </Menu.Target>
        <Menu.Dropdown>
          <Menu.Label>{isAnonymous(me) ? "Not logged in" : `${me.name}${me.role ? `, ${me.role}` : ""}`}</Menu.Label>
          {commands.filter(({ id }) => id !== "theme").map(({ id, label, icon, run }) => (
            <Menu.Item key={id} leftSection={<Icon name={icon} />} onClick={run}>{label}</Menu.Item>
          ))}
        </Menu.Dropdown>
      </Menu>
    </div>
  );
}
