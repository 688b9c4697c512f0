// Faults of managers, for the chaos tests: killed, paused, cut off (both ways, one way, one link), their disk full. Each
// is begun and ended; end() takes back whatever still stands, by the pids and tables it made.

import assert from 'node:assert/strict';
import { cp, mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startAgent } from '../../src/lab/lab.js';
import type { LabNode } from '../../src/lab/plan.js';
import type { Prng } from '../../src/lib/prng.js';
import { command, eventually, type Lab } from './fixture.js';

export const KINDS = ['kill', 'pause', 'isolate', 'deaf', 'mute', 'link', 'oneway', 'disk'] as const;
export type FaultKind = (typeof KINDS)[number];

const DISK_BYTES = 48 * 1024 * 1024;
/** Writes go on: a manager whose disk is full meets that within this time, if it gets any. */
const FULL_MS = 4000;
/** What a manager says when its log cannot be written. */
const SAYS_FULL = /ENOSPC|no space left/i;

export class Faults {
  readonly counts: Record<string, number> = {};
  readonly findings: string[] = [];
  private readonly busy = new Set<string>();
  private readonly paused = new Set<number>();
  private readonly lab: Lab;
  private readonly holdMaxMs: number;
  private readonly log: (line: string) => void;
  private stopped = false;

  constructor(lab: Lab, holdMaxMs: number, log: (line: string) => void) {
    this.lab = lab;
    this.holdMaxMs = holdMaxMs;
    this.log = log;
  }

  /** Gives every manager's state a small file system of its own. */
  async ownDisks(): Promise<void> {
    for (const node of this.lab.managers) {
      await this.lab.killAgent(node);
      const aside = `${node.stateDir}.aside`;
      await rename(node.stateDir, aside);
      await mkdir(node.stateDir, { mode: 0o700 });
      const mounted = await command('mount', ['-t', 'tmpfs', '-o', `size=${DISK_BYTES},mode=0700`, 'skein-chaos', node.stateDir]);
      assert.equal(mounted.code, 0, mounted.stderr);
      await cp(aside, node.stateDir, { recursive: true, preserveTimestamps: true });
      await rm(aside, { recursive: true });
      await startAgent(this.lab.plan, node);
    }
  }

  /** One fault after the other, of managers that have none, until the deadline. */
  async lane(number: number, random: Prng, deadlineMs: number, leader: () => Promise<LabNode | undefined>): Promise<void> {
    while (Date.now() < deadlineMs && !this.stopped) {
      const wanted = random.chance(0.5) ? await leader() : undefined;
      const free = this.lab.managers.filter(({ name }) => !this.busy.has(name));
      const victim = wanted !== undefined && free.includes(wanted) ? wanted : (free.length === 0 ? undefined : random.pick(free));
      const kind = random.pick(KINDS);
      const holdMs = random.chance(0.1) ? random.between(200, this.holdMaxMs) : random.between(200, 4000);
      if (victim !== undefined) {
        this.busy.add(victim.name);
        this.log(`${kind} ${victim.name}${victim === wanted ? ' (leader)' : ''} ${holdMs} ms`);
        this.counts[kind] = (this.counts[kind] ?? 0) + 1;
        await this.one(kind, victim, `chaos${number}`, holdMs, random);
        this.busy.delete(victim.name);
      }
      await sleep(random.below(1500));
    }
  }

  /** Everything is taken back. */
  async end(): Promise<void> {
    this.stopped = true;
    for (const pid of this.paused) resume(pid);
    this.paused.clear();
    for (const node of this.lab.managers) {
      await this.lab.inside(node.netns, 'sh', ['-c', 'for t in 0 1 2; do nft delete table inet chaos$t 2>/dev/null; done; true']);
      await rm(path.join(node.stateDir, 'ballast'), { force: true });
      if (await this.lab.agentPid(node) === 0) await startAgent(this.lab.plan, node);
    }
  }

