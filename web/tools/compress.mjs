// Writes a .br and a .gz beside each file of a folder's assets that gets smaller by a tenth at least.
//
//   node tools/compress.mjs dist
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const folder = join(process.argv[2] ?? "dist", "assets");
for (const name of readdirSync(folder)) {
  if (/\.(br|gz)$/.test(name)) {
    continue;
  }
  const plain = readFileSync(join(folder, name));
  const variants = {
    br: brotliCompressSync(plain, {
      params: {
        [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY,
        [constants.BROTLI_PARAM_SIZE_HINT]: plain.length,
      },
    }),
    gz: gzipSync(plain, { level: 9 }),
  };
  if (variants.gz.length > plain.length * 0.9) {
    continue; // both or none: a reader that knows either is served alike
  }
  for (const [ending, packed] of Object.entries(variants)) {
    writeFileSync(join(folder, `${name}.${ending}`), packed);
  }
}
