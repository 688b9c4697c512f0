// For tests of liveness: processors kept busy, and what the swarm takes its nodes for meanwhile.

import { spawn, type ChildProcess } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { sleep, type Lab } from './fixture.js';

/** So many endless loops for each processor, until end(). */
export class BusyLoops {
  private readonly children: ChildProcess[];

  constructor(perCore: number) {
    const length = perCore * os.cpus().length;
    this.children = Array.from({ length }, () => spawn('sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' }));
  }

  end(): void {
    for (const child of this.children) child.kill('SIGKILL');
  }
}

/** Looks at all nodes for so long; resolves with how often it looked, and each state that was not ready. */
export async function watchStates(lab: Lab, ms: number): Promise<{ looks: number; others: string[] }> {
  const others: string[] = [];
  let looks = 0;
  for (const end = Date.now() + ms; Date.now() < end; looks++) {
    const nodes = await lab.api<{ Description: { Hostname: string }; Status: { State: string } }[]>('GET', '/v1.40/nodes');
    for (const node of nodes) if (node.Status.State !== 'ready') others.push(`${node.Description.Hostname} ${node.Status.State}`);
    await sleep(100);
  }
  return { looks, others };
}

/** What the manager logged of nodes it took for dead. */
export async function lostLines(lab: Lab): Promise<string[]> {
  return (await readFile(path.join(lab.manager.runDir, 'agent.log'), 'utf8')).split('\n').filter((line) => line.includes('a node is lost'));
}
