import { existsSync, readFileSync } from "node:fs";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

// Where `npm run dev` finds a server: make run.
const server = "http://localhost:8080";

/** Files that the page names besides what it is made of. They get hashed names, too. */
const emitted = { "early.js": "src/early.js", "icon.svg": "src/icon.svg" };

/** Puts src/early.js in front of everything in the page, as a script that blocks the first paint, and the icon. */
function pageFiles(): Plugin {
  return {
    name: "page-files",
    apply: "build",
    buildStart() {
      for (const [name, path] of Object.entries(emitted)) {
        this.emitFile({ type: "asset", name, source: readFileSync(new URL(path, import.meta.url), "utf8") });
      }
    },
    transformIndexHtml: {
      order: "post",
      handler(_html, { bundle }) {
        const address = (name: string): string => {
          const file = Object.values(bundle ?? {}).find((entry) => entry.type === "asset" && entry.names.includes(name));
          if (!file) {
            throw new Error(`${name} is not in the bundle`);
          }
          return `{{.BasePath}}/${file.fileName}`;
        };
        return [
          { tag: "script", attrs: { src: address("early.js") }, injectTo: "head-prepend" },
          { tag: "link", attrs: { rel: "icon", href: address("icon.svg") }, injectTo: "head" },
        ];
      },
    },
  };
}

/**
 * The style sheets of the component library are named one by one in src/styles.ts, since all of them together are three times as
 * long. This ends a build in which one is missing or is not needed.
 */
function libraryStyles(): Plugin {
  const classNames = /@mantine\/core\/esm\/.*\/(\w+)\.module\.mjs/; // what a component has of its sheet
  const sheet = /@mantine\/core\/styles\/(\w+)\.css/;
  return {
    name: "library-styles",
    apply: "build",
    generateBundle(_options, bundle) {
      const chunks = Object.values(bundle).filter((file) => file.type === "chunk");
      const used = new Set(chunks
        .flatMap((chunk) => Object.entries(chunk.modules))
        .flatMap(([id, part]) => part.renderedLength > 0 ? classNames.exec(id)?.[1] ?? [] : []));
      const named = new Set([...this.getModuleIds()].flatMap((id) => sheet.exec(id)?.[1] ?? []));
      const has = (name: string): boolean => existsSync(new URL(`node_modules/@mantine/core/styles/${name}.css`, import.meta.url));
      const missing = [...used].filter((name) => has(name) && !named.has(name));
      const idle = [...named].filter((name) => /^[A-Z]/.test(name) && !used.has(name));
      if (missing.length > 0 || idle.length > 0) {
        throw new Error(`src/styles.ts: missing: ${missing.join(" ") || "none"}; not needed: ${idle.join(" ") || "none"}`);
      }
    },
  };
}

/** Fills the page as the server does, while Vite serves it. */
function devPage(): Plugin {
  return {
    name: "dev-page",
    apply: "serve",
    transformIndexHtml: (html) => ({
      html: html.replace("{{.Config}}", JSON.stringify({ base_path: "", dev: true, nonce: "" })),
      tags: [
        { tag: "script", attrs: { src: "/src/early.js" }, injectTo: "head-prepend" },
        { tag: "link", attrs: { rel: "icon", href: "/src/icon.svg" }, injectTo: "head" },
      ],
    }),
  };
}

export default defineConfig({
  base: "./",
  plugins: [pageFiles(), libraryStyles(), devPage()],
  esbuild: { jsx: "automatic", legalComments: "none" },
  build: {
    target: "es2022",
    sourcemap: false,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    chunkSizeWarningLimit: 1000, // tools/dist.mjs measures what a browser loads
    rollupOptions: {
      output: { hashCharacters: "hex" },
      onwarn: (warning, warn) => {
        if (warning.code !== "MODULE_LEVEL_DIRECTIVE") { // "use client" of a library; here everything is the client
          warn(warning);
        }
      },
    },
  },
  experimental: {
    // The page fills in its base path when it is sent (embed.go); scripts find their neighbours relative to themselves.
    renderBuiltUrl: (file, { hostType }) => hostType === "html" ? `{{.BasePath}}/${file}` : { relative: true },
  },
  server: { proxy: { "/api": { target: server, ws: true }, "/problems": server } },
  test: {
    environment: "jsdom",
    include: ["src/**/*.test.{ts,tsx}"],
    setupFiles: ["src/testing/setup.ts"],
  },
});
