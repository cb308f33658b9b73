// What the journeys have in common: one server with a database of its own, one browser, and pages that tolerate no error.
import { execFileSync, spawn } from "node:child_process";
import { accessSync, chownSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const here = fileURLToPath(new URL(".", import.meta.url));
const binary = resolve(here, "../../bin/mini-asynq");
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Where screenshots go; nobody looks unless it is set. */
const shots = process.env.E2E_SCREENSHOTS;

/** How long the database and a server may take to start. */
const startMs = 60_000;

/**
 * Starts a PostgreSQL in a folder of its own. The server's private one would not do: root has one for the whole machine, with
 * whatever somebody keeps in it. Without TCP, so that no port is taken.
 */
export async function startDatabase() {
  const programs = findPostgres();
  const folder = mkdtempSync(join("/tmp", "mini-asynq-e2e-")); // short: the address of a socket has 107 bytes
  const owner = process.getuid() === 0 ? ownerOf("postgres") : {};
  if (owner.uid !== undefined) {
    chownSync(folder, owner.uid, owner.gid); // PostgreSQL refuses root
  }
  const data = join(folder, "data");
  const run = (program, ...args) => execFileSync(join(programs, program), args, { ...owner, cwd: folder, env: { PATH: process.env.PATH }, stdio: "pipe" });
  run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync");
  const postgres = spawn(join(programs, "postgres"), ["-D", data, "-c", "listen_addresses=", "-c", `unix_socket_directories=${folder}`, "-c", "fsync=off"],
    { ...owner, cwd: folder, env: { PATH: process.env.PATH }, stdio: "ignore" });
  const ended = new Promise((end) => { postgres.once("exit", end); });
  await eventually("the database", () => run("pg_isready", "-h", folder), () => postgres.exitCode === null);
  return {
    /** A database that nobody else has. */
    create: (name) => {
      run("createdb", "-h", folder, "-U", "postgres", name);
      return `postgres:///${name}?host=${folder}&user=postgres`;
    },
    stop: async () => {
      postgres.kill("SIGINT"); // at once, with a checkpoint
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/**
 * Starts the binary that `make web-e2e` builds, on a free port, with a database of its own. Nothing of the surroundings reaches it.
 * more: further variables.
 */
export async function startServer(database, name, more = {}) {
  accessSync(binary);
  const folder = mkdtempSync(join(tmpdir(), "mini-asynq-e2e-"));
  const port = await freePort();
  const base = `http://localhost:${port}${more.MINIASYNQ_BASE_PATH ?? ""}`;
  const environment = {
    PATH: process.env.PATH, HOME: folder, DATABASE_URL: database.create(name), SERVER_PORT: String(port), MINIASYNQ_DEMO_HANDLERS: "true", ...more,
  };
  let server;
  const start = async () => {
    const log = [];
    server = spawn(binary, ["serve"], { cwd: folder, env: environment, stdio: ["ignore", "pipe", "pipe"] });
    const begun = server;
    for (const stream of [server.stdout, server.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => { log.push(text); });
    }
    try {
      await eventually("the server", async () => {
        const answer = await fetch(`${base}/api/v1/health/ready`);
        if (!answer.ok) {
          throw new Error(`ready: ${answer.status}`);
        }
      }, () => begun.exitCode === null);
    } catch (error) {
      await end();
      throw new Error(`${error.message}\n${log.join("")}`, { cause: error });
    }
  };
  const end = async () => {
    const { exitCode, signalCode } = server;
    if (exitCode === null && signalCode === null) {
      const ended = new Promise((done) => { server.once("exit", done); });
      server.kill("SIGTERM");
      await ended;
    }
  };
  const stop = async () => {
    await end();
    rmSync(folder, { recursive: true, force: true });
  };
  await start().catch((error) => {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  });
  const call = async (method, path, body, headers = {}) => {
    const answer = await fetch(`${base}/api/v1${path}`, {
      method, headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) {
      throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    }
    return text === "" ? undefined : JSON.parse(text);
  };
  /** Ends the server, and starts it again after something was done without it. */
  const restart = async (meanwhile) => {
    await end();
    await meanwhile();
    await start();
  };
  return { base, call, restart, stop };
}

export const asAdmin = { Authorization: `Basic ${Buffer.from("admin:password").toString("base64")}` };

export async function startBrowser() {
  const found = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((path) => {
    try {
      accessSync(path);
      return true;
    } catch {
      return false;
    }
  });
  if (!found) {
    throw new Error("no Chromium: install the package chromium");
  }
  return chromium.launch({ executablePath: found, args: ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"] });
}

/**
 * Opens a page in a context of its own and watches it: violations of the content security policy, errors of scripts and lines on the
 * console that nobody expected are gathered in `faults`. expected: what the console may say, such as that of an answer of 401.
 */
export async function openPage(browser, { expected = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  const faults = [];
  page.on("pageerror", (error) => { faults.push(`error: ${error.message}`); });
  page.on("console", (line) => {
    if (["error", "warning"].includes(line.type()) && !expected.some((pattern) => pattern.test(line.text()))) {
      faults.push(`console ${line.type()}: ${line.text()}`);
    }
  });
  await page.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
    });
  });
  return { page, faults, close: () => context.close() };
}

/** What axe-core finds of serious things, in words. It is injected past the policy, as the browser's own tools are. */
export async function findBarriers(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"] }));
  return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => `${node.target.join(" ")} (${node.any[0]?.message ?? node.failureSummary})`).join("; ")}`);
}

export async function shoot(page, name) {
  if (shots) {
    await page.screenshot({ path: join(shots, `${name}.png`) });
  }
}

/** Tries until it does not throw, for as long as a start may take and the process lives. */
async function eventually(what, attempt, isAlive) {
  for (const until = Date.now() + startMs; ;) {
    try {
      return await attempt();
    } catch (error) {
      if (!isAlive() || Date.now() > until) {
        throw new Error(`${what} did not start`, { cause: error });
      }
    }
    await new Promise((next) => { setTimeout(next, 50); });
  }
}

function findPostgres() {
  const root = "/usr/lib/postgresql";
  const versions = existsSync(root) ? readdirSync(root).map(Number).filter((version) => version >= 15).sort((a, b) => b - a) : [];
  const folders = [...versions.map((version) => join(root, String(version), "bin")), ...(process.env.PATH ?? "").split(":")];
  const found = folders.find((folder) => existsSync(join(folder, "initdb")) && existsSync(join(folder, "createdb")));
  if (!found) {
    throw new Error("no PostgreSQL 15 or newer");
  }
  return found;
}

function ownerOf(account) {
  const [, , uid, gid] = readFileSync("/etc/passwd", "utf8").split("\n").map((line) => line.split(":")).find(([name]) => name === account) ?? [];
  if (uid === undefined) {
    throw new Error(`no account ${account}`);
  }
  return { uid: Number(uid), gid: Number(gid) };
}

function freePort() {
  return new Promise((found, failed) => {
    const server = createServer();
    server.once("error", failed);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => { found(port); });
    });
  });
}
