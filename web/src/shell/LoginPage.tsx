import { Alert, Anchor, Button, Container, Paper, PasswordInput, SegmentedControl, Stack, Text, TextInput, Title } from "@mantine/core";
import { useMutation } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useState, type JSX, type SubmitEvent } from "react";
import { ApiProblem } from "../api/problem";
import { useServices } from "./services";
import { parseSearch, wayBack, type Search } from "./search";

type Way = "password" | "key";

/** Logs in by name and password or by key, and leads back to where somebody wanted to go. */
export function LoginPage(): JSX.Element {
  const { api, queries, live, config } = useServices();
  const navigate = useNavigate();
  const search: Search = useSearch({ strict: false });
  const [way, setWay] = useState<Way>("password");
  const [name, setName] = useState("");
  const [secret, setSecret] = useState("");
  useEffect(() => { document.title = "Log in · Mini Asynq"; }, []);
  const login = useMutation({
    mutationFn: () => api.post("/login", { body: way === "key" ? { api_key: secret } : { username: name, password: secret } }),
    onSuccess: () => {
      live.stop(); // it spoke for whoever was here before
      queries.clear();
      const [to, query] = wayBack(search["from"]).split("?", 2);
      void navigate({ to: to ?? "/", search: parseSearch(query ?? "") });
    },
  });
  const handleSubmit = (event: SubmitEvent): void => {
    event.preventDefault();
    login.mutate();
  };
  return (
    <Container size={380} py={64} component="main">
      <Title order={1} mb="md">Log in to Mini Asynq</Title>
      <Paper withBorder p="lg" component="form" onSubmit={handleSubmit}>
        <Stack gap="sm">
          <SegmentedControl aria-label="How to log in" value={way} fullWidth
            onChange={(value) => { setWay(value === "key" ? "key" : "password"); setSecret(""); login.reset(); }}
            data={[{ value: "password", label: "Password" }, { value: "key", label: "API key" }]} />
          {way === "password" && (
            <TextInput label="Name" value={name} autoComplete="username" autoFocus required
              onChange={(event) => { setName(event.currentTarget.value); }} />
          )}
          <PasswordInput label={way === "key" ? "API key" : "Password"} value={secret} required key={way}
            autoComplete={way === "key" ? "off" : "current-password"} onChange={(event) => { setSecret(event.currentTarget.value); }} />
          {login.error && <Alert color="red" variant="light" role="alert">{reason(login.error)}</Alert>}
          <Button type="submit" loading={login.isPending}>Log in</Button>
          {config.isDev && <Text size="xs" c="dimmed">Development mode: unless it was changed, the name is admin and the password is password.</Text>}
        </Stack>
      </Paper>
      <Text size="sm" mt="md" c="dimmed">
        What can be seen without logging in is <Anchor underline="always" href={`${config.basePath}/`}>on the overview</Anchor>.
      </Text>
    </Container>
  );
}

function reason(error: Error): string {
  if (error instanceof ApiProblem && error.status === 401) {
    return "That is not a valid login.";
  }
  return error instanceof ApiProblem && error.status === 429 ? "Too many tries. Wait a minute, then try again." : error.message;
}
