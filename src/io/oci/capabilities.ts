// Capabilities of a task: Docker's default fourteen, changed by cap-add and cap-drop.

import { AppFailure, appError } from '../../lib/result.js';

const all = ('CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE ' +
  'NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT ' +
  'SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG ' +
  'WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE').split(' ').map((name) => `CAP_${name}`);

export const defaultCapabilities = ('CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE ' +
  'SYS_CHROOT KILL AUDIT_WRITE').split(' ').map((name) => `CAP_${name}`);

/** The capabilities of root in the task, by Docker's rules: ALL may be added or dropped, adding wins over dropping ALL. */
export function capabilitySet(add: readonly string[], drop: readonly string[]): string[] {
  const added = add.map(normalize);
  const dropped = drop.map(normalize);
  if (added.includes('ALL')) return all.filter((name) => !dropped.includes(name));
  const base = dropped.includes('ALL') ? [] : defaultCapabilities.filter((name) => !dropped.includes(name));
  return [...new Set([...base, ...added])];
}

function normalize(name: string): string {
  const upper = name.toUpperCase();
  if (upper === 'ALL') return upper;
  const full = upper.startsWith('CAP_') ? upper : `CAP_${upper}`;
  if (!all.includes(full)) throw new AppFailure(appError('invalid_argument', `invalid capability: "${name}"`));
  return full;
}
