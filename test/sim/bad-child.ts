// For the pool's test: ends at seed 2, never answers at seed 5, and finds something at any other.

process.on('message', ({ seed }: { readonly seed: number }) => {
  if (seed === 2) process.exit(3);
  if (seed === 5) for (;;);
  process.send?.({ kind: 'violated', seed, name: 'Violation', message: 'found' });
});
process.on('disconnect', () => process.exit(0));
