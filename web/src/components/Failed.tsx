import { Alert, Button, Group, Text } from "@mantine/core";
import type { JSX } from "react";
import { ApiProblem } from "../api/problem";
import { Icon } from "./Icon";

/** Something could not be fetched or done: what the server says, and another try. */
export function Failed({ error, onRetry, what = "This could not be loaded" }: { error: unknown; onRetry?: () => void; what?: string }): JSX.Element {
  const problem = error instanceof ApiProblem ? error : undefined;
  return (
    <Alert color="red" variant="light" icon={<Icon name="failures" />} title={what} role="alert">
      <Text size="sm">{error instanceof Error ? error.message : "The reason is not known."}</Text>
      {problem?.details.errors?.map((part) => <Text size="sm" key={part.pointer}>{`${part.pointer}: ${part.detail}`}</Text>)}
      <Group mt="xs" gap="md">
        {onRetry && <Button size="compact-sm" variant="default" onClick={onRetry}>Try again</Button>}
        {problem?.requestId && <Text size="xs" c="dimmed">{`request ${problem.requestId}`}</Text>}
      </Group>
    </Alert>
  );
}
