import { expect, test, vi } from "vitest";
import { Api } from "./client";
import { ApiProblem, Unreachable } from "./problem";

function setup(answer: () => Response | Promise<Response>) {
  const fetched = vi.fn<typeof fetch>(() => Promise.resolve(answer()));
  const onUnauthorized = vi.fn();
  return { fetched, onUnauthorized, api: new Api({ basePath: "/tools", fetch: fetched, onUnauthorized }) };
}

const problem = (status: number, details: object): Response => new Response(JSON.stringify(details), { status });

test("addresses are put together as the description of the API has them", async () => {
  const { api, fetched } = setup(() => new Response('{"data":[],"next_cursor":null,"as_of":"1-1"}'));
  await api.get("/jobs", { query: { status: ["dead", "retrying"], limit: 100, metadata: { "metadata.customer": "4&2" }, queue: [] } });
  expect(fetched.mock.calls[0]?.[0]).toBe("/tools/api/v1/jobs?status=dead%2Cretrying&limit=100&metadata.customer=4%262");
  await api.post("/admin/queues/{queue}/pause", { path: { queue: "a/b" }, body: { reason: "why" }, version: 7 });
  const [address, request] = fetched.mock.calls[1] ?? [];
  expect(address).toBe("/tools/api/v1/admin/queues/a%2Fb/pause");
  expect(request).toMatchObject({ method: "POST", body: '{"reason":"why"}', headers: { "Content-Type": "application/json", "If-Match": '"v7"' } });
});

test("what the server refuses is a problem with its code, and a 401 leads to the login", async () => {
  const { api, onUnauthorized } = setup(() => problem(401, { code: "unauthorized", detail: "say who you are", request_id: "r1" }));
  const error: unknown = await api.get("/me", {}).catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(ApiProblem);
  expect(error).toMatchObject({ status: 401, code: "unauthorized", message: "say who you are", requestId: "r1", isPassing: false });
  expect(onUnauthorized).toHaveBeenCalledTimes(1);
  await expect(api.post("/login", { body: { api_key: "wrong" } })).rejects.toBeInstanceOf(ApiProblem);
  expect(onUnauthorized).toHaveBeenCalledTimes(1);
});

test("no answer, and an answer of something else, are told apart from a refusal", async () => {
  await expect(setup(() => Promise.reject(new TypeError("network"))).api.get("/me", {})).rejects.toBeInstanceOf(Unreachable);
  await expect(setup(() => new Response("<html>")).api.get("/me", {})).rejects.toBeInstanceOf(Unreachable);
  await expect(setup(() => new Response("<html>", { status: 502 })).api.get("/me", {})).rejects.toMatchObject({ status: 502, isPassing: true });
  await expect(setup(() => new Response(null, { status: 204 })).api.post("/logout", {})).resolves.toBeUndefined();
});

test("a call that its caller has ended is no failure of the server", async () => {
  const end = new AbortController();
  const { api } = setup(() => {
    end.abort(new Error("not wanted any more"));
    return Promise.reject(new DOMException("aborted", "AbortError"));
  });
  await expect(api.get("/me", { signal: end.signal })).rejects.toThrow("not wanted any more");
});
