// The data plane's DNS answers against core/dns: random rows, random askers, some thousands of random questions over UDP
// and TCP into 127.0.0.11 of real sandboxes. SKEIN_SEED repeats a run or makes another.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, test } from 'node:test';
import { answer, QUERY_BYTES_MAX, type DnsAsker } from '../../src/core/dns/answer.js';
import { dnsView } from '../../src/core/dns/view.js';
import { read16, readMessage, type Resource } from '../../src/core/dns/wire.js';
import { describeAnswer, makeQuery, TYPES } from '../support/dns.js';
import { seeded, type Random } from '../support/random.js';
import { World } from './datapath-world.js';

const SEED = Number(process.env['SKEIN_SEED'] ?? 20_260);
const QUESTIONS = 700;
const CLIENT = path.resolve(import.meta.dirname, 'dns-client.js');
/** Code of the answers the test's agent gives to what is forwarded to it: no answer of rows has it. */
const FORWARDED = 9;
const NETWORKS = ['front', 'Back', 'net', 'prod.net', 'web', 'a.b.c'].map((name, i) => ({ name, vni: 5000 + i, base: `10.${20 + i}.0` }));
const WORDS = ['web', 'db', 'tasks.web', 'tasks.db', 'api', 'web.1.abc', 'web.2.def', 'web.prod', 'web.front', 'front', 'a', 'a.a', 'a.a.b',
  'x_y-z', 'bücher', `${'l'.repeat(63)}.long`, `${`${'m'.repeat(49)}.`.repeat(4)}end`];

function addRows(world: World, random: Random): void {
  for (const { vni, name, base } of NETWORKS) {
    world.row(`net/${vni}`, 'network', {
      vni, networkId: name, name, subnets: [{ subnet: `${base}.0/24`, gateway: `${base}.1` }], mtu: 1450,
    });
    world.row(`name/${vni}/sentinel`, 'name', { vni, name: 'sentinel.of.all', addresses: ['192.0.2.1'] });
    const words = [...WORDS, ...Array.from({ length: 20 }, (_, i) => `svc${i}`)].filter(() => random.chance(0.6));
    for (const word of words) {
      const count = random.chance(0.1) ? random.below(400) : random.below(6);
      const addresses = Array.from({ length: count }, (_, i) => `${base.slice(0, -1)}${1 + (i >> 8)}.${i & 255}`);
      world.row(`name/${vni}/${word}`, 'name', { vni, name: word, addresses });
    }
    for (let i = 0; i < 25; i++) {
      // Some addresses are known in several networks.
      const address = random.chance(0.3) ? `10.9.9.${random.below(20)}` : `${base}.${random.below(60)}`;
      const long = random.chance(0.3) ? `${`${'p'.repeat(59)}.`.repeat(4)}${'q'.repeat(random.below(15) + 1)}` : `Task.${i}.${name}`;
      world.row(`ptr/${vni}/${address}`, 'pointer', { vni, address, name: long });
    }
  }
}

function otherCase(random: Random, text: string): string {
  return random.chance(0.5) ? text : [...text].map((c) => (random.chance(0.5) && /[a-z]/i.test(c) ? c.toUpperCase() : c)).join('');
}

function randomName(random: Random): string | string[] {
  const word = random.chance(0.75) ? random.pick(WORDS) : `svc${random.below(24)}`;
  const bytes = Buffer.from(word).toString('latin1');
  const kind = random.unit();
  if (kind < 0.4) return otherCase(random, bytes);
  if (kind < 0.65) return otherCase(random, `${bytes}.${random.pick(NETWORKS).name}`);
  if (kind < 0.7) return otherCase(random, `${bytes}.${random.pick(NETWORKS).name}.${random.pick(NETWORKS).name}`);
  if (kind < 0.88) {
    const address = random.chance(0.4) ? `10.9.9.${random.below(20)}` : `${random.pick(NETWORKS).base}.${random.below(60)}`;
    const numbers = address.split('.').reverse().map((n) => (random.chance(0.05) ? `0${n}` : n));
    return otherCase(random, `${numbers.join('.')}.in-addr.arpa${random.chance(0.05) ? '.front' : ''}`);
  }
  if (kind < 0.94) return random.pick(['example.com', 'www.example.org', 'localhost', '', 'nothing.front', '1.2.3.in-addr.arpa']);
  if (kind < 0.97) return Array.from({ length: random.below(4) + 1 }, () => random.bytes(random.below(63) + 1).toString('latin1'));
  // About as long as a name may be: 255 bytes with lengths and end.
  return [...Array.from({ length: 3 }, () => 'n'.repeat(63)), 'n'.repeat(58 + random.below(6))];
}

