// The two fields of a root certificate that Docker's TLSInfo shows: subject and public key, as raw DER.

import { subjectAndKey } from '../../lib/der.js';

export function issuerOf(pem: Uint8Array): { CertIssuerSubject?: string; CertIssuerPublicKey?: string } {
  const text = Buffer.from(pem).toString('latin1');
  const match = /-----BEGIN CERTIFICATE-----([\s\S]+?)-----END CERTIFICATE-----/.exec(text);
  const found = match === null ? undefined : subjectAndKey(new Uint8Array(Buffer.from(match[1] ?? '', 'base64')));
  if (found === undefined) return {};
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
  return { CertIssuerSubject: base64(found.subject), CertIssuerPublicKey: base64(found.publicKey) };
}
