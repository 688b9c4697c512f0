#!/usr/bin/env node
// Entry point of the `skein` command: hands over to the built program.
import { existsSync } from 'node:fs';
import path from 'node:path';

const main = path.resolve(import.meta.dirname, '../dist/src/main.js');
if (!existsSync(main)) {
  console.error('skein is not built yet: run `npm run setup` first');
  process.exit(1);
}
await import(main);
