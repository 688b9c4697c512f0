// The files that a task gets in /etc: hosts, hostname, resolv.conf.

import { writeFile } from 'node:fs/promises';
import type { TaskEnvironment } from '../../platform/executor.js';
import { ensureDirectory } from './files.js';
import type { TaskFiles } from './task-files.js';

const localHosts = '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n' +
  'ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n';

export async function writeEtcFiles(files: TaskFiles, environment: TaskEnvironment): Promise<void> {
  await ensureDirectory(files.at('etc'), 0o755);
  const { dns, hosts } = environment;
  const resolv = [
    ...(dns.search.length === 0 ? [] : [`search ${dns.search.join(' ')}`]),
    ...dns.nameservers.map((address) => `nameserver ${address}`),
    ...(dns.options.length === 0 ? [] : [`options ${dns.options.join(' ')}`]),
  ];
  await writeFile(files.at('etc', 'hosts'), localHosts + hosts.map(({ address, names }) => `${address}\t${names.join(' ')}\n`).join(''), { mode: 0o644 });
  await writeFile(files.at('etc', 'hostname'), `${environment.hostname}\n`, { mode: 0o644 });
  await writeFile(files.at('etc', 'resolv.conf'), resolv.map((line) => `${line}\n`).join(''), { mode: 0o644 });
}
