import type { JSX } from "react";
export function OverviewPage(): JSX.Element { return <p>soon</p>; }
