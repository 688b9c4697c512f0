// CPU time, memory and children of processes, from /proc.

import { readFile } from 'node:fs/promises';

const TICKS = 100;
const PAGE_MIB = 4096 / 2 ** 20;

/** utime and stime of them all; of one that is gone, nothing. */
export async function cpuSeconds(pids: readonly number[]): Promise<number> {
  let ticks = 0;
  for (const pid of pids) {
    const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    // The name in parentheses may hold anything; what follows it is regular.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    ticks += Number(fields[11] ?? 0) + Number(fields[12] ?? 0);
  }
  return ticks / TICKS;
}

/** Mean resident memory. */
export async function residentMiB(pids: readonly number[]): Promise<number> {
  let pages = 0;
  for (const pid of pids) pages += Number((await readFile(`/proc/${pid}/statm`, 'utf8')).split(' ')[1]);
  return pages * PAGE_MIB / pids.length;
}

/** Of one that is gone there are none. */
export async function childrenOf(pid: number | undefined): Promise<number[]> {
  const text = pid === undefined ? '' : await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  return text.trim().split(' ').filter((each) => each !== '').map(Number);
}

/** All that a process has started, and what these have. */
export async function descendantsOf(pid: number | undefined): Promise<number[]> {
  const own = await childrenOf(pid);
  return [...own, ...(await Promise.all(own.map(descendantsOf))).flat()];
}
