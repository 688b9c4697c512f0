// /images: list, inspect, load, import, remove. There is no registry client: a pull says what to do instead.

import type { ImageSummary } from '../../platform/executor.js';
import { compact, goTimeOfMs, nonEmpty, type JsonObject } from '../convert/json.js';
import { failure, notFound } from '../errors.js';
import type { Call, Route } from '../http.js';

export function imageRoutes(): Route[] {
  return [
    ['GET', '/images/json', list],
    ['POST', '/images/load', load],
    ['POST', '/images/create', createOne],
    ['POST', '/images/prune', (call) => call.reply(200, { ImagesDeleted: null, SpaceReclaimed: 0 })],
    ['GET', '/images/*', read],
    ['DELETE', '/images/*', remove],
    ['POST', '/images/*', () => {
      throw failure('unimplemented', 'tagging and pushing images is not supported by skein: tag before `docker load`, or '
        + 'name the image in `docker import`');
    }],
  ];
}

function labelsOf(image: ImageSummary): Record<string, string> {
  const labels = image.config.Labels;
  return typeof labels === 'object' && labels !== null ? labels as Record<string, string> : {};
}

/** Names with an implied tag, as Docker prints them. */
function withTag(reference: string): string {
  if (reference.includes('@') || /^(sha256:)?[0-9a-f]{12,64}$/.test(reference)) return reference;
  return reference.slice(reference.lastIndexOf('/') + 1).includes(':') ? reference : `${reference}:latest`;
}

function matchesReference(pattern: string, tag: string): boolean {
  const name = tag.slice(0, tag.lastIndexOf(':'));
  const glob = new RegExp(`^${pattern.replace(/[.+^${}()|[\]\\]/g, '\\$&').replaceAll('*', '[^/]*').replaceAll('?', '[^/]')}$`);
  return glob.test(tag) || glob.test(name);
}

async function list(call: Call): Promise<void> {
  const filters = call.filters('reference', 'dangling', 'label', 'before', 'since', 'until');
  const dangling = filters.flag('dangling');
  const images = (await call.backend.executor.images.list()).filter((image) =>
    (dangling === undefined || dangling === (image.repoTags.length === 0))
    && filters.labels('label', labelsOf(image))
    && (!filters.has('reference') || filters.get('reference')
      .some((pattern) => image.repoTags.some((tag) => matchesReference(pattern, tag)))));
  call.reply(200, [...images].sort((a, b) => b.createdMs - a.createdMs).map((image) => ({
    Id: image.id, ParentId: '', RepoTags: image.repoTags, RepoDigests: image.repoDigests,
    Created: Math.floor(image.createdMs / 1000), Size: image.sizeBytes, SharedSize: -1,
    Labels: nonEmpty(labelsOf(image)) ?? null,
    Containers: -1,
  })));
}

async function stream(call: Call, lines: readonly JsonObject[]): Promise<void> {
  call.startStream('application/json');
  for (const line of lines) await call.write(`${JSON.stringify(line)}\r\n`);
  call.end();
}

async function load(call: Call): Promise<void> {
  const names = await call.backend.executor.images.load(call.body());
  await call.backend.imagesChanged();
  await stream(call, names.map((name) => ({
    stream: name.startsWith('sha256:') ? `Loaded image ID: ${name}\n` : `Loaded image: ${name}\n`,
  })));
}

async function createOne(call: Call): Promise<void> {
  const image = call.query.get('fromImage') ?? '';
  const source = call.query.get('fromSrc') ?? '';
  if (image !== '') {
    const tag = call.query.get('tag') ?? '';
    const name = tag === '' ? image : `${image}${tag.includes(':') ? '@' : ':'}${tag}`;
    throw failure('unimplemented', `cannot pull ${name}: pulling from a registry is not supported yet. `
      + 'Bring the image with `docker load` or `docker import`');
  }
  if (source !== '-') {
    throw failure('invalid_argument', 'importing from a URL is not supported: pipe the tar into `docker import -`');
  }
  const repo = call.query.get('repo') ?? '';
  const tag = call.query.get('tag') ?? '';
  const id = await call.backend.executor.images.importTar(call.body(), {
    reference: repo === '' ? undefined : withTag(tag === '' ? repo : `${repo}:${tag}`),
    changes: call.query.getAll('changes').flatMap((text) => text.split('\n')).filter((text) => text !== ''),
    message: call.query.get('message') ?? '',
  });
  await call.backend.imagesChanged();
  await stream(call, [{ status: id }]);
}

async function read(call: Call): Promise<void> {
  const path = call.param('*');
  const at = path.lastIndexOf('/');
  const name = path.slice(0, at);
  const verb = path.slice(at + 1);
  if (at <= 0) throw failure('not_found', 'page not found');
  const image = await call.backend.executor.images.inspect(name);
  if (image === undefined) throw notFound(`No such image: ${withTag(name)}`);
  if (verb === 'json') call.reply(200, imageToJson(image));
  else if (verb === 'history') {
    call.reply(200, [{
      Id: image.id, Created: Math.floor(image.createdMs / 1000), CreatedBy: '', Tags: image.repoTags, Size: image.sizeBytes,
      Comment: '',
    }]);
  } else throw failure('not_found', 'page not found');
}

function imageToJson(image: ImageSummary): JsonObject {
  return compact({
    Id: image.id, RepoTags: image.repoTags, RepoDigests: image.repoDigests, Parent: '', Comment: '',
    Created: goTimeOfMs(image.createdMs), DockerVersion: '', Author: '', Config: image.config,
    Architecture: image.architecture, Os: image.os, Size: image.sizeBytes, VirtualSize: image.sizeBytes,
    GraphDriver: { Data: null, Name: 'overlay2' }, RootFS: { Type: 'layers', Layers: [] },
    Metadata: { LastTagTime: goTimeOfMs(undefined) },
  });
}

async function remove(call: Call): Promise<void> {
  const { executor } = call.backend;
  const name = call.param('*');
  const image = await executor.images.inspect(name);
  if (image === undefined) throw notFound(`No such image: ${withTag(name)}`);
  const last = image.repoTags.length <= 1;
  const user = (await executor.containers()).find((container) => container.imageId === image.id);
  if (user !== undefined && last && !call.flag('force')) {
    throw failure('already_exists', `conflict: unable to remove repository reference "${name}" (must force) - container `
      + `${user.id.slice(0, 12)} is using its referenced image ${image.id.replace('sha256:', '').slice(0, 12)}`);
  }
  await executor.images.remove(name);
  await call.backend.imagesChanged();
  const after = await executor.images.inspect(image.id);
  const gone = image.repoTags.filter((tag) => after?.repoTags.includes(tag) !== true);
  call.reply(200, [...gone.map((Untagged) => ({ Untagged })), ...(after === undefined ? [{ Deleted: image.id }] : [])]);
}
