// `skein backup` and `skein restore`: what they tell.

import { readFile } from 'node:fs/promises';
import { parseUnlockKey } from '../api/convert/unlock.js';
import { backUp, restore, type BackupReport } from '../daemon/backup.js';
import { AppFailure } from '../lib/result.js';

interface Options {
  readonly stateDir: string;
  readonly json: boolean;
  readonly unlockKeyFile?: string;
}

export async function backupCommand({ json, to, force, stateDir, unlockKeyFile }: Options & { to: string; force: boolean }): Promise<void> {
  const report = await backUp({ to, force, stateDir, unlockKey: await keyIn(unlockKeyFile) });
  console.log(json ? JSON.stringify(report, undefined, 2) : backupText(report));
}

export async function restoreCommand({ json, from, stateDir, unlockKeyFile }: Options & { from: string }): Promise<void> {
  const report = await restore({ from, stateDir, unlockKey: await keyIn(unlockKeyFile) });
  console.log(json ? JSON.stringify({ ...report, stateDir }, undefined, 2) : restoreText(report, stateDir));
}

/** From a file, since all processes of a machine show what they were started with. */
async function keyIn(file: string | undefined): Promise<Uint8Array | undefined> {
  if (file === undefined) return undefined;
  const refuse = (message: string): never => {
    throw new AppFailure({ code: 'invalid_argument', message });
  };
  const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => refuse(`cannot read ${file}: ${error.message}`));
  return parseUnlockKey(text.trim()) ?? refuse(`${file} holds no unlock key: it begins with SWMKEY-1-`);
}

function backupText({ file, bytes, files, nodeId, locked, lastIndex, certificateExpires }: BackupReport): string {
  return [
    `${file}: the swarm's state as manager ${nodeId} has it, ${files} files, ${bytes} bytes`
      + (lastIndex === '' ? '' : `, up to entry ${lastIndex} of the log, checked`),
    locked ? `The swarm is locked: a restored manager needs the unlock key. ${lastIndex === '' ? 'Keys and log are sealed and were not '
      + 'checked: --unlock-key-file does.' : 'The one given fits.'}`
      : 'The file holds the keys of this manager and all secrets of the swarm: keep it as you keep the state directory (mode 0600).',
    `The manager's certificate in it expires at ${certificateExpires}: make another backup before.`,
  ].join('\n');
}

function restoreText({ nodeId, managers, locked, lastIndex, madeAt, certificateExpires }: BackupReport, stateDir: string): string {
  const lines = [`${stateDir}: manager ${nodeId} as of ${madeAt}. Start the agent with --state-dir ${stateDir}.`];
  if (locked) lines.push('Its keys are sealed: then run "docker swarm unlock".');
  if (managers > 1) {
    lines.push(`It was one of ${managers} managers, and has forgotten what it told the others since: as one of them it does not start.`,
      'If they are lost, run "docker swarm init --force-new-cluster". If most of them run, join a new manager instead.');
  } else {
    lines.push('It was the only manager, and goes on alone: managers that joined after the backup are not in its swarm.',
      'If those run, do not start it, but join a new manager.');
    if (lastIndex === '') lines.push('Should its log, once unlocked, tell of other managers, "docker info" says what to do.');
  }
  if (Date.parse(certificateExpires) < Date.now()) lines.push(`Its certificate expired at ${certificateExpires}: it can only be left.`);
  return lines.join('\n');
}
