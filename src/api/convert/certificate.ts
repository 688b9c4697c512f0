// The two fields of the root certificate that Docker's TLSInfo shows: subject and public key, as raw DER. Reads just
// enough DER to find them; answers nothing for bytes it does not understand.

interface Element {
  readonly tag: number;
  readonly start: number;
  readonly body: number;
  readonly end: number;
}

function element(der: Uint8Array, at: number): Element | undefined {
  const tag = der[at];
  const first = der[at + 1];
  if (tag === undefined || first === undefined) return undefined;
  let length = first;
  let body = at + 2;
  if (first >= 0x80) {
    const count = first & 0x7f;
    if (count === 0 || count > 4) return undefined;
    length = 0;
    for (let i = 0; i < count; i++) length = length * 256 + (der[body++] ?? 0);
  }
  const end = body + length;
  return end > der.length ? undefined : { tag, start: at, body, end };
}

function children(der: Uint8Array, parent: Element): Element[] {
  const list: Element[] = [];
  for (let at = parent.body; at < parent.end;) {
    const child = element(der, at);
    if (child === undefined) return list;
    list.push(child);
    at = child.end;
  }
  return list;
}

export function issuerOf(pem: Uint8Array): { CertIssuerSubject?: string; CertIssuerPublicKey?: string } {
  const text = Buffer.from(pem).toString('latin1');
  const match = /-----BEGIN CERTIFICATE-----([\s\S]+?)-----END CERTIFICATE-----/.exec(text);
  if (match === null) return {};
  const der = new Uint8Array(Buffer.from(match[1] ?? '', 'base64'));
  const certificate = element(der, 0);
  const tbs = certificate === undefined ? undefined : element(der, certificate.body);
  if (tbs === undefined) return {};
  // version [0], serial, signature, issuer, validity, subject, subjectPublicKeyInfo; the version may be absent.
  const fields = children(der, tbs);
  const offset = fields[0]?.tag === 0xa0 ? 1 : 0;
  const subject = fields[offset + 4];
  const key = fields[offset + 5];
  if (subject === undefined || key === undefined) return {};
  const base64 = (x: Element): string => Buffer.from(der.subarray(x.start, x.end)).toString('base64');
  return { CertIssuerSubject: base64(subject), CertIssuerPublicKey: base64(key) };
}
