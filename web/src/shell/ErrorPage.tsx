import { Button, Container } from "@mantine/core";
import type { ErrorComponentProps } from "@tanstack/react-router";
import type { JSX } from "react";
import { Failed } from "../components/Failed";

/** What stands in place of a page that has failed: the rest of the dashboard lives on. */
export function ErrorPage({ error, reset }: ErrorComponentProps): JSX.Element {
  return (
    <Container size="sm" py="xl">
      <Failed error={error} what="This page has failed" onRetry={reset} />
      <Button mt="md" variant="default" onClick={() => { location.reload(); }}>Load the dashboard again</Button>
    </Container>
  );
}