function randomQuery(random: Random, id: number): Buffer {
  const shape = random.unit();
  if (shape < 0.04) {
    const length = random.chance(0.2) ? QUERY_BYTES_MAX - 2 + random.below(5) : random.below(80);
    const garbage = random.bytes(length);
    if (garbage.length >= 2) garbage.writeUInt16BE(id, 0);
    return garbage;
  }
  const labels = randomName(random);
  const pointer = Buffer.from('c00c00100001000000000000', 'hex');
  const query = makeQuery({
    id, name: labels, type: random.chance(0.65) ? random.pick([TYPES['A'], TYPES['PTR']] as number[]) : random.pick(Object.values(TYPES)),
    class: random.chance(0.94) ? 1 : random.pick([3, 255]), opcode: random.chance(0.97) ? 0 : random.below(16),
    ...(random.chance(0.5) ? { edns: random.pick([0, 511, 512, 513, 700, 1232, 4095, 4096, 4097, 65_535, random.below(6000)]) } : {}),
    ...(random.chance(0.05) ? { extra: { bytes: pointer, count: 1 } } : {}),
  });
  if (shape < 0.08) return query.subarray(0, random.below(query.length));
  if (shape < 0.12) return Buffer.concat([query, random.bytes(random.below(40))]);
  if (shape < 0.13) return Buffer.concat([query, Buffer.alloc(Math.max(0, QUERY_BYTES_MAX - 2 + random.below(5) - query.length))]);
  if (shape < 0.25) {
    const at = 2 + random.below(query.length - 2);
    query[at] = random.chance(0.5) ? random.below(256) : (query[at] ?? 0) ^ (1 << random.below(8));
  }
  return query;
}

function records(bytes: Uint8Array, list: readonly Resource[]): string[] {
  const data = (one: Resource) => Buffer.from(bytes.subarray(one.start, one.end)).toString('hex');
  return list.map((one) => `${one.labels.join('.')} ${one.type} ${one.class} ${one.ttl} ${data(one)}`).sort();
}

/** What an answer says, without the order of addresses; of a cut list only how many they are. */
function meaning(bytes: Uint8Array): string {
  const message = readMessage(bytes);
  if (message === undefined) return `unreadable ${Buffer.from(bytes).toString('hex')}`;
  const answers = records(bytes, message.answers);
  assert.equal(new Set(answers).size, answers.length, 'no answer twice');
  return JSON.stringify({
    flags: message.flags.toString(16), question: Buffer.from(bytes.subarray(12, message.question.end)).toString('hex'),
    answers: (message.flags & 0x200) === 0 ? answers : answers.length,
    rest: [...records(bytes, message.authorities), ...records(bytes, message.additionals)],
    size: bytes.length,
  });
}

interface Question {
  readonly query: Buffer;
  readonly tcp: boolean;
  readonly expected: ReturnType<typeof answer>;
}

async function ask(netns: string, questions: readonly Question[]): Promise<string[]> {
  const child = spawn('nsenter', [`--net=${netns}`, process.execPath, CLIENT], { stdio: ['pipe', 'pipe', 'inherit'] });
  const asked = questions.map(({ query, tcp, expected }) => ({ hex: query.toString('hex'), tcp, silent: expected.kind === 'drop' }));
  child.stdin.end(JSON.stringify(asked));
  return JSON.parse(await text(child.stdout)) as string[];
}

