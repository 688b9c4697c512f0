// The language of test/data/raft/*.txt: blocks of commands, a line `----`, and what they print; blocks end with an empty
// line. Commands act on a group in memory (raft-env.ts) where nothing happens by itself. Output tells states, logs and
// messages, never wording of logs. `RAFT_REWRITE=1` writes what is printed now into the files.

import type { ConfChangeKind, Entry, Message, RaftStart } from '../../src/core/raft/types.js';
import { decodeConfChange } from '../../src/core/raft/confchange.js';
import { Group, Member, emptyDisk } from './raft-env.js';

type Command = (world: World, words: readonly string[]) => readonly string[];

interface World {
  group: Group;
}

const KEYWORDS = ['voters', 'learners', 'log', 'term', 'vote', 'commit', 'entries', 'inflight', 'bytes', 'uncommitted'];

/** Words by the keyword before them; those before any keyword under ''. */
function clauses(words: readonly string[]): Map<string, string[]> {
  const found = new Map<string, string[]>([['', []]]);
  let at = '';
  for (const word of words) {
    if (KEYWORDS.includes(word)) found.set(at = word, []);
    else found.get(at)?.push(word);
  }
  return found;
}

const ids = (words: readonly string[] | undefined): bigint[] => (words ?? []).map(BigInt);
const id = (word: string | undefined): bigint => BigInt(word ?? 'no id');

function limits(parts: Map<string, string[]>): Partial<RaftStart> {
  const number = (name: string): number | undefined => (parts.has(name) ? Number(parts.get(name)?.[0]) : undefined);
  const [inflightMax, appendBytesMax, uncommittedBytesMax] = [number('inflight'), number('bytes'), number('uncommitted')];
  return {
    ...(inflightMax === undefined ? {} : { inflightMax }),
    ...(appendBytesMax === undefined ? {} : { appendBytesMax }),
    ...(uncommittedBytesMax === undefined ? {} : { uncommittedBytesMax }),
  };
}

function makeGroup(world: World, words: readonly string[]): string[] {
  const parts = clauses(words);
  const voters = ids(parts.get(''));
  const learners = ids(parts.get('learners'));
  world.group = new Group([]);
  for (const member of [...voters, ...learners]) {
    world.group.members.set(member, new Member(member, emptyDisk(voters, learners), limits(parts)));
  }
  return [];
}

/** A member whose log holds entries of these terms. Without voters it waits to be added. */
function makeMember(world: World, words: readonly string[]): string[] {
  const parts = clauses(words);
  const [own] = ids(parts.get(''));
  const disk = emptyDisk(ids(parts.get('voters')), ids(parts.get('learners')));
  disk.entries = (parts.get('log') ?? []).map((term, i) =>
    ({ index: BigInt(i) + 1n, term: BigInt(term), kind: 'normal', data: Buffer.from(`${term}.${i + 1}`) }));
  const value = (name: string): bigint => BigInt(parts.get(name)?.[0] ?? 0);
  disk.hardState = { term: parts.has('term') ? value('term') : disk.entries.at(-1)?.term ?? 0n, vote: value('vote'), commit: value('commit') };
  world.group.members.set(own as bigint, new Member(own as bigint, disk, limits(parts)));
  world.group.mayBeStale = true;
  return [];
}

function matching(world: World, words: readonly string[]): Message[] {
  const matches = (message: Message, word: string): boolean => {
    const [from, to] = word.includes('>') ? word.split('>') : [undefined, undefined];
    if (from === undefined) return message.kind === word;
    return (from === '' || message.from === BigInt(from)) && (to === '' || message.to === BigInt(to ?? 0));
  };
  return world.group.queue.filter((message) => words.every((word) => matches(message, word)));
}

function take(world: World, words: readonly string[]): Message[] {
  const taken = matching(world, words);
  world.group.queue = world.group.queue.filter((message) => !taken.includes(message));
  return taken;
}

function chosen(world: World, words: readonly string[]): Member[] {
  return words.length === 0 ? [...world.group.members.values()] : ids(words).map((one) => world.group.get(one));
}

function settle(world: World, words: readonly string[]): string[] {
  const before = world.group.sent.length;
  world.group.settle();
  return words.includes('show') ? world.group.sent.slice(before).map(showMessage) : [];
}

