// Certificates of a swarm: the root, node certificates out of CSRs, and what is checked of them.
// Subjects, lifetimes, usages and names follow SwarmKit's CA; see docs on the wire facts, section 1.3.

import 'reflect-metadata';
import { createHash, createPrivateKey, randomBytes, webcrypto, X509Certificate } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import { subjectAndKey, type SubjectAndKey } from '../../lib/der.js';
import { fail, ok, type Result } from '../../lib/result.js';

x509.cryptoProvider.set(webcrypto as never);

const EC = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const SIGNING = { name: 'ECDSA', hash: 'SHA-256' } as const;
const ROOT_LIFE_MS = 630_720_000_000;
const ROOT_BACKDATE_MS = 5 * 60_000;
const BACKDATE_MS = 60 * 60_000;
export const CERT_EXPIRY_DEFAULT_MS = 2160 * 60 * 60_000;
const CERT_EXPIRY_MIN_MS = 60 * 60_000;

export type NodeCertRole = 'swarm-manager' | 'swarm-worker';

export interface KeyAndCertificate {
  /** PEM, PKCS#8. */
  readonly key: string;
  /** PEM, exactly these bytes are stored and digested. */
  readonly certificate: string;
}

export interface NodeIdentity {
  readonly nodeId: string;
  readonly organization: string;
  readonly roles: readonly string[];
}

/** PEM with one final newline. */
export function withNewline(pem: string): string {
  return pem.endsWith('\n') ? pem : `${pem}\n`;
}

export function newSerial(): string {
  const bytes = randomBytes(20);
  // Positive and with a fixed length: newer Go refuses negative serials.
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

async function newKeys(): Promise<webcrypto.CryptoKeyPair> {
  return webcrypto.subtle.generateKey(EC, true, ['sign', 'verify']) as Promise<webcrypto.CryptoKeyPair>;
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key));
  return withNewline(x509.PemConverter.encode(der, 'PRIVATE KEY'));
}

const CURVES: Readonly<Record<string, readonly [curve: string, hash: string]>> = {
  prime256v1: ['P-256', 'SHA-256'], secp384r1: ['P-384', 'SHA-384'], secp521r1: ['P-521', 'SHA-512'],
};

export interface SigningKey {
  readonly key: webcrypto.CryptoKey;
  readonly algorithm: { readonly name: string; readonly hash: string };
}

/** The key of a root: of our own making, or a given one, RSA or ECDSA in any PEM form. The hash grows with the key. */
export async function signingKey(pem: string): Promise<SigningKey> {
  const key = createPrivateKey(pem);
  const der = key.export({ format: 'der', type: 'pkcs8' });
  const bits = key.asymmetricKeyDetails?.modulusLength;
  const [curve, curveHash] = CURVES[key.asymmetricKeyDetails?.namedCurve ?? ''] ?? ['P-256', 'SHA-256'];
  const algorithm = bits === undefined ? { name: 'ECDSA', hash: curveHash }
    : { name: 'RSASSA-PKCS1-v1_5', hash: bits >= 4096 ? 'SHA-512' : bits >= 3072 ? 'SHA-384' : 'SHA-256' };
  const parameters = bits === undefined ? { name: 'ECDSA', namedCurve: curve } : algorithm;
  return { key: await webcrypto.subtle.importKey('pkcs8', der, parameters, true, ['sign']) as webcrypto.CryptoKey, algorithm };
}

/** Names the key of a root as the root itself does: by this a chain is built where two roots have one name. */
export async function authorityOf(root: x509.X509Certificate): Promise<x509.AuthorityKeyIdentifierExtension> {
  const own = root.getExtension(x509.SubjectKeyIdentifierExtension);
  return own === null ? x509.AuthorityKeyIdentifierExtension.create(root.publicKey) : new x509.AuthorityKeyIdentifierExtension(own.keyId);
}

