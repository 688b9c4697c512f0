// Addresses a user gives to init and join: an IP, an interface name, with or without a port. Interfaces are looked up
// on this node.

import { networkInterfaces } from 'node:os';
import net from 'node:net';
import { failure } from './errors.js';

export const DEFAULT_PORT = '2377';

export interface HostPort {
  readonly host: string;
  readonly port: string;
}

export function join(address: HostPort): string {
  return net.isIPv6(address.host) ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/** Splits `host`, `host:port`, `[v6]:port`; a bare IPv6 address has no port. */
export function splitHostPort(text: string, defaultPort: string): HostPort | undefined {
  if (net.isIPv6(text)) return { host: text, port: defaultPort };
  const bracket = /^\[([^\]]+)\](?::([0-9]{1,5}))?$/.exec(text);
  if (bracket !== null) return checked(bracket[1] ?? '', bracket[2] ?? defaultPort);
  const plain = /^([^:]*)(?::([0-9]{1,5}))?$/.exec(text);
  if (plain === null) return undefined;
  return checked(plain[1] ?? '', plain[2] ?? defaultPort);
}

function checked(host: string, port: string): HostPort | undefined {
  return Number(port) > 65535 ? undefined : { host, port };
}

function addressesOf(name: string): readonly string[] | undefined {
  const found = networkInterfaces()[name];
  if (found === undefined) return undefined;
  const usable = found.filter((x) => !(x.family === 'IPv6' && x.address.startsWith('fe80')));
  const v4 = usable.filter((x) => x.family === 'IPv4').map((x) => x.address);
  return v4.length > 0 ? v4 : usable.map((x) => x.address);
}

function ofInterface(name: string, flag: string): string | undefined {
  const addresses = addressesOf(name);
  if (addresses === undefined) return undefined;
  const [first, second] = addresses;
  if (first === undefined) throw failure('invalid_argument', `interface ${name} has no usable IPv4 or IPv6 address`);
  if (second !== undefined) {
    throw failure('invalid_argument',
      `interface ${name} has more than one address (${addresses.join(' and ')}) - specify one with ${flag}`);
  }
  return first;
}

/** The host of a listen or advertise address as an IP. */
function resolveHost(host: string, flag: string, refusal: string): string {
  const address = ofInterface(host, flag) ?? host;
  if (net.isIP(address) === 0) throw failure('invalid_argument', refusal);
  return address;
}

function isUnspecified(host: string): boolean {
  return host === '0.0.0.0' || host === '::';
}

export function resolveListen(text: string): string {
  const address = splitHostPort(text === '' ? `0.0.0.0:${DEFAULT_PORT}` : text, DEFAULT_PORT);
  const refusal = 'invalid ListenAddr: listen address must be an IP address or network interface '
    + '(with optional port number)';
  if (address === undefined) throw failure('invalid_argument', refusal);
  const host = address.host === '' ? '0.0.0.0' : resolveHost(address.host, '--listen-addr', refusal);
  return join({ host, port: address.port });
}

export function resolveAdvertise(text: string, listen: string): string {
  const listening = splitHostPort(listen, DEFAULT_PORT) ?? { host: '0.0.0.0', port: DEFAULT_PORT };
  const refusal = 'advertise address must be a non-zero IP address or network interface (with optional port number)';
  if (text !== '') {
    const address = splitHostPort(text, listening.port);
    if (address === undefined) throw failure('invalid_argument', refusal);
    const host = resolveHost(address.host, '--advertise-addr', refusal);
    if (isUnspecified(host)) throw failure('invalid_argument', refusal);
    return join({ host, port: address.port });
  }
  // Left to the node: its own default, or the one address of the machine.
  return isUnspecified(listening.host) ? '' : join({ host: listening.host, port: listening.port });
}

export function resolveDataPath(text: string): string {
  if (text === '') return '';
  const refusal = 'data path address must be a non-zero IP address or network interface';
  const host = resolveHost(text, '--data-path-addr', refusal);
  if (isUnspecified(host)) throw failure('invalid_argument', refusal);
  return host;
}
