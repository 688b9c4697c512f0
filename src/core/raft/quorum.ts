// Majorities. A set without voters decides nothing: no index, no vote won.

export type VoteResult = 'pending' | 'won' | 'lost';

export function majority(count: number): number {
  return Math.floor(count / 2) + 1;
}

/** The highest value that a majority of the voters has reached (paper, 5.3 and 5.4). */
export function quorumIndex(voters: readonly bigint[], reached: (member: bigint) => bigint): bigint {
  if (voters.length === 0) return 0n;
  const values = voters.map(reached).sort((a, b) => (a < b ? 1 : a > b ? -1 : 0));
  return values[majority(voters.length) - 1] as bigint;
}

/** Votes of others than the voters do not count. */
export function voteResult(voters: readonly bigint[], votes: ReadonlyMap<bigint, boolean>): VoteResult {
  if (voters.length === 0) return 'pending';
  const granted = voters.filter((member) => votes.get(member) === true).length;
  const refused = voters.filter((member) => votes.get(member) === false).length;
  if (granted >= majority(voters.length)) return 'won';
  return voters.length - refused >= majority(voters.length) ? 'pending' : 'lost';
}