export async function createRootCa(nowMs: number): Promise<KeyAndCertificate> {
  const keys = await newKeys();
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(),
    name: 'CN=swarm-ca',
    notBefore: new Date(nowMs - ROOT_BACKDATE_MS),
    notAfter: new Date(nowMs - ROOT_BACKDATE_MS + ROOT_LIFE_MS),
    signingAlgorithm: SIGNING,
    keys,
    extensions: [
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      new x509.BasicConstraintsExtension(true, undefined, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { key: await exportKey(keys.privateKey), certificate: withNewline(certificate.toString('pem')) };
}

export async function createCsr(): Promise<{ readonly key: string; readonly csr: string }> {
  const keys = await newKeys();
  const csr = await x509.Pkcs10CertificateRequestGenerator.create({ name: '', keys, signingAlgorithm: SIGNING });
  return { key: await exportKey(keys.privateKey), csr: withNewline(csr.toString('pem')) };
}

export interface SignRequest {
  readonly csr: string;
  readonly nodeId: string;
  readonly organization: string;
  readonly role: NodeCertRole;
  readonly expiryMs: number;
  readonly nowMs: number;
}

/** What signs certificates; `intermediate` follows each: see core/ca/rotation.ts. */
export interface Signer extends KeyAndCertificate {
  readonly intermediate?: string;
}

/** Issues a node certificate. Only key and signature are taken from the CSR. */
export async function signCsr(root: Signer, request: SignRequest): Promise<Result<string>> {
  const csr = await parseCsr(request.csr);
  if (!csr.ok) return csr;
  const issuer = new x509.X509Certificate(root.certificate);
  const signer = await signingKey(root.key);
  const expiryMs = request.expiryMs < CERT_EXPIRY_MIN_MS ? CERT_EXPIRY_DEFAULT_MS : request.expiryMs;
  const notBefore = Math.floor((request.nowMs - BACKDATE_MS) / 60_000) * 60_000;
  const names = request.role === 'swarm-manager'
    ? ['swarm-manager', request.nodeId, 'swarm-ca'] : ['swarm-worker', request.nodeId];
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: newSerial(),
    subject: `O=${request.organization},OU=${request.role},CN=${request.nodeId}`,
    // Not as text: other bytes than the root's own would break the chain.
    issuer: issuer.subjectName,
    notBefore: new Date(notBefore),
    notAfter: new Date(notBefore + BACKDATE_MS + expiryMs),
    signingAlgorithm: signer.algorithm,
    publicKey: csr.value.publicKey,
    signingKey: signer.key,
    extensions: [
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature | x509.KeyUsageFlags.keyEncipherment, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      new x509.BasicConstraintsExtension(false, undefined, true),
      await x509.SubjectKeyIdentifierExtension.create(csr.value.publicKey),
      await authorityOf(issuer),
      new x509.SubjectAlternativeNameExtension(names.map((value) => ({ type: 'dns' as const, value }))),
    ],
  });
  return ok(withNewline(certificate.toString('pem')) + (root.intermediate ?? ''));
}

async function parseCsr(pem: string): Promise<Result<x509.Pkcs10CertificateRequest>> {
  try {
    const csr = new x509.Pkcs10CertificateRequest(pem);
    if (await csr.verify()) return ok(csr);
  } catch {
    // Whatever the parser disliked, the caller's request is what is wrong.
  }
  return fail('invalid_argument', 'certificate signing request is not valid');
}

/** SHA-256 of the PEM bundle's exact bytes, in base36, 50 characters: the digest part of a join token. */
export function rootDigest(pem: string): string {
  const hex = createHash('sha256').update(pem).digest('hex');
  return BigInt(`0x${hex}`).toString(36).padStart(50, '0');
}

export function joinToken(rootPem: string, secret: string): string {
  return `SWMTKN-1-${rootDigest(rootPem)}-${secret}`;
}

/** Digest and secret of a join token, or Docker's words on what is wrong with it. */
export function parseJoinToken(token: string): Result<{ readonly digest: string; readonly secret: string }> {
  const parts = token.split('-');
  const [prefix, version, digest, secret] = parts;
  if (parts.length !== 4 || prefix !== 'SWMTKN' || version !== '1' || !/^[0-9a-z]{50}$/.test(digest ?? '') || !/^[0-9a-z]{25}$/.test(secret ?? '')) {
    return fail('invalid_argument', 'invalid join token');
  }
  return ok({ digest: digest as string, secret: secret as string });
}

