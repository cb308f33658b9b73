// Checks what was built: what is committed is what these sources give, and it is small enough.
//
//   node tools/dist.mjs same dist tmp   the same files with the same bytes; packed ones are compared unpacked, since another
//                                       zlib packs the same text otherwise
//   node tools/dist.mjs budget dist     what each route makes a browser load, in gzip
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { brotliDecompressSync, gunzipSync, gzipSync } from "node:zlib";

const firstRouteBytes = 250_000;
const lazyRouteBytes = 120_000;

const [command, ...folders] = process.argv.slice(2);
switch (command) {
  case "same":
    same(folders[0], folders[1]);
    break;
  case "budget":
    budget(folders[0]);
    break;
  default:
    fail(`no command ${command}: there are same and budget`);
}

function same(committed, built) {
  const names = list(committed);
  const expected = list(built);
  const odd = [...new Set([...names, ...expected])].filter((name) => names.includes(name) !== expected.includes(name));
  if (odd.length > 0) {
    fail(`${committed} is not what the sources give; run make web. Only on one side: ${odd.join(" ")}`);
  }
  const changed = names.filter((name) => !unpacked(join(committed, name)).equals(unpacked(join(built, name))));
  if (changed.length > 0) {
    fail(`${committed} is not what the sources give; run make web. Other bytes: ${changed.join(" ")}`);
  }
  console.log(`${committed}: ${names.length} files, as built`);
}

function budget(folder) {
  const index = readFileSync(join(folder, "index.html"), "utf8");
  const named = [...index.matchAll(/(?:src|href)="[^"]*?assets\/([^"]+\.(?:js|css))"/g)].map((found) => found[1]);
  const overview = list(join(folder, "assets")).filter((name) => /^OverviewPage-[^.]*\.(?:js|css)$/.test(name));
  if (overview.length === 0) {
    fail("the page at / was not found: it is named OverviewPage");
  }
  // What the overview draws later is loaded there all the same.
  const later = overview.flatMap((name) => [...readFileSync(join(folder, "assets", name), "utf8").matchAll(/import\("\.\/([^"]+\.js)"\)/g)])
    .flatMap((found) => [found[1], ...styleOf(found[1], folder)]);
  const first = closure([...named, ...overview, ...later], folder);
  const sum = (names) => [...names].reduce((bytes, name) => bytes + gzipSync(readFileSync(join(folder, "assets", name)), { level: 9 }).length, 0);
  const rows = [["first route", sum(first), firstRouteBytes]];
  for (const name of list(join(folder, "assets"))) {
    if (name.endsWith(".js") && /Page-/.test(name)) {
      const more = new Set([...closure([name, ...styleOf(name, folder)], folder)].filter((needed) => !first.has(needed)));
      if (more.size > 0) {
        rows.push([name.replace(/-[^-]*$/, ""), sum(more), lazyRouteBytes]);
      }
    }
  }
  if (rows.length < 2) {
    fail("no lazy route was found: pages are named ...Page");
  }
  for (const [what, bytes, limit] of rows) {
    console.log(`${what.padEnd(24)} ${String(bytes).padStart(7)} of ${limit} bytes`);
  }
  const over = rows.filter(([, bytes, limit]) => bytes > limit);
  if (over.length > 0) {
    fail(`over the budget: ${over.map(([what]) => what).join(", ")}`);
  }
}

// Everything that these files import statically, and they themselves.
function closure(names, folder) {
  const seen = new Set();
  const queue = [...names];
  for (let name = queue.pop(); name !== undefined; name = queue.pop()) {
    if (seen.has(name)) {
      continue;
    }
    seen.add(name);
    if (name.endsWith(".js")) {
      const text = readFileSync(join(folder, "assets", name), "utf8");
      for (const found of text.matchAll(/(?:from|import)\s*"\.\/([^"]+\.js)"/g)) {
        queue.push(found[1]);
      }
    }
  }
  return seen;
}

// The style sheet that Vite split off for a lazy page has its name.
function styleOf(name, folder) {
  const stem = name.replace(/-[^-]*$/, "");
  return list(join(folder, "assets")).filter((other) => other.endsWith(".css") && other.replace(/-[^-]*$/, "") === stem);
}

function list(folder) {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(join(folder, "/").length))
    .sort();
}

function unpacked(file) {
  const bytes = readFileSync(file);
  return file.endsWith(".br") ? brotliDecompressSync(bytes) : file.endsWith(".gz") ? gunzipSync(bytes) : bytes;
}

function fail(reason) {
  console.error(reason);
  process.exit(1);
}
