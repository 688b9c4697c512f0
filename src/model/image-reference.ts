// Image references: `name`, `name:tag`, `name@digest`, ids; docker.io/library/ is implied and not shown.

export interface ImageReference {
  /** As Docker shows it: without docker.io/ and library/. */
  readonly name: string;
  readonly tag: string | undefined;
  readonly digest: string | undefined;
}

const namePattern = /^[a-z0-9]+(?:(?:\.|_|__|-+|\/|:[0-9]+\/)[a-z0-9]+)*$/i;
const tagPattern = /^[\w][\w.-]{0,127}$/;

/** Undefined when the text is no reference. Without tag and digest the tag is `latest`. */
export function parseReference(text: string): ImageReference | undefined {
  if (text.length > 512) return undefined;
  const at = text.indexOf('@');
  const digest = at < 0 ? undefined : text.slice(at + 1);
  if (digest !== undefined && !/^sha256:[0-9a-f]{64}$/.test(digest)) return undefined;
  const rest = at < 0 ? text : text.slice(0, at);
  const colon = rest.lastIndexOf(':');
  const hasTag = colon > rest.lastIndexOf('/');
  const name = familiarName(hasTag ? rest.slice(0, colon) : rest);
  const tag = hasTag ? rest.slice(colon + 1) : undefined;
  if (!namePattern.test(name) || (tag !== undefined && !tagPattern.test(tag))) return undefined;
  return { name, tag: tag ?? (digest === undefined ? 'latest' : undefined), digest };
}

export function familiarName(name: string): string {
  return name.replace(/^(?:index\.)?docker\.io\//, '').replace(/^library\//, '');
}

export function formatReference(reference: ImageReference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`;
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`;
  return `${reference.name}${tag}${digest}`;
}
