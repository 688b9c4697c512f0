// Roots of a swarm that are given by a user or replace one another: what is accepted as a root and in which words
// anything else is refused (SwarmKit's), and the certificate by which the old root vouches for the new one.

import { createPrivateKey, createPublicKey, X509Certificate, type KeyObject } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import { fail, ok, type Result } from '../../lib/result.js';
import { authorityOf, newSerial, signingKey, withNewline, type KeyAndCertificate } from './certificates.js';

const YEAR_MS = 365 * 24 * 3_600_000;
const PEM_BYTES_MAX = 64 * 1024;
const RSA_BITS_MIN = 2048;
const RSA_BITS_MAX = 8192;
const CURVES = ['prime256v1', 'secp384r1', 'secp521r1'];
const HASHES = ['SHA-256', 'SHA-384', 'SHA-512'];

function refuse(message: string): Result<never> {
  return fail('invalid_argument', `rpc error: code = InvalidArgument desc = ${message}`);
}

/** Every PEM block anew, without headers and text around: equal certificates become equal bytes, as in SwarmKit. */
export function normalizePem(text: string): string {
  const blocks = text.matchAll(/-----BEGIN ([A-Z0-9 ]+)-----([\s\S]*?)-----END \1-----/g);
  return [...blocks].map(([, label, body]) => {
    const base64 = (body ?? '').replace(/^[^\n]*:.*$/gm, '').replace(/\s/g, '');
    const lines = base64.match(/.{1,64}/g) ?? [];
    return `-----BEGIN ${label}-----\n${lines.map((line) => `${line}\n`).join('')}-----END ${label}-----\n`;
  }).join('');
}

/** A root a user gives, with its key. The certificate comes back normalised. */
export function parseRoot(certificate: string, key: string, nowMs: number): Result<KeyAndCertificate> {
  if (certificate.length > PEM_BYTES_MAX || key.length > PEM_BYTES_MAX) return refuse('the desired CA certificate or key is too large');
  const normal = normalizePem(certificate);
  if (normal === '') return refuse('if a signing CA key is provided, the signing CA cert must also be provided');
  if (key === '') return refuse('there must be at least one valid, reachable external CA corresponding to the desired CA certificate');
  const count = normal.match(/-----BEGIN /g)?.length ?? 0;
  if (count > 1) return refuse('the desired CA certificate cannot contain multiple certificates');
  const parsed = tryParse(normal);
  if (parsed === undefined) return refuse('invalid root certificates: failed to parse certificate');
  const problem = rootProblem(parsed, nowMs) ?? keyProblem(parsed.certificate, key);
  if (problem !== undefined) return refuse(problem);
  if (Date.parse(parsed.certificate.validTo) < nowMs + YEAR_MS) return refuse('CA certificate expires too soon');
  return ok({ certificate: normal, key: withNewline(key) });
}

interface Parsed {
  readonly certificate: X509Certificate;
  readonly details: x509.X509Certificate;
}

function tryParse(pem: string): Parsed | undefined {
  try {
    return { certificate: new X509Certificate(pem), details: new x509.X509Certificate(pem) };
  } catch {
    return undefined; // Not a certificate: the user's text is what is wrong.
  }
}

function rootProblem({ certificate, details }: Parsed, nowMs: number): string | undefined {
  const { name, hash } = details.signatureAlgorithm as { readonly name: string; readonly hash?: { readonly name: string } };
  if (!HASHES.includes(hash?.name ?? '') || !['ECDSA', 'RSASSA-PKCS1-v1_5'].includes(name)) {
    return `unsupported signature algorithm: ${[hash?.name, name].filter((part) => part !== undefined).join(' with ')}`;
  }
  const invalid = (reason: string): string => `error while validating Root CA Certificate: x509: ${reason}`;
  if (nowMs < Date.parse(certificate.validFrom)) {
    return invalid(`certificate has expired or is not yet valid: current time ${goTime(nowMs)} is before ${goTime(Date.parse(certificate.validFrom))}`);
  }
  if (nowMs > Date.parse(certificate.validTo)) {
    return invalid(`certificate has expired or is not yet valid: current time ${goTime(nowMs)} is after ${goTime(Date.parse(certificate.validTo))}`);
  }
  if (certificate.subject !== certificate.issuer || !certificate.verify(certificate.publicKey)) return invalid('certificate signed by unknown authority');
  const usages = details.getExtension(x509.KeyUsagesExtension);
  if (!certificate.ca || (usages !== null && (usages.usages & x509.KeyUsageFlags.keyCertSign) === 0)) {
    return invalid('invalid signature: parent certificate cannot sign this kind of certificate');
  }
  if (details.getExtension(x509.BasicConstraintsExtension)?.pathLength === 0) {
    return 'the desired CA certificate has a path length of 0: it could sign no other one, and so never be rotated';
  }
  return undefined;
}

function goTime(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');
}

function keyProblem(certificate: X509Certificate, pem: string): string | undefined {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    return 'malformed private key'; // Encrypted, or none.
  }
  const publicKey = certificate.publicKey;
  const { modulusLength = 0, namedCurve = '' } = publicKey.asymmetricKeyDetails ?? {};
  if (publicKey.asymmetricKeyType === 'rsa') {
    if (modulusLength < RSA_BITS_MIN || modulusLength > RSA_BITS_MAX) return 'unsupported RSA key parameters';
  } else if (publicKey.asymmetricKeyType === 'ec') {
    if (!CURVES.includes(namedCurve)) return 'unsupported ECDSA key parameters';
  } else {
    return 'unknown or unsupported certificate public key algorithm';
  }
  return sameKeys(createPublicKey(key), publicKey) ? undefined : 'certificate key mismatch';
}

/** Whether two certificates are of one key. A chain over two of them does not validate: no root may follow its like. */
export function sameKey(one: string, other: string): boolean {
  return sameKeys(new X509Certificate(one).publicKey, new X509Certificate(other).publicKey);
}

/** Not KeyObject.equals: asked of keys of two kinds, it leaves an error behind that the next use of OpenSSL fails with (Node 20). */
function sameKeys(a: KeyObject, b: KeyObject): boolean {
  const der = (key: KeyObject): Buffer => key.export({ format: 'der', type: 'spki' });
  return der(a).equals(der(b));
}

/** The new root's certificate, signed by the old root: nodes that trust the old one accept what the new one signs. */
export async function crossSign(old: KeyAndCertificate, next: string): Promise<string> {
  const parent = new x509.X509Certificate(old.certificate);
  const root = new x509.X509Certificate(next);
  const signer = await signingKey(old.key);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: newSerial(),
    subject: root.subjectName,
    issuer: parent.subjectName,
    notBefore: root.notBefore,
    notAfter: root.notAfter,
    signingAlgorithm: signer.algorithm,
    publicKey: root.publicKey,
    signingKey: signer.key,
    extensions: [
      ...root.extensions.filter((extension) => !(extension instanceof x509.AuthorityKeyIdentifierExtension)),
      await authorityOf(parent),
    ],
  });
  return normalizePem(certificate.toString('pem'));
}
