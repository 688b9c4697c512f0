// The user of a task: `user[:group]` as names or numbers, looked up in the image's own passwd and group files.

import { AppFailure, appError } from '../../lib/result.js';
import { readText, scopedPath } from './files.js';

export interface TaskUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
  readonly home: string;
}

const maxAccountFileBytes = 4 * 1024 * 1024;
const maxId = 0x7fffffff;

export async function resolveUser(root: string, user: string, groups: readonly string[]): Promise<TaskUser> {
  const passwd = await accounts(root, '/etc/passwd');
  const group = await accounts(root, '/etc/group');
  const [userPart = '', groupPart = ''] = user.split(':', 2);
  const found = findUser(passwd, userPart);
  let gid = found.gid;
  const additional: number[] = [];
  if (groupPart !== '') {
    gid = findGroup(group, groupPart);
  } else {
    // Supplementary groups count only when no group was named.
    for (const line of group) {
      const members = (line[3] ?? '').split(',');
      if (found.name !== '' && members.includes(found.name)) additional.push(Number(line[2]));
    }
  }
  for (const name of groups) additional.push(findGroup(group, name));
  return { uid: found.uid, gid, additionalGids: [...new Set(additional)].filter((id) => id !== gid), home: found.home };
}

async function accounts(root: string, file: string): Promise<string[][]> {
  const text = await readText(await scopedPath(root, file), maxAccountFileBytes);
  return (text ?? '').split('\n').filter((line) => line !== '' && !line.startsWith('#')).map((line) => line.split(':'));
}

function findUser(passwd: readonly string[][], user: string): { uid: number; gid: number; name: string; home: string } {
  const wanted = user === '' ? '0' : user;
  const line = passwd.find((fields) => fields[0] === wanted || fields[2] === wanted);
  if (line !== undefined) return { uid: Number(line[2]), gid: Number(line[3]), name: line[0] ?? '', home: line[5] || '/' };
  if (isId(wanted)) return { uid: Number(wanted), gid: 0, name: '', home: wanted === '0' ? '/root' : '/' };
  throw new AppFailure(appError('invalid_argument', `unable to find user ${user}: no matching entries in passwd file`));
}

function findGroup(group: readonly string[][], name: string): number {
  const line = group.find((fields) => fields[0] === name || fields[2] === name);
  if (line !== undefined) return Number(line[2]);
  if (isId(name)) return Number(name);
  throw new AppFailure(appError('invalid_argument', `unable to find group ${name}: no matching entries in group file`));
}

function isId(text: string): boolean {
  return /^[0-9]+$/.test(text) && Number(text) <= maxId;
}
