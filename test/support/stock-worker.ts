// A worker that speaks SwarmKit's protocol and nothing of ours: what a stock Docker Engine says and hears, without the Engine.

import assert from 'node:assert/strict';
import { create } from '@bufbuild/protobuf';
import { ManagerClient, type Credentials } from '../../src/io/grpc/client.js';
import { createCsr, parseJoinToken, rootDigest } from '../../src/io/x509/certificates.js';
import { unwrap } from '../../src/lib/result.js';
import {
  AssignmentsRequestSchema, CA, ContainerStatusSchema, Dispatcher, GetRootCACertificateRequestSchema, HeartbeatRequestSchema,
  IssueNodeCertificateRequestSchema,
  ListenSubscriptionsRequestSchema, LogBroker, NodeCA, NodeCertificateStatusRequestSchema, NodeRole, SessionRequestSchema, TaskState,
  TaskStatusSchema, UpdateTaskStatusRequestSchema, UpdateTaskStatusRequest_TaskStatusUpdateSchema,
  type AssignmentsMessage, type NodeCertificateStatusResponse, type SessionMessage, type SubscriptionMessage,
} from '../../src/model/proto/swarmkit_pb.js';
import { timestampFromMs } from '../../src/lib/time.js';
import { toPairs } from '../../src/model/pairs.js';
import { describe } from './fake-node.js';

const TIMEOUT_MS = 5000;

/** Messages of a stream, in order; next() waits for one, `ended` says how it ended. */
export class Inbox<T> {
  readonly messages: T[] = [];
  ended: string | undefined;
  private taken = 0;
  private wake: (() => void) | undefined;

  constructor(stream: AsyncIterable<T>) {
    (async () => {
      for await (const message of stream) {
        this.messages.push(message);
        this.wake?.();
      }
      return 'clean';
    })().catch((error: Error) => error.message).then((how) => {
      this.ended = how;
      this.wake?.();
    });
  }

  /** The next message that nobody has taken. */
  async next(): Promise<T> {
    const deadline = Date.now() + TIMEOUT_MS;
    while (this.messages.length <= this.taken) {
      assert.equal(this.ended, undefined, 'the stream ended');
      assert.ok(Date.now() < deadline, `no further message within ${TIMEOUT_MS} ms; so far ${this.messages.length}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, TIMEOUT_MS);
        this.wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return this.messages[this.taken++] as T;
  }

  /** The next that fits; those before it are dropped. */
  async until(fits: (message: T) => boolean): Promise<T> {
    for (;;) {
      const message = await this.next();
      if (fits(message)) return message;
    }
  }
}

export class StockWorker {
  readonly address: string;
  readonly nodeId: string;
  readonly csr: string;
  readonly rootCa: string;
  readonly status: NodeCertificateStatusResponse;
  readonly credentials: Credentials;
  readonly client: ManagerClient;
  sessionId = '';

  private constructor(address: string, nodeId: string, csr: string, rootCa: string, status: NodeCertificateStatusResponse, key: string) {
    this.address = address;
    this.nodeId = nodeId;
    this.csr = csr;
    this.rootCa = rootCa;
    this.status = status;
    const certificate = Buffer.from(status.certificate?.certificate ?? []).toString();
    this.credentials = { rootCa, key, certificate, serverName: 'swarm-manager' };
    this.client = new ManagerClient(address, this.credentials);
  }

  /** The calls of `docker swarm join`, in their order (swarm-protocol, section 1.4). */
  static async join(address: string, token: string): Promise<StockWorker> {
    const anybody = new ManagerClient(address, { rootCa: undefined, key: undefined, certificate: undefined, serverName: 'swarm-ca' });
    const { certificate } = await anybody.unary(CA.method.getRootCACertificate, create(GetRootCACertificateRequestSchema), TIMEOUT_MS);
    anybody.close();
    const rootCa = Buffer.from(certificate).toString();
    assert.equal(rootDigest(rootCa), unwrap(parseJoinToken(token)).digest, 'the digest is of exactly these bytes (trap T9)');
    const { key, csr } = await createCsr();
    const ca = new ManagerClient(address, { rootCa, key: undefined, certificate: undefined, serverName: 'swarm-ca' });
    const { nodeId } = await ca.unary(NodeCA.method.issueNodeCertificate,
      create(IssueNodeCertificateRequestSchema, { role: NodeRole.WORKER, csr: Buffer.from(csr), token }), TIMEOUT_MS);
    const status = await ca.unary(NodeCA.method.nodeCertificateStatus, create(NodeCertificateStatusRequestSchema, { nodeId }), TIMEOUT_MS);
    ca.close();
    return new StockWorker(address, nodeId, csr, rootCa, status, key);
  }

  /** A session, its first message taken. With engine labels it may pass for a node of ours. */
  async register(labels: Readonly<Record<string, string>> = {}): Promise<{ session: Inbox<SessionMessage>; first: SessionMessage }> {
    const description = describe('stock');
    if (description.engine !== undefined) description.engine.labels = toPairs(labels);
    const session = new Inbox<SessionMessage>(this.client.serverStream(Dispatcher.method.session,
      create(SessionRequestSchema, { description, sessionId: this.sessionId })));
    const first = await session.next();
    this.sessionId = first.sessionId;
    return { session, first };
  }

  assignments(): Inbox<AssignmentsMessage> {
    const request = create(AssignmentsRequestSchema, { sessionId: this.sessionId });
    return new Inbox(this.client.serverStream(Dispatcher.method.assignments, request));
  }

  subscriptions(): Inbox<SubscriptionMessage> {
    return new Inbox(this.client.serverStream(LogBroker.method.listenSubscriptions, create(ListenSubscriptionsRequestSchema)));
  }

  /** The period until the next one, in milliseconds. */
  async heartbeat(): Promise<number> {
    const request = create(HeartbeatRequestSchema, { sessionId: this.sessionId });
    const { period } = await this.client.unary(Dispatcher.method.heartbeat, request, TIMEOUT_MS);
    return Number(period?.seconds ?? 0n) * 1000 + (period?.nanos ?? 0) / 1e6;
  }

  async report(taskId: string, state: TaskState, more: { message?: string; exitCode?: number } = {}): Promise<void> {
    const status = create(TaskStatusSchema, { state, message: more.message ?? '', timestamp: timestampFromMs(Date.now()) });
    if (more.exitCode !== undefined) {
      const value = create(ContainerStatusSchema, { containerId: 'c', pid: 1, exitCode: more.exitCode });
      status.runtimeStatus = { case: 'container', value };
    }
    await this.client.unary(Dispatcher.method.updateTaskStatus, create(UpdateTaskStatusRequestSchema, {
      sessionId: this.sessionId, updates: [create(UpdateTaskStatusRequest_TaskStatusUpdateSchema, { taskId, status })],
    }), TIMEOUT_MS);
  }

  close(): void {
    this.client.close();
  }
}
