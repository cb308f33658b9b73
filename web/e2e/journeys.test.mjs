// Journeys through the dashboard: the real binary, a real database, a real browser.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { asAdmin, findBarriers, openPage, shoot, startBrowser, startDatabase, startServer } from "./harness.mjs";

let database;
let server;
let browser;

before(async () => {
  database = await startDatabase();
  [server, browser] = await Promise.all([startServer(database, "main", { MINIASYNQ_ENVIRONMENT: "staging" }), startBrowser()]);
}, { timeout: 90_000 });

after(async () => {
  await browser?.close();
  await server?.stop();
  await database?.stop();
});

/** The line is open: what happens from now on is shown. */
const live = (page) => page.locator('[data-testid="line"][data-state="live"]').waitFor();
const rowOf = (page, id) => page.getByRole("row").filter({ has: page.getByRole("link", { name: id }) });
const unauthorized = /status of 401/;
const forbidden = /status of 403/;

const passwordOf = (page) => page.locator('input[autocomplete="current-password"]');

async function logIn(page, secret, user) {
  await page.goto(`${server.base}/login?from=/jobs`);
  if (user) {
    await page.getByLabel("Name").fill(user);
    await passwordOf(page).fill(secret);
  } else {
    await page.getByText("API key", { exact: true }).click();
    await page.getByRole("textbox", { name: "API key" }).fill(secret);
  }
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("heading", { name: "Jobs", level: 1 }).waitFor();
}

test("a job that is enqueued appears behind the pill, and completes before one's eyes", async () => {
  const { page, faults, close } = await openPage(browser);
  await server.call("POST", "/jobs", { queue: "first", payload: {} });
  await page.goto(`${server.base}/jobs?queue=live`);
  await live(page);
  await page.getByText("No job matches.").waitFor();
  const { id } = await server.call("POST", "/jobs", { queue: "live", kind: "email.send", payload: { sleep_ms: 2500, progress: true } });
  await page.getByRole("button", { name: "1 new" }).click();
  await rowOf(page, id).getByText(/pending|running/).waitFor();
  await rowOf(page, id).getByText("completed").waitFor();
  // What the events made of the row is what the server says.
  const job = await server.call("GET", `/jobs/${id}`);
  assert.equal(job.status, "completed");
  assert.ok((await rowOf(page, id).innerText()).includes(`${job.attempt} of ${job.attempt + job.attempts_left}`));
  await shoot(page, "live");
  assert.deepEqual(faults, []);
  await close();
});

