import type { JSX } from "react";
import { Empty } from "./Empty";
import { PageTitle } from "./PageTitle";

/** A page that the server would refuse to fill. */
export function AdminsOnly({ title, says }: { title: string; says: string }): JSX.Element {
  return <><PageTitle title={title} /><Empty title="This is for admins.">{says}</Empty></>;
}
