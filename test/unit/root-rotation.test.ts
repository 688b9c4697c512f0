// Rotation of the root: which roots are accepted, what the old root vouches for, whom the manager asks when, and whole
// swarms of real nodes (test/support/test-node.ts) that follow.

import assert from 'node:assert/strict';
import { createPrivateKey } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { describe, it } from 'node:test';
import { clone, create } from '@bufbuild/protobuf';
import {
  BATCH_INTERVAL_MS, BATCH_NODES, beginRotation, reconcileRoot, signerOf, type RotationOutcome,
} from '../../src/core/ca/rotation.js';
import { createAction, removeAction, updateAction } from '../../src/core/store/actions.js';
import {
  checkIssued, createCsr, createRootCa, issuerInfo, joinToken, rootDigest, rootInfo, signCsr,
} from '../../src/io/x509/certificates.js';
import { crossSign, normalizePem, parseRoot } from '../../src/io/x509/roots.js';
import { ok, unwrap } from '../../src/lib/result.js';
import { clusterSpecFromJson, swarmToJson } from '../../src/api/convert/swarm.js';
import { Reader } from '../../src/api/convert/json.js';
import {
  CertificateSchema, ClusterSchema, IssuanceStatusSchema, IssuanceStatus_State, NodeDescriptionSchema, NodeSchema, NodeStatusSchema,
  NodeStatus_State, NodeTLSInfoSchema, RootCASchema, type Cluster,
} from '../../src/model/proto/swarmkit_pb.js';
import { World } from '../support/control.js';
import { opensslRoot, opensslVerifies, type Pair } from '../support/roots.js';
import { testNodes, type TestNode } from '../support/test-node.js';
import { eventually } from '../system/fixture.js';

/** A little later than what the tests make. */
const NOW = Date.now() + 30_000;
const HOUR_MS = 3_600_000;
const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text));
const pem = (from: Uint8Array | undefined): string => Buffer.from(from ?? []).toString();

function refusal(certificate: string, key: string, nowMs = NOW): string {
  const parsed = parseRoot(certificate, key, nowMs);
  assert.ok(!parsed.ok, 'accepted');
  assert.match(parsed.error.message, /^rpc error: code = InvalidArgument desc = /);
  return parsed.error.message.slice('rpc error: code = InvalidArgument desc = '.length);
}

