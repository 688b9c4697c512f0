// `docker import --change`: Dockerfile instructions applied to an image's config.

import { AppFailure, appError } from '../../lib/result.js';

export type ImageConfig = Record<string, unknown>;

export function applyChanges(config: ImageConfig, changes: readonly string[]): void {
  for (const change of changes) {
    const match = /^\s*([A-Za-z]+)\s+([\s\S]*)$/.exec(change);
    if (match === null) throw new AppFailure(appError('invalid_argument', `dockerfile parse error: ${change}`));
    apply(config, (match[1] ?? '').toUpperCase(), (match[2] ?? '').trim());
  }
}

function apply(config: ImageConfig, instruction: string, rest: string): void {
  switch (instruction) {
    case 'CMD':
      config['Cmd'] = commandForm(rest);
      return;
    case 'ENTRYPOINT':
      config['Entrypoint'] = commandForm(rest);
      return;
    case 'ENV':
      config['Env'] = mergeEnv((config['Env'] as string[] | undefined) ?? [], pairs(rest).map(([key, value]) => `${key}=${value}`));
      return;
    case 'LABEL':
      config['Labels'] = { ...(config['Labels'] as object | undefined), ...Object.fromEntries(pairs(rest)) };
      return;
    case 'EXPOSE':
      config['ExposedPorts'] = {
        ...(config['ExposedPorts'] as object | undefined),
        ...Object.fromEntries(words(rest).map((port) => [port.includes('/') ? port : `${port}/tcp`, {}])),
      };
      return;
    case 'VOLUME':
      config['Volumes'] = { ...(config['Volumes'] as object | undefined), ...Object.fromEntries((jsonList(rest) ?? words(rest)).map((item) => [item, {}])) };
      return;
    case 'USER':
      config['User'] = rest;
      return;
    case 'WORKDIR':
      config['WorkingDir'] = rest.startsWith('/') ? rest : `${String(config['WorkingDir'] ?? '')}/${rest}`;
      return;
    case 'STOPSIGNAL':
      config['StopSignal'] = rest;
      return;
    case 'ONBUILD':
      config['OnBuild'] = [...((config['OnBuild'] as string[] | undefined) ?? []), rest];
      return;
    case 'HEALTHCHECK':
      config['Healthcheck'] = healthcheck(rest);
      return;
    default:
      throw new AppFailure(appError('invalid_argument', `${instruction} is not a valid change command`));
  }
}

function jsonList(text: string): string[] | undefined {
  if (!text.startsWith('[')) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return Array.isArray(value) && value.every((item) => typeof item === 'string') ? value : undefined;
  } catch {
    return undefined; // Dockerfiles take broken JSON as shell text.
  }
}

const commandForm = (text: string): string[] => jsonList(text) ?? ['/bin/sh', '-c', text];

/** Splits at blanks, keeping quoted parts together. */
function words(text: string): string[] {
  return [...text.matchAll(/(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+/g)].map((match) =>
    match[0].replace(/"((?:[^"\\]|\\.)*)"|'([^']*)'|\\(.)/g, (_, double?: string, single?: string, escaped?: string) =>
      double !== undefined ? double.replace(/\\(["\\$])/g, '$1') : (single ?? escaped ?? '')));
}

function pairs(text: string): [string, string][] {
  const first = text.split(/\s/, 1)[0] ?? '';
  // The old form `ENV key some value`.
  if (!first.includes('=')) return [[first, text.slice(first.length).trim()]];
  return words(text).map((word) => {
    const equals = word.indexOf('=');
    if (equals < 1) throw new AppFailure(appError('invalid_argument', `Syntax error - can't find = in "${word}". Must be of the form: name=value`));
    return [word.slice(0, equals), word.slice(equals + 1)];
  });
}

function healthcheck(text: string): ImageConfig {
  if (text.toUpperCase() === 'NONE') return { Test: ['NONE'] };
  const result: ImageConfig = {};
  const names: Record<string, string> = { interval: 'Interval', timeout: 'Timeout', 'start-period': 'StartPeriod', retries: 'Retries' };
  let rest = text;
  for (let match = /^--([a-z-]+)=(\S+)\s+/.exec(rest); match !== null; match = /^--([a-z-]+)=(\S+)\s+/.exec(rest)) {
    const name = names[match[1] ?? ''];
    if (name === undefined) throw new AppFailure(appError('invalid_argument', `unknown flag: --${match[1]}`));
    result[name] = name === 'Retries' ? Number(match[2]) : durationNs(match[2] ?? '');
    rest = rest.slice(match[0].length);
  }
  const command = rest.replace(/^CMD\s+/i, '');
  const list = jsonList(command);
  result['Test'] = list === undefined ? ['CMD-SHELL', command] : ['CMD', ...list];
  return result;
}

function durationNs(text: string): number {
  const units: Record<string, number> = { ns: 1, us: 1e3, ms: 1e6, s: 1e9, m: 60e9, h: 3600e9 };
  let total = 0;
  for (const match of text.matchAll(/([0-9.]+)(ns|us|ms|s|m|h)/g)) total += Number(match[1]) * (units[match[2] ?? ''] ?? 0);
  return Math.round(total);
}

/** Later values replace earlier ones of the same name, in place; a bare `NAME` removes it, as `docker run -e` does. */
export function mergeEnv(base: readonly string[], over: readonly string[]): string[] {
  const result = new Map<string, string>();
  for (const item of base) result.set(item.split('=', 1)[0] ?? '', item);
  for (const item of over) {
    const name = item.split('=', 1)[0] ?? '';
    if (item.includes('=')) result.set(name, item);
    else result.delete(name);
  }
  return [...result.values()];
}
