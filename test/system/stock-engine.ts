// A stock Docker Engine on a lab's wire: dockerd as Debian ships it, in a namespace and with a host name of its own. It is
// no part of the lab's plan: end() takes away all of it, and the next one of that name what a killed test left.

import assert from 'node:assert/strict';
import { readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { dockerdPid, endRemains, netnsExists, startDockerd, stopDockerd, type Dockerd } from '../../src/lab/engine.js';
import { LAB_RUN, LAB_STATE } from '../../src/lab/plan.js';
import { ip } from '../../src/lab/run.js';
import { unmountAll } from '../../src/lab/teardown.js';
import { addHost } from '../../src/lab/underlay.js';
import { IMAGE, command, eventually, type Lab, type Output } from './fixture.js';

export class StockEngine {
  readonly name: string;
  readonly address: string;
  private readonly lab: Lab;
  private readonly dockerd: Dockerd;

  private constructor(lab: Lab, name: string, address: string) {
    this.lab = lab;
    this.name = name;
    this.address = address;
    const dir = path.join(LAB_RUN, `${lab.plan.name}-${name}`);
    this.dockerd = {
      hostname: name, netns: `skein-${lab.plan.name}-${name}`, dir, dataRoot: path.join(LAB_STATE, `${lab.plan.name}-${name}`, 'data'),
      socket: path.join(dir, 'docker.sock'), flags: [],
    };
  }

  /** Outside any swarm, with the lab's image. */
  static async start(lab: Lab, name: string, address: string): Promise<StockEngine> {
    const engine = new StockEngine(lab, name, address);
    await engine.end();
    await addHost(lab.plan, name, engine.dockerd.netns, address);
    await engine.up();
    const imported = await engine.try('import', path.join(lab.work, 'image.tar'), IMAGE);
    assert.equal(imported.code, 0, imported.stderr);
    return engine;
  }

  /** As its service manager would: one that does not come up is started again. */
  async up(): Promise<void> {
    await startDockerd(this.dockerd, 20_000).catch(async () => {
      const pid = await dockerdPid(this.dockerd);
      if (pid > 0) process.kill(pid, 'SIGKILL');
      await startDockerd(this.dockerd, 40_000);
    });
  }

  stop(): Promise<void> {
    return stopDockerd(this.dockerd);
  }

  /** SIGKILL, and gone when this resolves; containers and containerd stay. */
  async kill(): Promise<void> {
    const pid = await dockerdPid(this.dockerd);
    assert.ok(pid > 0, `dockerd ${this.name} runs`);
    process.kill(pid, 'SIGKILL');
    await eventually(`dockerd ${this.name} is gone`, 5000, async () => assert.equal(await dockerdPid(this.dockerd), 0));
  }

  /** Whatever state it is in. */
  async end(): Promise<void> {
    const { dir, dataRoot, netns } = this.dockerd;
    await stopDockerd(this.dockerd);
    await endRemains(this.dockerd);
    // A killed dockerd leaves its data root mounted on itself, hence the folder around it.
    for (const directory of [dir, path.dirname(dataRoot)]) {
      await unmountAll(directory);
      await rm(directory, { recursive: true, force: true });
    }
    if (await netnsExists(netns)) await ip('netns', 'del', netns);
  }

  try(...args: string[]): Promise<Output> {
    return command(this.lab.cli, ['-H', `unix://${this.dockerd.socket}`, ...args], { timeoutMs: 60_000 });
  }

  async docker(...args: string[]): Promise<string> {
    const output = await this.try(...args);
    assert.equal(output.code, 0, `${this.name}: docker ${args.join(' ')}: ${output.stdout}${output.stderr}`);
    return output.stdout.trimEnd();
  }

  async join(token: string): Promise<Output> {
    return this.try('swarm', 'join', '--token', token, `${this.lab.manager.address}:2377`);
  }

  /** Its id in the swarm it is in. */
  nodeId(): Promise<string> {
    return this.docker('info', '--format', '{{.Swarm.NodeID}}');
  }

  /** Running containers of a service, by name. */
  async containers(service: string): Promise<Map<string, string>> {
    const filter = `label=com.docker.swarm.service.name=${service}`;
    const rows = await this.docker('ps', '--no-trunc', '--filter', filter, '--format', '{{.Names}} {{.ID}}');
    return new Map(rows.split('\n').filter((row) => row !== '').map((row) => row.split(' ') as [string, string]));
  }

  /** What dockerd wrote to its log. */
  log(): Promise<string> {
    return readFile(path.join(this.dockerd.dir, 'dockerd.log'), 'utf8');
  }

  private certificateFile(name: string): string {
    return path.join(this.dockerd.dataRoot, 'swarm/certificates', name);
  }

  certificate(): Promise<string> {
    return readFile(this.certificateFile('swarm-node.crt'), 'utf8');
  }

  rootCertificate(): Promise<string> {
    return readFile(this.certificateFile('swarm-root-ca.crt'), 'utf8');
  }

  /** While it is stopped: another certificate with its key. */
  async replaceCertificate(certificate: string, key: string): Promise<void> {
    await writeFile(this.certificateFile('swarm-node.crt'), certificate);
    await writeFile(this.certificateFile('swarm-node.key'), key.replace('-----\n', '-----\nkek-version: 0\n\n'), { mode: 0o600 });
  }
}