describe('DNS answers of the data plane and of core/dns', { timeout: 120_000 }, () => {
  const world = new World(1);
  const node = world.nodes[0] as World['nodes'][0];
  const random = seeded(SEED);
  const askers: { netns: string; asker: DnsAsker }[] = [];
  const forwarded = new Set<string>();

  before(async () => {
    node.client.onDnsMiss((miss) => {
      forwarded.add(`${miss.sandbox} ${miss.tcp} ${Buffer.from(miss.query).toString('hex')}`);
      const reply = Buffer.from(miss.query.slice(0, 12).fill(0, 4));
      reply[2] = 0x81;
      reply[3] = 0x80 | FORWARDED;
      miss.reply(reply);
    });
    addRows(world, random);
    await world.start();
    for (let i = 0; i < 6; i++) {
      const networks = [...NETWORKS].sort(() => random.unit() - 0.5).slice(0, 1 + random.below(4));
      const gateway = i % 3 === 2 ? undefined : `172.18.0.${10 + i}`;
      const netns = await world.task(node, `asker${i}`,
        networks.map(({ vni, base }) => ({ vni, address: `${base}.${200 + i}`, prefix: 24 })), gateway);
      askers.push({ netns, asker: { vnis: networks.map(({ vni }) => vni), upstream: gateway === undefined ? 'none' : 'agent' } });
    }
    await world.apply();
  });
  after(() => world.close());

  test(`agree (seed ${SEED})`, async () => {
    const view = dnsView(world.rows.values());
    const seen = new Map<string, number>();
    const differences: string[] = [];
    const asked = askers.map(({ asker }) => Array.from({ length: QUESTIONS }, (_, id): Question => {
      const query = randomQuery(random, id);
      const tcp = random.chance(0.25);
      return { query, tcp, expected: answer(view, asker, query, { tcp, rng: random.unit }) };
    }));
    // Compared when all is answered: until then this process is the agent, and a slow one would look like a lost question.
    const answered = await Promise.all(askers.map(({ netns }, place) => ask(netns, asked[place] ?? [])));
    for (const [place, { asker }] of askers.entries()) {
      const answers = answered[place] ?? [];
      for (const [id, { query, tcp, expected }] of (asked[place] ?? []).entries()) {
        const bytes = Buffer.from(answers[id] ?? '', 'hex');
        // "lost" and "twice" are no hex.
        const unusual = ['lost', 'twice'].find((word) => word === answers[id]);
        let actual = unusual ?? (bytes.length === 0 ? 'drop' : meaning(bytes));
        const atAgent = forwarded.has(`asker${place} ${tcp} ${query.toString('hex')}`);
        if (bytes.length === 12 && (read16(bytes, 2) & 15) === FORWARDED) actual = atAgent ? 'forward' : 'forwarded as something else';
        else if (atAgent) actual = `forwarded, and ${actual}`;
        const wanted = 'bytes' in expected ? meaning(expected.bytes) : expected.kind;
        const said = 'bytes' in expected ? ` ${describeAnswer(expected.bytes).replace(/[\d.]+[.\d].*|[A-Z]?\w+\..*/, '...')}` : '';
        const kind = `${expected.kind}${said}`;
        seen.set(kind, (seen.get(kind) ?? 0) + 1);
        if (actual === wanted) continue;
        const which = `asker ${asker.vnis.join()} ${tcp ? 'tcp' : 'udp'} ${query.toString('hex')}`;
        differences.push(`${which}\n  want ${wanted}\n  got  ${actual}`);
      }
    }
    console.log(`# ${[...seen].sort().map(([kind, count]) => `${kind}: ${count}`).join(', ')}`);
    assert.equal(differences.length, 0, `${differences.length} differences\n${differences.slice(0, 12).join('\n')}`);
    for (const kind of ['drop', 'forward', 'servfail SERVFAIL', 'reply NOERROR', 'reply NOERROR tc ...', 'reply NOERROR ...']) {
      assert.ok((seen.get(kind) ?? 0) >= 5, `too few of: ${kind}`);
    }
  });
});
