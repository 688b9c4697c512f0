// Prepares a machine to build, test and run Skein: Debian packages, npm packages, the build.
// Uses Node's own modules only, because it runs before `npm ci`. Looks first and does only what is missing, so that a
// second run costs less than a second. Needs root for apt alone; leaves nothing on the machine but the packages.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, constants, existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '..');
const lockStamp = path.join(root, 'node_modules/.skein-lock');

/** What is needed: a program or a file, and the Debian package that brings it. */
const NEEDS = [
  // Build.
  ['gcc', 'gcc'], ['make', 'make'], ['/usr/include/stdio.h', 'libc6-dev'], ['/usr/include/linux/if_tun.h', 'linux-libc-dev'],
  // Running tasks and networks.
  ['runc', 'runc'], ['crun', 'crun'], ['conmon', 'conmon'], ['nft', 'nftables'], ['ip', 'iproute2'], ['nsenter', 'util-linux'],
  ['ps', 'procps'], ['mount', 'mount'], ['tini', 'tini'], ['zstd', 'zstd'], ['skopeo', 'skopeo'], ['umoci', 'umoci'],
  // The docker CLI and a real Engine for the docker runtime; its iptables.
  ['docker', 'docker.io'], ['dockerd', 'docker.io'], ['iptables', 'iptables'],
  // Tests and the demo.
  ['curl', 'curl'], ['dig', 'dnsutils'], ['busybox', 'busybox-static'], ['iperf3', 'iperf3'], ['tcpdump', 'tcpdump'],
  ['conntrack', 'conntrack'],
  // What the managers are measured beside.
  ['etcd', 'etcd-server'],
];
const NODE_OLDEST = [20, 19];
const PATHS = [...new Set([...(process.env.PATH ?? '').split(':'), '/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/bin', '/bin'])];
const OUTPUT_LINES_KEPT = 25;

class SetupError extends Error {}

function present(need) {
  const candidates = need.startsWith('/') ? [need] : PATHS.map((directory) => path.join(directory, need));
  return candidates.some((file) => {
    try {
      accessSync(file, need.startsWith('/') ? constants.R_OK : constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

const missingNeeds = () => NEEDS.filter(([need]) => !present(need));
const seconds = (sinceMs) => `${((Date.now() - sinceMs) / 1000).toFixed(1)} s`;

/** Runs one step with a line of progress; its output is shown only when it fails. */
async function step(title, file, args, env = {}) {
  const startedMs = Date.now();
  if (process.stdout.isTTY) process.stdout.write(`setup: ${title} ...`);
  else console.log(`setup: ${title} ...`);
  const { code, output } = await capture(file, args, env);
  if (code === 0) {
    const line = `setup: ${title}: done in ${seconds(startedMs)}`;
    console.log(process.stdout.isTTY ? `\r${line}` : line);
    return;
  }
  const tail = output.trimEnd().split('\n').slice(-OUTPUT_LINES_KEPT).map((line) => `  ${line}`).join('\n');
  throw new SetupError(`${title} failed (\`${path.basename(file)} ${args.join(' ')}\`, ${code}). Its last output:\n${tail}`);
}

function capture(file, args, env) {
  return new Promise((resolve) => {
    const child = spawn(file, args, { cwd: root, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const keep = (chunk) => {
      output = (output + chunk).slice(-64 * 1024);
    };
    child.stdout.on('data', keep);
    child.stderr.on('data', keep);
    child.on('error', (error) => resolve({ code: error.code ?? 'error', output: `${output}${error.message}` }));
    child.on('close', (code, signal) => resolve({ code: code ?? signal, output }));
  });
}

async function installPackages() {
  const missing = missingNeeds();
  if (missing.length === 0) return;
  const packages = [...new Set(missing.map(([, name]) => name))];
  if (!present('apt-get')) {
    throw new SetupError(`this machine has no apt-get; please install what is missing by hand: ${missing.map(([need]) => need).join(', ')}`);
  }
  if (process.getuid?.() !== 0) {
    throw new SetupError(`not root: installing ${packages.join(', ')} needs root. Run this command as root, or install them yourself`);
  }
  // RUNLEVEL=1 keeps packages from starting their services where there is no systemd; nothing is written for it.
  const env = { DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1', LC_ALL: 'C.UTF-8' };
  const lock = ['-o', 'DPkg::Lock::Timeout=300'];
  await step('list of Debian packages', 'apt-get', [...lock, 'update', '-q'], env);
  await step(`Debian packages ${packages.join(' ')}`, 'apt-get', [...lock, 'install', '-y', '-q', '--no-install-recommends', ...packages], env);
  const still = missingNeeds().map(([need, name]) => `${need} (${name})`);
  if (still.length > 0) throw new SetupError(`installed, but still missing: ${still.join(', ')}`);
}

async function installModules() {
  const hash = createHash('sha256').update(readFileSync(path.join(root, 'package-lock.json'))).digest('hex');
  if (existsSync(lockStamp) && readFileSync(lockStamp, 'utf8') === hash) return;
  // No install script of any package is needed; package.json's allowScripts says the same to npm 11.
  await step('npm packages', 'npm', ['ci', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error']);
  writeFileSync(lockStamp, hash);
}

async function main() {
  const startedMs = Date.now();
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major < NODE_OLDEST[0] || (major === NODE_OLDEST[0] && minor < NODE_OLDEST[1])) {
    throw new SetupError(`Node ${process.versions.node} is too old: ${NODE_OLDEST.join('.')} or newer is needed`);
  }
  await installPackages();
  await installModules();
  const { build } = await import('./build.mjs');
  build({ log: (line) => console.log(`setup: ${line}`) });
  console.log(`setup: ready in ${seconds(startedMs)}`);
}

try {
  await main();
} catch (error) {
  if (error?.name !== 'BuildError' && !(error instanceof SetupError)) throw error;
  console.error(`setup: ${error.message}`);
  process.exit(1);
}
