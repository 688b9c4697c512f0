// A manager that is told to end while it starts: nothing of it is left running, which nobody would end.

import assert from 'node:assert/strict';
import net from 'node:net';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { ManagerHost } from '../../src/daemon/manager/host.js';
import { SwarmFiles } from '../../src/daemon/swarmstate.js';
import { AppFailure, unwrap } from '../../src/lib/result.js';
import { testNodes } from '../support/test-node.js';

const make = testNodes();

const refused = (port: number): Promise<boolean> => new Promise((resolve) => {
  const socket = net.connect(port, '127.0.0.1', () => {
    socket.destroy();
    resolve(false);
  });
  socket.on('error', () => resolve(true));
});

/** The tick of a group, which would go on, is one. */
const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length;

describe('a manager closed while it starts', () => {
  it('leaves no server and no member of its group running, at whatever moment', async () => {
    const node = await make();
    unwrap(await node.init());
    await node.node.close();
    const files = new SwarmFiles(node.stateDir);
    const state = await files.load() ?? assert.fail('a state');
    const { key, certificate, rootCa } = await files.loadCertificates();
    const before = timers();
    let early = 0;
    for (let turns = 0; turns < 40; turns++) {
      const host = new ManagerHost({
        files, state: () => state, saveState: async () => undefined, identity: () => ({ key, certificate, rootCa }),
        credentials: () => ({ key, certificate, rootCa, serverName: 'swarm-manager' }), onKeyExposed: () => undefined, wanted: () => true,
        onStale: (reason) => assert.fail(reason), logger: pino({ level: 'silent' }), onBug: (error) => { throw error; },
      });
      const starting = host.start(0).catch((error: unknown) => error);
      for (let turn = 0; turn < turns; turn++) await new Promise((resolve) => setImmediate(resolve));
      await host.close();
      const outcome = await starting;
      if (outcome instanceof AppFailure) {
        assert.match(outcome.message, /this manager is stopping/);
        early += 1;
      } else assert.ok(!(outcome instanceof Error), String(outcome));
      assert.ok(await refused(Number(node.address.split(':')[1])), `after ${turns} turns`);
    }
    assert.ok(early > 3, `${early} were closed before they had started`);
    // Calls that were on their way end with their connections.
    for (const deadline = Date.now() + 3000; timers() > before && Date.now() < deadline;) await sleep(50);
    assert.ok(timers() <= before, `${timers()} timers are left, before there were ${before}`);
  });
});
