// DockerImageStore: the Engine's own images, passed through.

import { Readable } from 'node:stream';
import type Docker from 'dockerode';
import { AppFailure, appError } from '../../lib/result.js';
import type { ImageStore, ImageSummary } from '../../platform/executor.js';
import { parseReference } from '../../model/image-reference.js';
import { call, callOrMissing, openStream, readMessages } from './engine.js';

export class DockerImageStore implements ImageStore {
  readonly #docker: Docker;
  constructor(docker: Docker) {
    this.#docker = docker;
  }

  async list(): Promise<readonly ImageSummary[]> {
    const images = await call(this.#docker.listImages());
    const found = await Promise.all(images.map((image) => this.inspect(image.Id)));
    return found.filter((image) => image !== undefined);
  }

  async inspect(reference: string): Promise<ImageSummary | undefined> {
    const image = await callOrMissing(this.#docker.getImage(reference).inspect());
    if (image === undefined) return undefined;
    return {
      id: image.Id,
      repoTags: image.RepoTags ?? [],
      repoDigests: image.RepoDigests ?? [],
      createdMs: Date.parse(image.Created) || 0,
      sizeBytes: image.Size,
      os: image.Os,
      architecture: image.Architecture,
      config: image.Config as unknown as Readonly<Record<string, unknown>>,
    };
  }

  async load(tar: AsyncIterable<Uint8Array>): Promise<readonly string[]> {
    const stream = await openStream(this.#docker, 'POST', '/images/load', new URLSearchParams({ quiet: '1' }), Readable.from(tar));
    const messages = await readMessages(stream);
    const text = messages.map((message) => String(message['stream'] ?? '')).join('');
    return [...text.matchAll(/^Loaded image(?: ID)?: (\S+)$/gm)].map((match) => match[1] ?? '');
  }

  async importTar(
    tar: AsyncIterable<Uint8Array>,
    options: { readonly reference: string | undefined; readonly changes: readonly string[]; readonly message: string },
  ): Promise<string> {
    const query = new URLSearchParams({ fromSrc: '-', message: options.message });
    if (options.reference !== undefined) {
      const parsed = parseReference(options.reference);
      if (parsed === undefined || parsed.digest !== undefined) throw new AppFailure(appError('invalid_argument', 'invalid reference format'));
      query.set('repo', parsed.name);
      query.set('tag', parsed.tag ?? 'latest');
    }
    for (const change of options.changes) query.append('changes', change);
    const messages = await readMessages(await openStream(this.#docker, 'POST', '/images/create', query, Readable.from(tar)));
    const id = messages.map((message) => String(message['status'] ?? '')).findLast((status) => status.startsWith('sha256:'));
    if (id === undefined) throw new AppFailure(appError('internal', 'the Docker Engine told no id for the imported image'));
    return id;
  }

  async remove(reference: string): Promise<boolean> {
    return (await callOrMissing(this.#docker.getImage(reference).remove())) !== undefined;
  }
}
