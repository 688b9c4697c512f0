// Medians, quartiles and per-round ratios of samples.

/** `quartile` and `worst` are on the worse side: low for rates, high for times. */
export interface Summary {
  readonly median: number;
  readonly lowerQuartile: number;
  readonly worst: number;
}

export type Better = 'higher' | 'lower';

export function summarize(samples: readonly number[], better: Better): Summary {
  // Worst first.
  const sorted = [...samples].sort((a, b) => better === 'higher' ? a - b : b - a);
  return { median: round(quantile(sorted, 0.5)), lowerQuartile: round(quantile(sorted, 0.25)), worst: round(sorted[0] ?? 0) };
}

function quantile(sorted: readonly number[], part: number): number {
  const at = part * (sorted.length - 1);
  const low = sorted[Math.floor(at)] ?? 0;
  const high = sorted[Math.ceil(at)] ?? low;
  return low + (high - low) * (at - Math.floor(at));
}

/** Ratio of each round; rounds in which the peer has nothing are left out. */
export function ratios(ours: readonly number[], peer: readonly number[]): number[] {
  return ours.map((value, i) => value / (peer[i] ?? 0)).filter(Number.isFinite);
}

function round(value: number): number {
  return Number(value.toPrecision(5));
}
