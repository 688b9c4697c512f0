// Text that is shown: bounded, and never cut within a character, because a half does not come back from its bytes as it was.

/** At most `units` UTF-16 code units from the start. */
export function cutText(text: string, units: number): string {
  return text.slice(0, units).replace(/[\uD800-\uDBFF]$/, '');
}
