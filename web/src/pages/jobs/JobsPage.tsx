import type { JSX } from "react";
export function JobsPage(): JSX.Element { return <p>soon</p>; }
