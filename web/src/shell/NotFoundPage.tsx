import { Anchor } from "@mantine/core";
import { Link } from "@tanstack/react-router";
import type { JSX } from "react";
import { Empty } from "../components/Empty";
import { PageTitle } from "../components/PageTitle";

export function NotFoundPage(): JSX.Element {
  return (
    <>
      <PageTitle title="Not found" />
      <Empty title="There is no page at this address.">
        <Anchor component={Link} to="/">Go to the overview</Anchor>
      </Empty>
    </>
  );
}
