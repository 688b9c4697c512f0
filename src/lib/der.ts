// What the core reads of an X.509 certificate: subject and public key as the raw DER they stand in it, for Docker's
// TLSInfo compares them byte by byte; and when it ends. Reads just enough DER to find them; answers nothing for bytes it
// does not understand.

interface Element {
  readonly tag: number;
  readonly start: number;
  readonly body: number;
  readonly end: number;
}

export interface SubjectAndKey {
  readonly subject: Uint8Array;
  readonly publicKey: Uint8Array;
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

/** serial, signature, issuer, validity, subject, subjectPublicKeyInfo; the version before them may be absent. */
function fieldsOf(der: Uint8Array): Element[] {
  const certificate = element(der, 0);
  const tbs = certificate === undefined ? undefined : element(der, certificate.body);
  const fields = tbs === undefined ? [] : children(der, tbs);
  return fields[0]?.tag === 0xa0 ? fields.slice(1) : fields;
}

export function subjectAndKey(der: Uint8Array): SubjectAndKey | undefined {
  const [, , , , subject, key] = fieldsOf(der);
  if (subject === undefined || key === undefined) return undefined;
  const copy = (x: Element): Uint8Array => new Uint8Array(der.subarray(x.start, x.end));
  return { subject: copy(subject), publicKey: copy(key) };
}

const UTC_TIME = 0x17;
const GENERALIZED_TIME = 0x18;

/** When a certificate ends, out of the PEM text's bytes. */
export function notAfterMs(pem: Uint8Array): number | undefined {
  const der = derOf(pem);
  const validity = fieldsOf(der)[3];
  const end = validity === undefined ? undefined : children(der, validity)[1];
  if (end === undefined || (end.tag !== UTC_TIME && end.tag !== GENERALIZED_TIME)) return undefined;
  const match = /^(\d{2}|\d{4})(\d{2})(\d{2})(\d{2})(\d{2})(\d{2})Z$/.exec(ascii(der.subarray(end.body, end.end)));
  if (match === null) return undefined;
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = match.slice(1).map(Number);
  // Two digits are 1950 to 2049 (RFC 5280, 4.1.2.5.1).
  const full = end.tag === GENERALIZED_TIME ? year : year < 50 ? 2000 + year : 1900 + year;
  return Date.UTC(full, month - 1, day, hour, minute, second);
}

function ascii(bytes: Uint8Array): string {
  return bytes.reduce((text, byte) => text + String.fromCharCode(byte), '');
}

const BASE64 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';

/** The first certificate of a PEM text. */
function derOf(pem: Uint8Array): Uint8Array {
  const body = /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----/.exec(ascii(pem))?.[1] ?? '';
  const bytes: number[] = [];
  let bits = 0;
  let count = 0;
  for (const character of body.replace(/[=\s]/g, '')) {
    bits = ((bits << 6) | BASE64.indexOf(character)) & 0xfff;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes.push((bits >> count) & 0xff);
  }
  return Uint8Array.from(bytes);
}
