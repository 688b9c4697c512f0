// Which nodes have an image. A node that tells its images has just those (there is no registry to pull from); one
// that does not tell is a stock engine, which pulls.

import { NodeStatus_State, type Node } from '../../model/proto/swarmkit_pb.js';
import { formatReference, parseReference } from '../../model/image-reference.js';
import type { ReadTx } from './view.js';

export function nodeHasImage(node: Node, image: string): boolean {
  const images = node.description?.images;
  if (images === undefined) return true;
  return matches(new Set(images.references), image);
}

function matches(known: ReadonlySet<string>, image: string): boolean {
  if (known.has(image) || known.has(`sha256:${image}`)) return true;
  const reference = parseReference(image);
  if (reference === undefined) return false;
  const { name, tag, digest } = reference;
  if (digest !== undefined) return known.has(`${name}@${digest}`) || known.has(digest);
  if (known.has(`${name}:${tag}`)) return true;
  // A short id, as `docker image ls` prints it.
  return /^[0-9a-f]{12,64}$/.test(image) && [...known].some((one) => one.startsWith(`sha256:${image}`));
}

/** Some node that is there has it, or may have it; true also while no node is there to tell. */
export function imageIsSomewhere(view: ReadTx, image: string): boolean {
  const there = view.list('node').filter((node) => node.status?.state !== NodeStatus_State.DOWN);
  return there.length === 0 || there.some((node) => nodeHasImage(node, image));
}

export function displayReference(image: string): string {
  const reference = parseReference(image);
  return reference === undefined ? image : formatReference(reference);
}
