// The structs of native/packet/tables.h and src/io/datapath/layout.ts are the same, byte for byte.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { ABI_VERSION, fieldOffset, LAYOUTS, type StructName, structSize } from '../../src/io/datapath/layout.js';

test('sizes and offsets of the data plane ABI', () => {
  const binary = path.resolve(import.meta.dirname, '../../../build/skein-datapath');
  const native = JSON.parse(execFileSync(binary, ['--abi'], { encoding: 'utf8' })) as {
    abi: number;
    structs: Record<string, { size: number; fields: Record<string, [number, number]> }>;
  };
  assert.equal(native.abi, ABI_VERSION);
  assert.deepEqual(Object.keys(native.structs).sort(), Object.keys(LAYOUTS).sort());
  for (const name of Object.keys(LAYOUTS) as StructName[]) {
    const fields = Object.fromEntries(
      Object.entries(LAYOUTS[name]).map(([field, size]) => [field, [fieldOffset(name, field as never), size]]),
    );
    assert.deepEqual({ size: structSize(name), fields }, native.structs[name], name);
  }
});
