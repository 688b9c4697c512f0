// Addresses a node listens on and tells others: host[:port] text, interface names, and the one to choose when none is
// given. Errors in Docker's words.

import { createSocket } from 'node:dgram';
import os from 'node:os';
import { parseAddress } from '../lib/cidr.js';
import { fail, ok, type Result } from '../lib/result.js';
import { NodeSpec_Availability } from '../model/proto/swarmkit_pb.js';
import type { AgentOptions } from './options.js';

export const MANAGEMENT_PORT = 2377;

export const AVAILABILITY = {
  active: NodeSpec_Availability.ACTIVE, pause: NodeSpec_Availability.PAUSE, drain: NodeSpec_Availability.DRAIN,
} as const;

/** What others know a node by: "ip:port" of its manager, and the address of its tunnels. */
export interface NodeAddresses {
  readonly advertiseAddr: string;
  readonly dataPathAddr: string;
}

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

export function parseHostPort(text: string, defaultPort: number): Result<HostPort> {
  const match = /^(.*?)(?::(\d+))?$/.exec(text);
  const host = match?.[1] ?? '';
  const port = match?.[2] === undefined ? defaultPort : Number(match[2]);
  if (port < 1 || port > 65_535) return fail('invalid_argument', `invalid port in address "${text}": must be between 1 and 65535`);
  return ok({ host, port });
}

/** IPv4 addresses of an interface. */
function addressesOf(name: string): string[] {
  return (os.networkInterfaces()[name] ?? []).filter((a) => a.family === 'IPv4').map((a) => a.address);
}

/** An address, or the address of the interface of that name. */
export function resolveAddress(text: string, what: string): Result<string> {
  if (parseAddress(text) !== undefined) return ok(text);
  const found = addressesOf(text);
  if (found.length === 1) return ok(found[0] as string);
  if (found.length > 1) return fail('invalid_argument', `interface ${text} has more than one IPv4 address (${found.join(' and ')})`);
  if (os.networkInterfaces()[text] !== undefined) return fail('invalid_argument', `interface ${text} has no usable IPv4 or IPv6 address`);
  return fail('invalid_argument', `${what} must be an IP address or network interface (with optional port number)`);
}

/** The address this machine has towards another host: what it tells others when it was told nothing. */
export function addressTowards(host: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = createSocket('udp4');
    const finish = (address: string | undefined): void => {
      socket.close();
      resolve(address);
    };
    socket.on('error', () => finish(undefined));
    // Connecting a datagram socket sends nothing; it only picks the route. No route: the caller chooses otherwise.
    socket.connect(9, host, ((error?: Error) => finish(error === undefined ? socket.address().address : undefined)) as () => void);
  });
}

/** The only address of this machine. The CLI adds the advice to name one with --advertise-addr to these errors. */
export function chooseAddress(ignore: (name: string) => boolean): Result<string> {
  const found = Object.entries(os.networkInterfaces())
    .filter(([name]) => !ignore(name))
    .flatMap(([name, list]) => (list ?? []).filter((a) => a.family === 'IPv4' && !a.internal).map((a) => ({ name, address: a.address })));
  if (found.length === 1) return ok((found[0] as { address: string }).address);
  if (found.length === 0) {
    return fail('invalid_argument', 'could not find the system\'s IP address');
  }
  const [a, b] = found as [{ name: string; address: string }, { name: string; address: string }];
  const where = a.name === b.name ? `on interface ${a.name} (${a.address} and ${b.address})`
    : `on different interfaces (${a.address} on ${a.name} and ${b.address} on ${b.name})`;
  return fail('invalid_argument', `could not choose an IP address to advertise since this system has multiple addresses ${where}`);
}

/** As asked for, as the agent was started with, or as the machine has it; in this order. */
export function nodeAddresses(options: AgentOptions, asked: NodeAddresses, port: number): Result<NodeAddresses> {
  const given = parseHostPort(asked.advertiseAddr !== '' ? asked.advertiseAddr : options.advertiseAddr, port);
  if (!given.ok) return given;
  const host = given.value.host !== '' ? resolveAddress(given.value.host, 'advertise address')
    : chooseAddress((name) => name.startsWith('skein') || name.startsWith('docker'));
  if (!host.ok) return host;
  const data = asked.dataPathAddr !== '' ? asked.dataPathAddr : options.dataPathAddr;
  const dataAddress = data === '' ? host : resolveAddress(data, 'data path address');
  if (!dataAddress.ok) return dataAddress;
  return ok({ advertiseAddr: `${host.value}:${given.value.port}`, dataPathAddr: dataAddress.value });
}

/** Of an agent started with an address of its own: it may be another one than the node had. */
export function addressesNow(options: AgentOptions, had: NodeAddresses): Result<NodeAddresses> | undefined {
  if (options.advertiseAddr === '') return undefined;
  const before = parseHostPort(had.advertiseAddr, MANAGEMENT_PORT);
  if (!before.ok) return before;
  // A data-path address of its own stays.
  const dataPathAddr = options.dataPathAddr !== '' || had.dataPathAddr === before.value.host ? '' : had.dataPathAddr;
  return nodeAddresses(options, { advertiseAddr: '', dataPathAddr }, before.value.port);
}
