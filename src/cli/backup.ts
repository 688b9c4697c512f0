// `skein backup` and `skein restore`: what they tell.

import { backUp, restore, type BackupReport, type BackupRequest } from '../daemon/backup.js';

export async function backupCommand({ json, ...request }: BackupRequest & { readonly json: boolean }): Promise<void> {
  const report = await backUp(request);
  console.log(json ? JSON.stringify(report, undefined, 2) : backupText(report));
}

export async function restoreCommand({ json, from, stateDir }: { json: boolean; from: string; stateDir: string }): Promise<void> {
  const report = await restore({ from, stateDir });
  console.log(json ? JSON.stringify({ ...report, stateDir }, undefined, 2) : restoreText(report, stateDir));
}

function backupText({ file, bytes, files, nodeId, locked, lastIndex, certificateExpires }: BackupReport): string {
  return [
    `${file}: the swarm's state as manager ${nodeId} has it, ${files} files, ${bytes} bytes`
      + (locked ? '' : `, up to entry ${lastIndex} of the log, checked`),
    locked ? 'The swarm is locked: keys and log are sealed, so they could not be checked, and a restored manager needs the unlock key.'
      : 'The file holds the keys of this manager and all secrets of the swarm: keep it as you keep the state directory (mode 0600).',
    `The manager's certificate in it expires at ${certificateExpires}: make another backup before.`,
  ].join('\n');
}

function restoreText({ nodeId, managers, locked, madeAt, certificateExpires }: BackupReport, stateDir: string): string {
  const lines = [`${stateDir}: manager ${nodeId} as of ${madeAt}. Start the agent with --state-dir ${stateDir}.`];
  if (locked) lines.push('Its keys are sealed: then run "docker swarm unlock".');
  if (managers > 1) {
    lines.push(`It was one of ${managers} managers. If the others are lost, run "docker swarm init --force-new-cluster" then.`,
      'If a majority of them still runs, do not start this one: it has forgotten what it told them. Join a new manager instead.');
  }
  if (Date.parse(certificateExpires) < Date.now()) lines.push(`Its certificate expired at ${certificateExpires}: it can only be left.`);
  return lines.join('\n');
}