  private async one(kind: FaultKind, node: LabNode, table: string, holdMs: number, random: Prng): Promise<void> {
    const others = this.lab.managers.filter(({ name }) => name !== node.name).map(({ address }) => address);
    const one = [random.pick(others)];
    switch (kind) {
      case 'kill': return this.kill(node, holdMs);
      case 'pause': return this.pause(node, holdMs);
      case 'isolate': return this.cut(node, table, others, ['input', 'output'], holdMs);
      case 'deaf': return this.cut(node, table, others, ['input'], holdMs);
      case 'mute': return this.cut(node, table, others, ['output'], holdMs);
      case 'link': return this.cut(node, table, one, ['input', 'output'], holdMs);
      case 'oneway': return this.cut(node, table, one, ['input'], holdMs);
      case 'disk': return this.fill(node, random.below(65_536));
    }
  }

  private async kill(node: LabNode, holdMs: number): Promise<void> {
    await this.lab.killAgent(node);
    await sleep(holdMs);
    await startAgent(this.lab.plan, node);
  }

  private async pause(node: LabNode, holdMs: number): Promise<void> {
    const pid = await this.lab.agentPid(node);
    assert.ok(pid > 0, `the agent of ${node.name} runs`);
    this.paused.add(pid);
    process.kill(pid, 'SIGSTOP');
    await sleep(holdMs);
    resume(pid);
    this.paused.delete(pid);
  }

  private async cut(node: LabNode, table: string, from: readonly string[], hooks: readonly ('input' | 'output')[], holdMs: number): Promise<void> {
    const lines = [`add table inet ${table}`, ...hooks.flatMap((hook) => [
      `add chain inet ${table} ${hook} { type filter hook ${hook} priority -400 ; }`,
      `add rule inet ${table} ${hook} ip ${hook === 'input' ? 'saddr' : 'daddr'} { ${from.join(', ')} } drop`,
    ])];
    const made = await this.lab.inside(node.netns, 'nft', [lines.join('; ')]);
    assert.equal(made.code, 0, made.stderr);
    await sleep(holdMs);
    const healed = await this.lab.inside(node.netns, 'nft', ['delete', 'table', 'inet', table]);
    assert.equal(healed.code, 0, healed.stderr);
  }

  /** The manager says why and ends, and does not start while there is no room; with room it is back. */
  private async fill(node: LabNode, leftBytes: number): Promise<void> {
    const log = path.join(node.runDir, 'agent.log');
    const said = (await readFile(log, 'utf8')).length;
    const ballast = path.join(node.stateDir, 'ballast');
    await fillWith(ballast, leftBytes);
    const deadline = Date.now() + FULL_MS;
    while (await this.lab.agentPid(node) !== 0 && Date.now() < deadline) await sleep(50);
    if (await this.lab.agentPid(node) === 0) {
      const words = (await readFile(log, 'utf8')).slice(said);
      if (!SAYS_FULL.test(words)) {
        const last = words.trimEnd().split('\n').at(-1);
        this.findings.push(`${node.name} ended on a full disk and did not say so: ${last?.slice(0, 2_000)}`);
      }
      // What a supervisor does; a start that fails must not harm the log.
      await startAgent(this.lab.plan, node).catch(() => undefined);
    } else {
      // Cut off from writes by another fault, or what came fitted into what was left.
      this.log(`${node.name} had nothing to write`);
    }
    await rm(ballast);
    await sleep(200);
    if (await this.lab.agentPid(node) === 0) await startAgent(this.lab.plan, node);
    await eventually(`the API of ${node.name}`, 10_000, async () => assert.notEqual(await this.lab.agentPid(node), 0));
  }
}

/** Takes all room but about `leftBytes`. */
async function fillWith(file: string, leftBytes: number): Promise<void> {
  const handle = await open(file, 'w');
  let size = 0;
  try {
    for (const chunk of [Buffer.alloc(1 << 20, 1), Buffer.alloc(4096, 1)]) {
      for (;;) {
        const { bytesWritten } = await handle.write(chunk, 0, chunk.length, size).catch((error: NodeJS.ErrnoException) => {
          if (error.code === 'ENOSPC') return { bytesWritten: 0 };
          throw error;
        });
        size += bytesWritten;
        if (bytesWritten < chunk.length) break;
      }
    }
    await handle.truncate(Math.max(size - leftBytes, 0));
  } finally {
    await handle.close();
  }
}

function resume(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT');
  } catch {
    // It is gone.
  }
}
