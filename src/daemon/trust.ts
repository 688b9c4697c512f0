// The trust root a manager offers in a session: taken over only if the node's own certificate is good under it, else the
// node would cut itself off (SwarmKit's rule).

import { checkIssued } from '../io/x509/certificates.js';
import type { NodeCertificates } from './swarmstate.js';

export type OfferedRoot = 'known' | 'accepted' | { readonly refused: string };

export function judgeRoot(own: NodeCertificates, offered: string, nowMs: number): OfferedRoot {
  if (offered === '' || offered === own.rootCa) return 'known';
  const checked = checkIssued(own.certificate, offered, nowMs);
  return checked.ok ? 'accepted' : { refused: checked.error.message };
}