export function identityOf(certificate: X509Certificate): NodeIdentity | undefined {
  const fields = certificate.subject.split('\n').map((line) => line.split('=') as [string, string]);
  const value = (name: string): string | undefined => fields.find(([key]) => key === name)?.[1];
  const nodeId = value('CN');
  const organization = value('O');
  const roles = fields.filter(([key]) => key === 'OU').map(([, role]) => role);
  if (nodeId === undefined || organization === undefined || roles.length === 0) return undefined;
  return { nodeId, organization, roles };
}

/** Whether the leaf of a PEM bundle is issued for the role. */
export function isIssuedFor(pem: string, role: NodeCertRole): boolean {
  const leaf = bundle(pem)[0];
  return leaf !== undefined && identityOf(leaf)?.roles.includes(role) === true;
}

/** Certificates of a PEM bundle, leaf first. */
export function bundle(pem: string): X509Certificate[] {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? [];
  return blocks.map((block) => new X509Certificate(block));
}

function tryBundle(pem: string): X509Certificate[] {
  try {
    return bundle(pem);
  } catch {
    return []; // Not a certificate between the markers.
  }
}

/** When the first certificate of the PEM text ends to be valid; undefined without one. */
export function expiryOf(pem: string): number | undefined {
  const leaf = tryBundle(pem)[0];
  return leaf === undefined ? undefined : Date.parse(leaf.validTo);
}

/** Whether the first certificate of the PEM text is of this private key. */
export function isKeyOf(keyPem: string, pem: string): boolean {
  try {
    return tryBundle(pem)[0]?.checkPrivateKey(createPrivateKey(keyPem)) === true;
  } catch {
    return false; // Not a key.
  }
}

/** Undefined, or why a certificate does not count now, in SwarmKit's words. */
function outOfTime(certificate: X509Certificate, position: number, nowMs: number): string | undefined {
  const goDate = (ms: number): string => new Date(ms).toUTCString().replace('GMT', 'UTC');
  const from = Date.parse(certificate.validFrom);
  const to = Date.parse(certificate.validTo);
  if (from <= nowMs && nowMs <= to) return undefined;
  const bound = nowMs < from ? `not valid before ${goDate(from)}` : `not valid after ${goDate(to)}`;
  const name = certificate.subject.split('\n').find((line) => line.startsWith('CN='))?.slice(3) ?? '';
  return `certificate (${position + 1} - ${name}) ${bound}, and it is currently ${goDate(nowMs)}: `
    + 'x509: certificate has expired or is not yet valid (check this machine\'s clock)';
}

/**
 * Checks an issued bundle as a SwarmKit node does: dates, chain, root. What follows the leaf counts where no root issued
 * the leaf itself: a bundle of a root rotation is good for the old root and for the new one.
 */
export function checkIssued(pem: string, rootPem: string, nowMs: number): Result<NodeIdentity> {
  const chain = tryBundle(pem);
  const leaf = chain[0];
  if (leaf === undefined) return fail('invalid_argument', 'no certificate in the answer');
  const roots = tryBundle(rootPem);
  for (const [position, certificate] of chain.entries()) {
    const late = outOfTime(certificate, position, nowMs);
    if (late !== undefined) return fail('invalid_argument', late);
    if (roots.some((root) => issued(root, certificate))) break;
    const parent = chain[position + 1];
    if (parent === undefined || !issued(parent, certificate)) return fail('permission_denied',
      'x509: certificate signed by unknown authority');
  }
  const identity = identityOf(leaf);
  return identity === undefined ? fail('invalid_argument', 'certificate has no node identity') : ok(identity);
}

function issued(parent: X509Certificate, certificate: X509Certificate): boolean {
  return parent.ca && certificate.verify(parent.publicKey);
}

/** DER of subject and public key of a root. */
export function rootInfo(rootPem: string): SubjectAndKey | undefined {
  const root = tryBundle(rootPem)[0];
  return root === undefined ? undefined : subjectAndKey(root.raw);
}

/** DER of the issuer's subject and public key of a node's certificate, as NodeTLSInfo carries them. */
export function issuerInfo(pem: string, rootPem: string): SubjectAndKey | undefined {
  const [leaf, intermediate] = tryBundle(pem);
  if (leaf === undefined) return undefined;
  const parent = [...(intermediate === undefined ? [] : [intermediate]), ...tryBundle(rootPem)].find((root) => issued(root, leaf));
  return parent === undefined ? undefined : subjectAndKey(parent.raw);
}
