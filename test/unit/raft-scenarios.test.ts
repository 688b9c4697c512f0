// Plays test/data/raft/*.txt, each a section of the Raft paper or thesis, or a case known to be hard.
// RAFT_REWRITE=1 writes what the scenarios print now into the files: read the difference before you commit it.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';
import { play } from '../support/raft-scenario.js';

const folder = path.resolve(import.meta.dirname, '../../../test/data/raft');

describe('Raft scenarios', () => {
  for (const name of readdirSync(folder).filter((file) => file.endsWith('.txt')).sort()) {
    it(name, () => {
      const text = readFileSync(path.join(folder, name), 'utf8');
      const played = play(text);
      if (process.env.RAFT_REWRITE !== undefined) writeFileSync(path.join(folder, name), played);
      else assert.equal(played, text);
    });
  }
});