const COMMANDS: Readonly<Record<string, Command>> = {
  group: makeGroup,
  member: makeMember,
  campaign: ({ group }, words) => { chosen({ group }, words).forEach((member) => member.raft.campaign()); return []; },
  elect: ({ group }, words) => { group.elect(id(words[0])); return []; },
  propose: ({ group }, [to, text]) => refusal(group.get(id(to)).raft.propose(Buffer.from(text ?? ''))),
  change: ({ group }, [to, kind, member]) =>
    refusal(group.get(id(to)).raft.proposeConfChange({ kind: kind as ConfChangeKind, member: id(member), context: new Uint8Array(0) })),
  tick: ({ group }, [count, ...words]) => {
    for (let i = 0; i < Number(count); i++) for (const member of chosen({ group }, words)) if (member.up) member.raft.tick();
    return [];
  },
  run: ({ group }, [count, ...words]) => { group.tick(Number(count), words.length === 0 ? undefined : ids(words)); return []; },
  work: ({ group }) => {
    const before = group.sent.length;
    group.work();
    return group.sent.slice(before).map(showMessage);
  },
  deliver: (world, words) => { take(world, words).forEach((message) => world.group.deliver(message)); return []; },
  repeat: (world, words) => { matching(world, words).forEach((message) => world.group.deliver(message)); return []; },
  drop: (world, words) => { take(world, words); return []; },
  settle,
  cut: ({ group }, words) => {
    for (const word of words) word.includes('>') ? group.cut.add(word) : group.isolate(id(word));
    return [];
  },
  heal: ({ group }) => { group.heal(); return []; },
  crash: ({ group }, words) => { ids(words).forEach((one) => group.crash(one)); return []; },
  restart: ({ group }, words) => { ids(words).forEach((one) => { group.crash(one); group.get(one).restart(); }); return []; },
  compact: ({ group }, [one, keep]) => { group.get(id(one)).compact(keep === undefined ? undefined : BigInt(keep)); return []; },
  read: ({ group }, [one, context]) => (group.get(id(one)).raft.readIndex(BigInt(context ?? 0)) ? [] : ['no leader to ask']),
  reads: ({ group }, words) => chosen({ group }, words).map((member) =>
    `${member.id}: ${member.reads.splice(0).map(({ context, index }) => `${context} at ${index}`).join(', ') || 'none'}`),
  transfer: ({ group }, [from, to]) => (group.get(id(from)).raft.transferLeader(id(to)) ? [] : ['refused']),
  suspect: ({ group }, [one, leader]) => { group.get(id(one)).raft.suspect(id(leader)); return []; },
  state: (world, words) => chosen(world, words).map(showState),
  log: (world, words) => chosen(world, words).map((member) => `${member.id}: ${showLog(member)}`),
  applied: (world, words) => chosen(world, words).map((member) => `${member.id}: ${member.applied.join(' ')}`.trimEnd()),
  progress: ({ group }, [one]) => group.get(id(one)).raft.status.progress.map((p) =>
    `${p.member}: ${p.state} match ${p.match} next ${p.next}${p.learner ? ' learner' : ''}`),
};

function refusal(proposed: { readonly ok: true } | { readonly ok: false; readonly refusal: string }): string[] {
  return proposed.ok ? [] : [`refused: ${proposed.refusal}`];
}

function showConf({ voters, learners }: { readonly voters: readonly bigint[]; readonly learners: readonly bigint[] }): string {
  return `voters ${voters.join(' ') || 'none'}${learners.length > 0 ? ` learners ${learners.join(' ')}` : ''}`;
}

function showState(member: Member): string {
  if (!member.up) return `${member.id}: down`;
  if (member.stale) return `${member.id}: stale`;
  const { role, term, leader, commit, last, activeConfState, confState } = member.raft.status;
  const lead = role === 'leader' ? '' : ` of ${leader === 0n ? 'nobody' : leader}`;
  const conf = showConf(activeConfState);
  const applied = showConf(confState) === conf ? '' : `, applied ${showConf(confState)}`;
  return `${member.id}: ${role}${lead}, term ${term}, commit ${commit}, last ${last}, ${conf}${applied}`;
}

function showEntry({ index, term, kind, data }: Entry): string {
  const change = kind === 'confChange' ? decodeConfChange(data) : undefined;
  const text = change === undefined ? Buffer.from(data).toString() : `(${change.kind} ${change.member})`;
  return `${index}/${term}${text === '' ? '' : `=${text}`}`;
}

/** On disk. */
function showLog({ disk }: Member): string {
  const snapshot = disk.snapshot.index > 0n ? [`snapshot ${disk.snapshot.index}/${disk.snapshot.term}`] : [];
  return [...snapshot, ...disk.entries.map(showEntry)].join(' ');
}

function showMessage(message: Message): string {
  const { from, to, kind, term, index, logTerm, entries, commit, reject, rejectHint, context, snapshot, transfer } = message;
  const parts = [`${from}>${to} ${kind} term ${term}`];
  if (kind === 'append') parts.push(`after ${index}/${logTerm}`, ...entries.map(showEntry), `commit ${commit}`);
  if (kind === 'vote' || kind === 'preVote') parts.push(`log ${index}/${logTerm}`);
  if (kind === 'appendResponse') parts.push(reject ? `refused ${index} hint ${rejectHint}/${logTerm}` : `has ${index}`);
  if (kind === 'voteResponse' || kind === 'preVoteResponse') parts.push(reject ? 'no' : 'yes');
  if (kind === 'heartbeat') parts.push(`commit ${commit}`);
  if (kind === 'readIndexResponse') parts.push(`index ${index}`);
  if (kind.startsWith('heartbeat') && context > 0n) parts.push(`round ${context}`);
  if (snapshot !== undefined) parts.push(`${snapshot.index}/${snapshot.term} ${showConf(snapshot.confState)}`);
  if (transfer) parts.push('transfer');
  return parts.join(' ');
}

interface Block {
  readonly before: readonly string[];
  readonly commands: readonly string[];
  readonly expected: string;
}

const isComment = (line: string): boolean => line.startsWith('#');

function parse(text: string): Block[] {
  return text.trim().split(/\n\s*\n/).map((part) => {
    const lines = part.split('\n');
    const at = lines.indexOf('----');
    const head = at === -1 ? lines : lines.slice(0, at);
    return {
      before: head.filter(isComment),
      commands: head.filter((line) => !isComment(line)),
      expected: at === -1 ? '' : lines.slice(at + 1).join('\n'),
    };
  });
}

function run(world: World, command: string): readonly string[] {
  const [name = '', ...words] = command.trim().split(/\s+/);
  const found = COMMANDS[name];
  if (found === undefined) throw new Error(`no command ${name}`);
  return found(world, words);
}

/** The scenario's text with what its commands print now. Blocks that print nothing have no `----`. */
export function play(text: string): string {
  const world: World = { group: new Group([]) };
  const blocks = parse(text).map(({ before, commands }) => {
    const printed = commands.flatMap((command) => run(world, command));
    return [...before, ...commands, ...(printed.length > 0 ? ['----', ...printed] : [])].join('\n');
  });
  return `${blocks.join('\n\n')}\n`;
}
