// What an agent is started with: flags or a YAML/JSON file, checked by name.

import { readFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { parse } from 'yaml';
import { parsePrefix } from '../lib/cidr.js';
import { parseUpstream } from '../io/dns/forwarder.js';
import { fail, ok, type Result } from '../lib/result.js';
import { GATEWAY_BITS } from '../model/network.js';

export interface AgentOptions {
  readonly hostname: string;
  readonly stateDir: string;
  readonly runDir: string;
  readonly socket: string;
  readonly listenAddr: string;
  readonly advertiseAddr: string;
  readonly dataPathAddr: string;
  readonly engine: 'auto' | 'userspace';
  readonly runtime: 'auto' | 'oci' | 'docker';
  readonly dockerSocket: string;
  readonly gatewayBridge: string;
  /** Upstream DNS servers, comma-separated; empty: those of /etc/resolv.conf. */
  readonly dns: string;
  readonly logLevel: string;
  readonly datapathBinary: string;
}

export const AGENT_DEFAULTS: AgentOptions = {
  hostname: os.hostname(),
  stateDir: '/var/lib/skein',
  runDir: '/run/skein/default',
  socket: '/run/skein/docker.sock',
  listenAddr: '0.0.0.0:2377',
  advertiseAddr: '',
  dataPathAddr: '',
  engine: 'auto',
  runtime: 'auto',
  dockerSocket: '/var/run/docker.sock',
  gatewayBridge: '172.18.0.1/16',
  dns: '',
  logLevel: 'info',
  datapathBinary: path.resolve(import.meta.dirname, '../../../build/skein-datapath'),
};

const CHOICES: Partial<Record<keyof AgentOptions, readonly string[]>> = {
  engine: ['auto', 'userspace'],
  runtime: ['auto', 'oci', 'docker'],
  logLevel: ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'],
};

/** Later sources win: defaults, file, flags. */
export async function agentOptions(flags: Partial<AgentOptions>, file: string | undefined): Promise<Result<AgentOptions>> {
  let fromFile: Record<string, unknown> = {};
  if (file !== undefined) {
    const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => error);
    if (text instanceof Error) return fail('invalid_argument', `--config: cannot read ${file}: ${text.code}`);
    const parsed: unknown = parse(text);
    if (parsed === null || typeof parsed !== 'object' || Array.isArray(parsed)) return fail('invalid_argument', `--config: ${file} must hold a mapping of options`);
    fromFile = parsed as Record<string, unknown>;
  }
  for (const [key, value] of Object.entries(fromFile)) {
    if (!(key in AGENT_DEFAULTS)) return fail('invalid_argument', `${file}: unknown option "${key}" (known: ${Object.keys(AGENT_DEFAULTS).join(', ')})`);
    if (typeof value !== 'string') return fail('invalid_argument', `${file}: option "${key}" must be text`);
  }
  const options = { ...AGENT_DEFAULTS, ...(fromFile as Partial<AgentOptions>), ...flags };
  for (const [key, choices] of Object.entries(CHOICES) as [keyof AgentOptions, readonly string[]][]) {
    if (!choices.includes(options[key])) return fail('invalid_argument', `option "${key}" must be one of ${choices.join(', ')}, not "${options[key]}"`);
  }
  const gateway = parsePrefix(options.gatewayBridge);
  if (gateway === undefined || gateway.bits < GATEWAY_BITS.min || gateway.bits > GATEWAY_BITS.max) {
    return fail('invalid_argument', 'option "gatewayBridge" must be an address with a prefix length '
      + `from ${GATEWAY_BITS.min} to ${GATEWAY_BITS.max} like 172.18.0.1/16, not "${options.gatewayBridge}"`);
  }
  for (const server of options.dns.split(',').filter((text) => text !== '')) {
    if (parseUpstream(server) === undefined) return fail('invalid_argument', `option "dns" must be addresses like 192.0.2.1 or 192.0.2.1:5353, not "${server}"`);
  }
  for (const key of ['stateDir', 'runDir', 'socket'] as const) {
    if (!path.isAbsolute(options[key])) return fail('invalid_argument', `option "${key}" must be an absolute path, not "${options[key]}"`);
  }
  // The socket paths must fit sun_path.
  if (options.runDir.length > 80) return fail('invalid_argument', `option "runDir" is longer than 80 characters: ${options.runDir}`);
  return ok(options);
}
