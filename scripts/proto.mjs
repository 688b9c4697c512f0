// Regenerates src/model/proto from proto/ (output is committed; run after editing a .proto file).
import { execFileSync } from 'node:child_process';
import { writeFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const work = mkdtempSync(path.join(tmpdir(), 'skein-proto-'));
try {
  const template = path.join(work, 'buf.gen.yaml');
  writeFileSync(template, JSON.stringify({
    version: 'v2',
    plugins: [{
      local: path.join(root, 'node_modules/.bin/protoc-gen-es'),
      out: path.join(root, 'src/model/proto'),
      opt: ['target=js+dts', 'import_extension=js'],
    }],
  }));
  execFileSync(path.join(root, 'node_modules/.bin/buf'), ['generate', path.join(root, 'proto'), '--template', template],
    { stdio: 'inherit', cwd: root });
} finally {
  rmSync(work, { recursive: true, force: true });
}
