// Regenerates src/model/proto from proto/ (its output is committed; run after editing a .proto file).
// Needs Debian's protobuf-compiler and libprotobuf-dev; nothing else of the project does.
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const protos = readdirSync(path.join(root, 'proto')).filter((name) => name.endsWith('.proto'));
try {
  execFileSync('protoc', [
    `--plugin=protoc-gen-es=${path.join(root, 'node_modules/.bin/protoc-gen-es')}`,
    `--proto_path=${path.join(root, 'proto')}`,
    `--es_out=${path.join(root, 'src/model/proto')}`,
    '--es_opt=target=js+dts,import_extension=js',
    ...protos,
  ], { stdio: 'inherit', cwd: root });
} catch (error) {
  if (error.code !== 'ENOENT') throw error;
  console.error('protoc is missing: apt-get install protobuf-compiler libprotobuf-dev');
  process.exit(1);
}
