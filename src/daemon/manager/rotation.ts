// The root CA's turn in the manager's loop: gives core/ca what it needs and remembers which nodes were asked when.

import { randomBytes } from 'node:crypto';
import type { Logger } from 'pino';
import { reconcileRoot, type RotationOutcome } from '../../core/ca/rotation.js';
import type { ReadTx } from '../../core/store/view.js';
import { rootDigest, rootInfo } from '../../io/x509/certificates.js';
import type { SubjectAndKey } from '../../lib/der.js';

export class RootRotationStage {
  private readonly asked = new Map<string, number>();
  private readonly logger: Logger;
  /** Parsing a certificate at every pass would be waste: the last one and what it says. */
  private known: { readonly pem: string; readonly info: SubjectAndKey | undefined } | undefined;

  constructor(logger: Logger) {
    this.logger = logger;
  }

  decide(view: ReadTx, nowMs: number): RotationOutcome {
    const outcome = reconcileRoot({
      view, nowMs, randomBytes, asked: this.asked,
      infoOf: (pem) => this.infoOf(Buffer.from(pem).toString()),
      digestOf: (pem) => rootDigest(Buffer.from(pem).toString()),
    });
    if (outcome.finished || outcome.wakeMs === undefined) this.asked.clear();
    for (const nodeId of outcome.asked) this.asked.set(nodeId, nowMs);
    if (outcome.finished) this.logger.info('every node has a certificate of the new root: it becomes the trusted one');
    return outcome;
  }

  private infoOf(pem: string): SubjectAndKey | undefined {
    if (this.known?.pem !== pem) this.known = { pem, info: rootInfo(pem) };
    return this.known.info;
  }
}