test("a failed job shows its error, is selected, retried and followed", async () => {
  const { page, faults, close } = await openPage(browser);
  await logIn(page, "password", "admin");
  const { id } = await server.call("POST", "/jobs", { queue: "broken", kind: "email.send", payload: { fail: true }, max_retries: 0 });
  await page.goto(`${server.base}/jobs?queue=broken`);
  await rowOf(page, id).getByText("dead").waitFor();
  await live(page);
  await rowOf(page, id).getByRole("checkbox").click();
  const selected = page.getByRole("group", { name: "Selected jobs" });
  await selected.getByText("1 job selected").waitFor();
  await selected.getByRole("button", { name: "Retry" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("Reason").fill("the mail server is back");
  await shoot(page, "retry");
  await dialog.getByRole("button", { name: "Retry 1 job" }).click();
  await page.getByRole("group", { name: "Operation" }).getByText("1 of 1 done").waitFor();
  await rowOf(page, id).getByText("2 of 2").waitFor(); // the redrive's attempt, seen live
  const job = await server.call("GET", `/jobs/${id}`);
  assert.equal(job.redrives, 1);
  const { data } = await server.call("GET", "/admin/audit", undefined, asAdmin);
  assert.ok(data.some(({ reason }) => reason === "the mail server is back"));
  assert.deepEqual(faults, []);
  await close();
});

test("a viewer is offered no action, and the server refuses what is asked anyway", async () => {
  const { page, faults, close } = await openPage(browser, { expected: [forbidden] });
  const { secret } = await server.call("POST", "/admin/keys", { name: "watch", role: "viewer" }, asAdmin);
  const { id } = await server.call("POST", "/jobs", { queue: "seen", payload: { secret: "planted-7261" }, delay: "1h" });
  await logIn(page, secret);
  await page.goto(`${server.base}/jobs?queue=seen`);
  await rowOf(page, id).getByText("scheduled").waitFor();
  assert.equal(await page.getByRole("checkbox").count(), 0);
  assert.equal(await page.getByRole("button", { name: "Enqueue" }).count(), 0);
  const status = await page.evaluate(async (path) => (await fetch(path, { method: "POST" })).status, `/api/v1/admin/jobs/${id}/cancel`);
  assert.equal(status, 403);
  assert.equal((await page.content()).includes("planted-7261"), false);
  await page.getByRole("button", { name: "Account" }).click();
  await page.getByText("key:watch, viewer").waitFor();
  assert.deepEqual(faults, []);
  await close();
});

test("whoever has to log in is led there and back, and out again", async () => {
  const closed = await startServer(database, "closed", { MINIASYNQ_ANONYMOUS: "none" });
  try {
    const { page, faults, close } = await openPage(browser, { expected: [unauthorized] });
    await page.goto(`${closed.base}/jobs?status=dead&queue=mail`);
    await page.getByRole("heading", { name: "Log in to Mini Asynq" }).waitFor();
    await page.getByLabel("Name").fill("admin");
    await passwordOf(page).fill("wrong");
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByText("That is not a valid login.").waitFor();
    assert.deepEqual(await findBarriers(page), []);
    await shoot(page, "login");
    await passwordOf(page).fill("password");
    await page.getByRole("button", { name: "Log in" }).click();
    await page.getByText("No job matches.").waitFor();
    assert.equal(new URL(page.url()).search, "?status=dead&queue=mail");
    await live(page);
    await page.getByRole("button", { name: "Account" }).click();
    await page.getByRole("menuitem", { name: "Log out" }).click();
    await page.getByRole("heading", { name: "Log in to Mini Asynq" }).waitFor();
    await page.goto(`${closed.base}/`);
    await page.getByRole("heading", { name: "Log in to Mini Asynq" }).waitFor();
    assert.deepEqual(faults, []);
    await close();
  } finally {
    await closed.stop();
  }
}, { timeout: 120_000 });

test("behind a base path everything is found", async () => {
  const below = await startServer(database, "below", { MINIASYNQ_BASE_PATH: "/tools/jobs" });
  try {
    const { page, faults, close } = await openPage(browser);
    await page.goto(`${below.base}/`);
    await live(page);
    await page.keyboard.press("g");
    await page.keyboard.press("j");
    await page.getByText("There are no jobs yet.").waitFor();
    assert.equal(new URL(page.url()).pathname, "/tools/jobs/jobs");
    await page.reload();
    await page.getByText(`${below.base}/api/v1/jobs`).waitFor();
    assert.deepEqual(faults, []);
    await close();
  } finally {
    await below.stop();
  }
}, { timeout: 120_000 });

test("hostile names, tags and errors stay text", async () => {
  const { page, faults, close } = await openPage(browser);
  const hostile = `<img src=x onerror="document.title='owned'">{{7*7}}`;
  await server.call("POST", "/jobs", { queue: "hostile", kind: "k", payload: { fail: hostile }, tags: ["<script>alert(1)</script>"], max_retries: 0 });
  await page.goto(`${server.base}/jobs?queue=hostile&tag=${encodeURIComponent("<script>alert(1)</script>")}&worker=${encodeURIComponent(hostile)}`);
  await live(page);
  await page.getByText("<script>alert(1)</script>").waitFor();
  assert.equal(await page.locator("img").count(), 0);
  assert.equal(await page.title(), "Jobs · Mini Asynq");
  assert.deepEqual(faults, []);
  await close();
});

test("a page that is paused stands still, and goes on from where it stood", async () => {
  const { page, faults, close } = await openPage(browser);
  const { id } = await server.call("POST", "/jobs", { queue: "cut", payload: {}, delay: "1h" });
  await page.goto(`${server.base}/jobs?queue=cut`);
  await live(page);
  await page.keyboard.press("p");
  await page.getByText("Paused: nothing changes on this page.").waitFor();
  await server.call("POST", `/admin/jobs/${id}/cancel`, undefined, asAdmin);
  assert.ok((await rowOf(page, id).innerText()).includes("scheduled"));
  await page.keyboard.press("p");
  await rowOf(page, id).getByText("cancelled").waitFor(); // from the cursor where it stood
  assert.deepEqual(faults, []);
  await close();
});

test("the line is lost: a strip says so, the rows stay, and it comes back by itself with what was missed", async () => {
  const away = await startServer(database, "away");
  const { page, faults, close } = await openPage(browser, { expected: [/ERR_CONNECTION_REFUSED|WebSocket/] });
  try {
    const { id } = await away.call("POST", "/jobs", { queue: "cut", payload: {}, delay: "1h" });
    await page.goto(`${away.base}/jobs?queue=cut`);
    await live(page);
    await away.restart(async () => {
      await page.getByText("The line to the server is lost.").waitFor({ timeout: 20_000 });
      assert.ok((await rowOf(page, id).innerText()).includes("scheduled"));
    });
    await away.call("POST", `/admin/jobs/${id}/cancel`, undefined, asAdmin);
    await page.getByRole("button", { name: "Try now" }).click().catch(() => undefined); // it may have come back already
    await live(page);
    await rowOf(page, id).getByText("cancelled").waitFor();
    assert.deepEqual(faults, []);
  } finally {
    await close();
    await away.stop();
  }
}, { timeout: 120_000 });

describe("each page, light and dark, wide and narrow, has no barrier and no fault", () => {
  for (const [name, path] of [["overview", "/"], ["jobs", "/jobs"], ["queues", "/queues"], ["events", "/events"], ["workers", "/workers"],
    ["failures", "/failures"], ["operations", "/operations"], ["consumers", "/consumers"], ["webhooks", "/webhooks"], ["audit", "/audit"],
    ["settings", "/settings"], ["nowhere", "/nowhere"]]) {
    for (const colorScheme of ["light", "dark"]) {
      for (const width of [1440, 320]) {
        test(`${name}, ${colorScheme}, ${width}`, async () => {
          const { page, faults, close } = await openPage(browser, { colorScheme, viewport: { width, height: 900 } });
          await server.call("POST", "/admin/queues/paused/pause", { reason: "maintenance" }, asAdmin);
          await server.call("POST", "/jobs/batch", { jobs: Array.from({ length: 12 }, (_, i) => ({ queue: `queue-${i % 3}`, payload: { fail: i === 3 }, max_retries: 0, ...(i > 8 ? { delay: "1h" } : {}) })) });
          await page.goto(server.base + path);
          await page.getByRole("heading", { level: 1 }).waitFor();
          await live(page);
          await page.waitForLoadState("networkidle");
          assert.deepEqual(await findBarriers(page), []);
          assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "the page does not scroll sideways");
          assert.equal(await page.evaluate(() => document.documentElement.dataset.mantineColorScheme), colorScheme);
          await shoot(page, `${name}-${colorScheme}-${width}`);
          assert.deepEqual(faults, []);
          await close();
        });
      }
    }
  }
});

test("the theme is pinned, does not flash, and the help and the palette are in reach", async () => {
  const { page, faults, close } = await openPage(browser, { colorScheme: "light" });
  await page.goto(server.base);
  await live(page);
  await page.keyboard.press("t");
  await page.keyboard.press("t");
  await page.waitForFunction(() => document.documentElement.dataset.mantineColorScheme === "dark");
  // What is there when the parser has read the page, before any module has run, is what is painted first.
  await page.addInitScript(() => {
    new MutationObserver(() => { globalThis.firstScheme ??= document.body && document.documentElement.dataset.mantineColorScheme; }).observe(document, { childList: true, subtree: true });
  });
  await page.reload();
  assert.equal(await page.evaluate(() => globalThis.firstScheme), "dark");
  await live(page);
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).getByText("Jobs").waitFor();
  assert.deepEqual(await findBarriers(page), []);
  await page.keyboard.press("Escape");
  await page.keyboard.press("Control+k");
  await page.getByPlaceholder("Page, command, or the id of a job").fill("job");
  await shoot(page, "palette");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "Jobs", level: 1 }).waitFor();
  assert.deepEqual(faults, []);
  await close();
});