describe('a root that a user brings', () => {
  it('may be ECDSA or RSA, with its key in any form, and signs certificates that other tools accept', async () => {
    const kinds: Record<string, readonly string[]> = {
      p256: ['ec', '-pkeyopt', 'ec_paramgen_curve:P-256'], p384: ['ec', '-pkeyopt', 'ec_paramgen_curve:P-384'],
      p521: ['ec', '-pkeyopt', 'ec_paramgen_curve:P-521'], rsa: ['rsa:2048'],
    };
    const old = await createRootCa(NOW);
    for (const [name, key] of Object.entries(kinds)) {
      const given = opensslRoot({ key });
      const traditional = createPrivateKey(given.key).export({ format: 'pem', type: name === 'rsa' ? 'pkcs1' : 'sec1' }).toString();
      const root = unwrap(parseRoot(`some text around\n${given.certificate}`, traditional, NOW));
      assert.equal(root.certificate, given.certificate, 'normalised');
      const intermediate = await crossSign(old, root.certificate);
      const { csr } = await createCsr();
      const request = { csr, nodeId: 'n1', organization: 'c1', role: 'swarm-worker', expiryMs: HOUR_MS, nowMs: NOW } as const;
      const issued = unwrap(await signCsr({ ...root, intermediate }, request));
      for (const trusted of [old.certificate, root.certificate]) {
        assert.ok(opensslVerifies(issued, trusted), name);
        assert.ok(checkIssued(issued, trusted, NOW).ok, name);
      }
      assert.ok(!opensslVerifies(issued, (await createRootCa(NOW)).certificate));
      assert.deepEqual(issuerInfo(issued, old.certificate), rootInfo(root.certificate), 'its issuer is the new root, whatever is trusted');
      // And once more: the given root is the old one now.
      const next = await createRootCa(NOW);
      const again = unwrap(await signCsr({ ...next, intermediate: await crossSign(root, next.certificate) }, request));
      assert.ok(opensslVerifies(again, root.certificate), name);
      assert.ok(checkIssued(again, root.certificate, NOW).ok, name);
    }
  });

  it('is refused in SwarmKit\'s words when it is no root, no good or not its key\'s', async () => {
    const good = opensslRoot();
    const other = opensslRoot();
    assert.equal(refusal(good.certificate, other.key), 'certificate key mismatch');
    assert.equal(refusal(good.certificate, 'nonsense'), 'malformed private key');
    assert.equal(refusal('', good.key), 'if a signing CA key is provided, the signing CA cert must also be provided');
    assert.equal(refusal('nonsense', good.key), 'if a signing CA key is provided, the signing CA cert must also be provided');
    assert.match(refusal('-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n', good.key), /^invalid root certificates: /);
    assert.match(refusal(good.certificate, ''), /^there must be at least one valid, reachable external CA corresponding to the desired CA/);
    assert.equal(refusal(good.certificate + other.certificate, good.key),
      'the desired CA certificate cannot contain multiple certificates');
    assert.match(refusal(good.certificate, good.key, NOW + 11 * 365 * 24 * HOUR_MS),
      /^error while validating Root CA Certificate: x509: certificate has expired or is not yet valid: current time .*Z is after .*Z$/);
    const short = opensslRoot({ days: 360 });
    assert.equal(refusal(short.certificate, short.key), 'CA certificate expires too soon');
    const leaf = opensslRoot({ extensions: ['basicConstraints=critical,CA:FALSE'] });
    assert.match(refusal(leaf.certificate, leaf.key), /parent certificate cannot sign this kind of certificate$/);
    const mute = opensslRoot({ extensions: ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,digitalSignature'] });
    assert.match(refusal(mute.certificate, mute.key), /parent certificate cannot sign this kind of certificate$/);
    const edwards = opensslRoot({ key: ['ed25519'] });
    assert.match(refusal(edwards.certificate, edwards.key), /^unsupported signature algorithm: .*Ed25519/);
    const old = opensslRoot({ key: ['rsa:2048'], digest: 'sha1' });
    assert.match(refusal(old.certificate, old.key), /^unsupported signature algorithm: SHA-1/);
    const weak = opensslRoot({ key: ['rsa:1024'] });
    assert.equal(refusal(weak.certificate, weak.key), 'unsupported RSA key parameters');
    const curve = opensslRoot({ key: ['ec', '-pkeyopt', 'ec_paramgen_curve:secp256k1'] });
    assert.match(refusal(curve.certificate, curve.key), /^unsupported/);
    const root = await createRootCa(NOW);
    const { csr, key } = await createCsr();
    const issued = unwrap(await signCsr(root, { csr, nodeId: 'n1', organization: 'c1', role: 'swarm-worker', expiryMs: 1e12, nowMs: NOW }));
    assert.match(refusal(issued, key), /certificate signed by unknown authority$/);
  });

  it('is the same bytes however it was written', () => {
    const { certificate } = opensslRoot();
    const wild = `text\r\n${certificate.replace(/\n/g, '\r\n')}\n\nmore`;
    assert.equal(normalizePem(wild), certificate);
    assert.equal(normalizePem('nothing'), '');
  });
});

/** A swarm of records only: nodes with the issuer they tell, and the state of their certificate. */
class Swarm extends World {
  readonly asked = new Map<string, number>();
  nowMs = 1_800_000_000_000;

  constructor(first: Pair, nodes: number) {
    super();
    this.add('cluster', create(ClusterSchema, { id: 'c1', rootCa: create(RootCASchema, {
      caCert: bytes(first.certificate), caKey: bytes(first.key), lastForcedRotation: 0n,
    }) }));
    for (let i = 0; i < nodes; i++) this.node(`n${String(i).padStart(3, '0')}`, first);
  }

  get cluster(): Cluster {
    return this.store.cluster() ?? assert.fail('a cluster');
  }

  node(id: string, root: Pair | undefined, state = NodeStatus_State.READY): void {
    const old = this.store.get('node', id);
    const info = root === undefined ? undefined : rootInfo(root.certificate);
    const next = create(NodeSchema, {
      id, status: create(NodeStatusSchema, { state }),
      certificate: create(CertificateSchema, { status: create(IssuanceStatusSchema, { state: IssuanceStatus_State.ISSUED }) }),
      ...(info === undefined ? {} : { description: create(NodeDescriptionSchema, {
        tlsInfo: create(NodeTLSInfoSchema, { certIssuerSubject: info.subject, certIssuerPublicKey: info.publicKey }),
      }) }),
      ...(old?.meta === undefined ? {} : { meta: old.meta }),
    });
    this.apply([old === undefined ? createAction('node', next) : updateAction('node', next)]);
  }

  rotateTo(root: Pair): void {
    const next = clone(ClusterSchema, this.cluster);
    const wanted = { certificate: bytes(root.certificate), key: bytes(root.key) };
    next.rootCa = beginRotation(next.rootCa ?? assert.fail('a root'), wanted, bytes('X'), 1n);
    this.apply([updateAction('cluster', next)]);
  }

  pass(): RotationOutcome {
    const outcome = reconcileRoot({
      view: this.store, nowMs: this.nowMs, randomBytes: (n) => new Uint8Array(n).fill(7), asked: this.asked,
      infoOf: (root) => rootInfo(pem(root)), digestOf: (root) => rootDigest(pem(root)),
    });
    for (const id of outcome.asked) this.asked.set(id, this.nowMs);
    if (outcome.actions.length > 0) this.apply(outcome.actions);
    return outcome;
  }
}

describe('the manager\'s part in a rotation', () => {
  it('asks 30 nodes every three seconds, waits for those that are away, and ends when all tell the new issuer', async () => {
    const [one, two] = [await createRootCa(NOW), await createRootCa(NOW)];
    const swarm = new Swarm(one, 2 * BATCH_NODES + 5);
    assert.deepEqual(swarm.pass(), { actions: [], asked: [], finished: false, wakeMs: undefined }, 'nothing to do before');
    swarm.rotateTo(two);
    assert.deepEqual(pem(signerOf(swarm.cluster.rootCa as never).certificate), two.certificate);
    swarm.node('away', one, NodeStatus_State.DOWN);
    for (const expected of [BATCH_NODES, BATCH_NODES, 5, 0]) {
      const outcome = swarm.pass();
      assert.equal(outcome.asked.length, expected);
      assert.equal(outcome.wakeMs, swarm.nowMs + BATCH_INTERVAL_MS);
      assert.equal(swarm.pass().asked.length, 0, 'not before the time has come');
      swarm.nowMs += BATCH_INTERVAL_MS;
    }
    for (let i = 0; i < 2 * BATCH_NODES + 5; i++) swarm.node(`n${String(i).padStart(3, '0')}`, two);
    assert.deepEqual([swarm.pass().finished, swarm.pass().wakeMs], [false, undefined], 'a node is away');
    swarm.node('away', one);
    assert.deepEqual(swarm.pass().asked, ['away']);
    swarm.node('new', undefined, NodeStatus_State.UNKNOWN);
    swarm.node('away', two);
    assert.equal(swarm.pass().finished, false, 'a node that joined has told nothing yet');
    swarm.apply([removeAction('node', swarm.store.get('node', 'new') ?? assert.fail())]);
    assert.ok(swarm.pass().finished);
    const { rootCa } = swarm.cluster;
    assert.equal(pem(rootCa?.caCert), two.certificate);
    assert.equal(pem(rootCa?.caKey), two.key);
    assert.equal(rootCa?.rootRotation, undefined);
    assert.equal(rootCa?.lastForcedRotation, 1n);
    assert.match(rootCa?.joinTokens?.worker ?? '', new RegExp(`^SWMTKN-1-${rootDigest(two.certificate)}-[0-9a-z]{25}$`));
    assert.equal(swarm.pass().actions.length, 0);
  });

  it('asks again a node that got a certificate and does not use it, and the followers of a root that was given up', async () => {
    const [one, two] = [await createRootCa(NOW), await createRootCa(NOW)];
    const swarm = new Swarm(one, 1);
    swarm.rotateTo(two);
    assert.deepEqual(swarm.pass().asked, ['n000']);
    swarm.node('n000', one);
    for (let waited = 0; waited < 12_000; waited += BATCH_INTERVAL_MS) {
      assert.deepEqual(swarm.pass().asked, []);
      swarm.nowMs += BATCH_INTERVAL_MS;
    }
    assert.deepEqual(swarm.pass().asked, ['n000']);
    swarm.node('n000', two);
    const back = clone(ClusterSchema, swarm.cluster);
    delete back.rootCa?.rootRotation;
    swarm.apply([updateAction('cluster', back)]);
    swarm.nowMs += 60_000;
    assert.deepEqual(swarm.pass().asked, ['n000'], 'its certificate is of a root that nobody will trust');
    swarm.node('n000', one);
    swarm.node('silent', undefined);
    swarm.nowMs += 60_000;
    assert.deepEqual(swarm.pass().asked, [], 'a node that tells no issuer is let be while nothing rotates');
  });
});

interface Shown {
  readonly TLSInfo: { readonly TrustRoot: string; readonly CertIssuerPublicKey: string };
  readonly RootRotationInProgress: boolean;
}

const rootOf = (node: TestNode): string => pem(node.node.manager()?.view().cluster()?.rootCa?.caCert);

async function update(leader: TestNode, ca: Record<string, unknown>): Promise<string> {
  const manager = leader.node.manager() ?? assert.fail('a manager');
  const cluster = manager.view().cluster() ?? assert.fail('a cluster');
  const spec = clusterSpecFromJson(new Reader({ CAConfig: ca }), cluster.spec);
  const done = await manager.updateSwarm({
    version: cluster.meta?.version?.index ?? 0n, spec, rotateWorkerToken: false, rotateManagerToken: false, rotateManagerUnlockKey: false,
  });
  return done.ok ? '' : done.error.message;
}

/** Rotated, every node with its new certificate and root, on disk and as told. */
async function settled(leader: TestNode, all: readonly TestNode[], root: string): Promise<void> {
  await eventually('the rotation', 25_000, async () => {
    const view = leader.node.manager()?.view() ?? assert.fail('a manager');
    assert.equal(rootOf(leader), root);
    assert.equal(view.cluster()?.rootCa?.rootRotation, undefined);
    for (const node of all) {
      const info = view.get('node', node.node.local().nodeId)?.description?.tlsInfo;
      assert.equal(pem(info?.trustRoot), root);
      assert.deepEqual(info?.certIssuerPublicKey, rootInfo(root)?.publicKey);
      assert.equal(node.node.local().rootCaPem, root);
      assert.equal(await readFile(node.file('certificates/swarm-root-ca.crt'), 'utf8'), root);
      assert.equal(node.node.local().error, '');
    }
  });
}

describe('a swarm of real nodes', () => {
  const make = testNodes();

  it('rotates to a root of its own making, with new tokens; then to a given one; and starts again with it', async () => {
    const [leader, worker] = [await make(), await make()];
    unwrap(await leader.init());
    unwrap(await worker.join(leader));
    await worker.node.manager();
    const [first, token] = [rootOf(leader), leader.workerToken];
    assert.equal(await update(leader, { ForceRotate: 1 }), '');
    const shown = swarmToJson(leader.node.manager()?.view().cluster() ?? assert.fail()) as unknown as Shown;
    if (shown.RootRotationInProgress) {
      assert.equal(shown.TLSInfo.TrustRoot, first, 'the old root is trusted until the end');
      const old = Buffer.from(rootInfo(first)?.publicKey ?? []).toString('base64');
      assert.notEqual(shown.TLSInfo.CertIssuerPublicKey, old, 'the issuer is the one rotated to');
    }
    await eventually('another root', 25_000, async () => assert.notEqual(rootOf(leader), first));
    const second = rootOf(leader);
    await settled(leader, [leader, worker], second);
    assert.notEqual(leader.workerToken, token);
    assert.ok(leader.workerToken.startsWith(joinToken(second, '')));
    const late = await make();
    const refused = await late.join(leader, { joinToken: token });
    assert.match(refused.ok ? '' : refused.error.message, /remote CA does not match fingerprint/);
    unwrap(await late.join(leader));
    const given = opensslRoot({ key: ['rsa:2048'] });
    assert.equal(await update(leader, { SigningCACert: given.certificate, SigningCAKey: given.key }), '');
    await settled(leader, [leader, worker, late], given.certificate);
    const stored = leader.node.manager()?.view().cluster()?.spec?.caConfig;
    assert.equal((stored?.signingCaKey.length ?? 0) + (stored?.signingCaCert.length ?? 0), 0, 'the key is kept with the root only');
    for (const node of [leader, worker]) await node.restart();
    await settled(leader, [leader, worker, late], given.certificate);
    assert.equal(await update(leader, {}), '', 'an update of something else rotates nothing');
    assert.equal(rootOf(leader), given.certificate);
  });

  it('waits for a node that is away; another rotation replaces it; one back to the trusted root gives it up', async () => {
    const [leader, worker] = [await make(), await make()];
    unwrap(await leader.init());
    unwrap(await worker.join(leader));
    const cluster = () => leader.node.manager()?.view().cluster() ?? assert.fail('a cluster');
    const first = { certificate: rootOf(leader), key: pem(cluster().rootCa?.caKey) };
    await worker.node.close();
    assert.equal(await update(leader, { ForceRotate: 1 }), '');
    const started = pem(cluster().rootCa?.rootRotation?.caCert);
    assert.notEqual(started, '');
    const given = opensslRoot();
    assert.equal(await update(leader, { SigningCACert: given.certificate, SigningCAKey: given.key }), '');
    assert.equal(pem(cluster().rootCa?.rootRotation?.caCert), given.certificate, 'replaced');
    assert.equal(rootOf(leader), first.certificate, 'the worker has not followed');
    assert.equal(await update(leader, { SigningCACert: first.certificate, SigningCAKey: first.key }), '');
    assert.equal(cluster().rootCa?.rootRotation, undefined, 'given up');
    await worker.restart();
    await settled(leader, [leader, worker], first.certificate);
    assert.match(await update(leader, { SigningCACert: given.certificate, SigningCAKey: first.key }), /certificate key mismatch/);
    const twin = opensslRootOfKey(first.key);
    assert.match(await update(leader, { SigningCACert: twin, SigningCAKey: first.key }), /Cannot update to a cert with an identical key/);
    assert.match(await update(leader, { ExternalCAs: [{ Protocol: 'cfssl', URL: 'https://ca' }] }),
      /external certificate authorities are not supported/);
  });

  it('keeps its root when the manager offers one that the node\'s own certificate is not good under', async () => {
    const [leader, worker] = [await make(), await make()];
    unwrap(await leader.init());
    unwrap(await worker.join(leader));
    const first = rootOf(leader);
    const foreign = await createRootCa(NOW);
    await leader.node.manager()?.commit((view) => {
      const next = clone(ClusterSchema, view.cluster() ?? assert.fail());
      if (next.rootCa !== undefined) next.rootCa.caCert = bytes(foreign.certificate);
      return ok({ actions: [updateAction('cluster', next)], value: undefined });
    });
    for (const node of [leader, worker]) {
      await eventually('the refusal', 5000, async () =>
        assert.match(node.warnings().join('\n'), /a root certificate offered by the manager is not taken/));
      assert.equal(node.node.local().rootCaPem, first);
      assert.equal(await readFile(node.file('certificates/swarm-root-ca.crt'), 'utf8'), first);
    }
  });
});

function opensslRootOfKey(key: string): string {
  return opensslRoot({ existingKey: key }).certificate;
}
