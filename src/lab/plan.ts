// The plan of a lab: names, addresses and paths of its nodes, all derived from the lab's name, so that whoever comes
// after a killed lab finds everything it made.

import path from 'node:path';
import { fail, ok, type Result } from '../lib/result.js';

export interface LabNode {
  readonly name: string;
  readonly role: 'manager' | 'worker';
  readonly netns: string;
  readonly address: string;
  readonly socket: string;
  readonly stateDir: string;
  readonly runDir: string;
}

export interface LabPlan {
  readonly name: string;
  readonly engine: 'auto' | 'userspace';
  readonly runtime: 'auto' | 'oci' | 'docker';
  readonly dockerSocket: string;
  /** Namespace with the bridge that stands for the wire between the nodes. */
  readonly switchNetns: string;
  /** A host outside the swarm on the same wire: where requests come from. */
  readonly clientNetns: string;
  readonly clientAddress: string;
  readonly nodes: readonly LabNode[];
  /** The process that makes the lab; gone once the swarm is formed. */
  readonly builder?: { readonly pid: number; readonly start: string };
}

export interface LabRequest {
  readonly name: string;
  readonly managers: number;
  readonly workers: number;
  readonly engine: 'auto' | 'userspace';
  readonly runtime: 'auto' | 'oci' | 'docker';
}

export const LAB_STATE = '/var/lib/skein-lab';
export const LAB_RUN = '/run/skein-lab';
export const LAB_SUBNET_BITS = 24;
const NETWORK = '192.168.99';
const NAME = /^[a-z][a-z0-9]{0,15}$/;

export function planLab(request: LabRequest): Result<LabPlan> {
  const { name, managers, workers } = request;
  if (!NAME.test(name)) return fail('invalid_argument', `--name must be 1 to 16 lower-case letters and digits beginning with a letter, not "${name}"`);
  if (!Number.isInteger(managers) || managers < 1 || managers > 9) return fail('invalid_argument', '--managers must be between 1 and 9');
  if (!Number.isInteger(workers) || workers < 0 || workers > 99) return fail('invalid_argument', '--workers must be between 0 and 99');
  const node = (role: 'manager' | 'worker', number: number): LabNode => {
    const short = `${role === 'manager' ? 'm' : 'w'}${number}`;
    return {
      name: short,
      role,
      netns: `skein-${name}-${short}`,
      address: `${NETWORK}.${(role === 'manager' ? 10 : 100) + number}`,
      socket: path.join(LAB_RUN, name, short, 'docker.sock'),
      stateDir: path.join(LAB_STATE, name, short),
      runDir: path.join(LAB_RUN, name, short),
    };
  };
  return ok({
    name,
    engine: request.engine,
    runtime: request.runtime,
    dockerSocket: path.join(LAB_RUN, name, 'engine', 'docker.sock'),
    switchNetns: `skein-${name}-switch`,
    clientNetns: `skein-${name}-client`,
    clientAddress: `${NETWORK}.250`,
    nodes: [
      ...Array.from({ length: managers }, (_, i) => node('manager', i + 1)),
      ...Array.from({ length: workers }, (_, i) => node('worker', i + 1)),
    ],
  });
}

export function planFile(name: string): string {
  return path.join(LAB_RUN, `${name}.json`);
}
